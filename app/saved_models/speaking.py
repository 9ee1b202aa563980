"""The bodies of `evaluate` and `decode`: run a saved model on a text file, or on one text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from rich.cells import cell_len, set_cell_size

from app import formats
from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.run_process.prepare import choose_device
from app.saved_models.opening import open_run
from lattice.data.batches import Sentences
from lattice.data.corpus import pairs_to_score
from lattice.data.pair import DataError
from lattice.data.tasks.named import held_out_task
from lattice.data.tasks.task import WordTask
from lattice.data.tokenizer import pad
from lattice.model.text_lattice import CONTROLS
from lattice.observing.after_each_word import MOST_CHARACTERS, SoFar, after_each_word
from lattice.observing.scoring import evaluate
from monitors.text_safety import printable
from presets.measure import measure_on


def evaluate_run(run: str, data: Path, control: str, best: bool, device: str, runs_dir: Path | None, as_json: bool) -> None:
    """Scores a run on the sentences of `data` and prints the scores.

    Raises Stop if the model or the data can't be read, or if `control` is unknown or says nothing of this model.
    """
    if control not in CONTROLS:
        raise Stop(ExitCode.USAGE, f"--control: {control!r} is not one of {', '.join(CONTROLS)}")
    opened = open_run(find_run(runs_dir, run), choose_device(device), best)
    if control == "bypass" and opened.model.lattice is None:
        arm = opened.config.lattice.arm
        raise Stop(ExitCode.USAGE, f"--control: there are no messages to bypass with lattice.arm = {arm}; use none or shuffled")
    left_out: dict[str, int] = {}
    notes: list[str] = []
    try:
        pairs = pairs_to_score(data, opened.config, left_out, notes)
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    if control == "shuffled" and len(pairs) < 2:
        raise Stop(ExitCode.USAGE, f"{data}: --control shuffled needs at least two sentences")
    with torch.no_grad():
        sentences = Sentences(pairs, opened.tokenizer, opened.config.text.max_tokens)
        quality, said = evaluate(opened.model, sentences, opened.tokenizer, opened.chunk, control)
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    for reason, count in left_out.items():
        print(f"note: {count} sentences are left out: {reason}", file=sys.stderr)
    for cut in sentences.cuts("scored"):
        print(f"note: {cut}", file=sys.stderr)
    fields = {"bleu": quality.bleu, "chrf": quality.chrf, "exact": quality.exact, "count": quality.count}
    measure = measure_on(str(data))
    if as_json:
        print(json.dumps(fields | {"measure": measure, "signature": quality.signature, "control": control}))
        return
    for pair, text in list(zip(pairs, said, strict=True))[:5]:
        question = "" if sentences.same else f"  {printable(pair.source)}\n  = "
        print(f"{question or '  '}{printable(pair.target)}\n  -> {printable(text)}")
    chrf, exact = f"chrF {formats.score(quality.chrf)}", f"exact {quality.exact:.1%}"
    scores = f"BLEU {formats.score(quality.bleu)}  {chrf}  {exact}" if measure == "bleu" else f"{exact}  {chrf}"
    print(f"{scores}  on {formats.count(quality.count)} sentences, control {control}, step {opened.progress.step}")
    if measure == "bleu":
        print(quality.signature)


def decode_text(run: str, text: str, each_word: bool, best: bool, device: str, runs_dir: Path | None, as_json: bool) -> None:
    """Prints what comes back for one text; if `each_word`, what comes back for the text up to each of its words.

    Raises Stop if the model can't be opened.
    """
    target = choose_device(device)
    opened = open_run(find_run(runs_dir, run), target, best)
    words = text.split()
    tokens = opened.tokenizer.encode([" ".join(words)])[0]
    limit = opened.config.text.max_tokens
    said = opened.tokenizer.decode(opened.model.say(pad([tokens[:limit]]).to(target)))[0]
    cut = max(0, len(tokens) - limit)
    task = held_out_task(opened.config.data)

    def right(beginning: str) -> str | None:
        return task.answer_so_far(beginning) if task is not None else None

    so_far: list[SoFar] = []
    if each_word:
        so_far = after_each_word(opened.model, opened.tokenizer, words, right, limit, opened.chunk)
    if as_json:
        fields = {"text": text, "said": said, "tokens": len(tokens), "cut": cut, "step": opened.progress.step}
        print(json.dumps(fields | ({"after_each_word": [answer._asdict() for answer in so_far]} if each_word else {})))
        return
    for line in _lines(so_far) if each_word else [printable(said)]:
        print(line)
    if each_word and not so_far:
        print(f"note: the first word alone has more than text.max_tokens = {limit} tokens, so no word is told", file=sys.stderr)
    elif each_word and isinstance(task, WordTask) and (unknown := [word for word in words if word not in task.alphabet]):
        word = printable(unknown[0]) if len(unknown[0]) <= MOST_CHARACTERS else f"{printable(unknown[0][:MOST_CHARACTERS])}..."
        print(f"note: '{word}' is no word of task:{task.name}; what is right from there on is not known", file=sys.stderr)
    if cut:
        print(
            f"note: the text has {len(tokens)} tokens; the last {cut} are beyond text.max_tokens = {limit} and were cut",
            file=sys.stderr,
        )


def _lines(so_far: list[SoFar]) -> list[str]:
    """A line per word: the word, the answer up to there, and whether it is right if that is known."""
    rows = [(printable(answer.word), printable(answer.said) or "(nothing)", answer) for answer in so_far]
    word_width = max((cell_len(word) for word, _, _ in rows), default=0)
    said_width = max((cell_len(said) for _, said, _ in rows), default=0)
    lines = []
    for word, said, answer in rows:
        told = "right" if answer.said == answer.right else f"wrong: {answer.right}"
        line = f"{set_cell_size(word, word_width)}  {set_cell_size(said, said_width)}"
        lines.append((line if answer.right is None else f"{line}  {told}").rstrip())
    return lines
