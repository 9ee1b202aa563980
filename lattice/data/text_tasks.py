"""Two tasks on any text: `denoise` repairs a sentence, `continue` finds the rest of one.

Both make a pair of a clean sentence after it has been put on the training or the held-out side, so that a held-out sentence is
trained on in no other form.
"""

from __future__ import annotations

from random import Random

from lattice.data.pair import Pair

NOISE = 0.1
"""Share of characters that are damaged unless data.noise says otherwise."""

FEWEST_WORDS = 4
"""Words of the shortest sentence that has a first and a second half."""


def denoise(sentence: str, noise: float, seed: int) -> Pair:
    """A sentence with noise, and the sentence.  Seed and sentence decide the noise, so it is the same in every pass.

    Every character but spaces is damaged with the probability `noise`, in one of four ways: it is dropped, doubled, swapped
    with the character after it (the last one with the one before), or replaced by another character of the sentence.  A
    sentence of which nothing would be left stays as it is.
    """
    rng = Random(f"denoise/{seed}/{sentence}")
    others = [character for character in dict.fromkeys(sentence) if character != " "]
    out: list[str] = []
    at = 0
    while at < len(sentence):
        character = sentence[at]
        at += 1
        if character == " " or rng.random() >= noise:
            out.append(character)
            continue
        match int(rng.random() * 4):
            case 0:
                pass
            case 1:
                out += [character, character]
            case 2 if at < len(sentence):
                out += [sentence[at], character]
                at += 1
            case 2:
                out.insert(max(0, len(out) - 1), character)
            case _:
                different = [other for other in others if other != character] or [character]
                out.append(different[int(rng.random() * len(different))])
    return Pair(" ".join("".join(out).split()) or sentence, sentence)


def continuation(sentence: str) -> Pair | None:
    """The first half of a sentence's words and the second half; the middle word of an odd number belongs to the first.

    None if there are fewer than FEWEST_WORDS words.
    """
    words = sentence.split()
    if len(words) < FEWEST_WORDS:
        return None
    half = (len(words) + 1) // 2
    return Pair(" ".join(words[:half]), " ".join(words[half:]))


def clean(pair: Pair, task: str) -> str:
    """The text that a pair of a `data.task` was made of, by which training and held-out text are kept apart."""
    match task:
        case "denoise":
            return pair.target
        case "continue":
            return f"{pair.source} {pair.target}"
        case _:
            return pair.source
