"""What the lattice made of held-out sentences: each answer stands under the sentence that was right, or beside it.

If sentences are questions, each stands above its answers.  If they are read in time, a look ends with what would be answered
after each word of one of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.reactive import reactive

from app import formats
from app.tui.snapshot import Look, View
from app.tui.widgets.panel import Panel, wrapped
from monitors.events import AfterWord
from monitors.text_safety import printable

LEAD = 9
"""Width of what stands in front of each line: a word, the number of right words, or the sentence's BLEU."""

GAP = 3
"""Columns between two answers in one line."""


class TextPanel(Panel):
    heading = "Text"
    sticks_to_end = True
    indent = LEAD

    wanted: reactive[str] = reactive("", repaint=False)

    def __init__(self, number: int, id: str | None = None) -> None:
        super().__init__(number, id)
        self._looks: dict[tuple[int, int, bool, str, int], list[Text]] = {}
        self._at = -1

    def watch_wanted(self) -> None:
        self._looks.clear()
        self._at = -1
        self.remake()

    def note(self) -> str:
        if not self.wanted:
            return ""
        count = len(self.matches())
        return f"/{self.wanted}: {count} line{'' if count == 1 else 's'}" if count else f"/{self.wanted}: not found"

    def lines(self, view: View, width: int) -> list[Text]:
        looks = view.snapshot.looks
        if not looks:
            every = f"every {view.config.decode.every} steps" if view.config else "every few steps"
            return [Text(f"nothing decoded yet; the monitor looks {every}")]
        made: list[Text] = []
        kept: dict[tuple[int, int, bool, str, int], list[Text]] = {}
        for look in looks:
            key = (look.step, width, self.plain, self.wanted, id(look))
            kept[key] = self._looks.get(key) or look_lines(look, width, self.plain, self.wanted)
            made += kept[key]
        self._looks = kept
        return made

    def matches(self) -> list[int]:
        wanted = self.wanted.casefold()
        return [i for i, line in enumerate(self._made) if wanted and wanted in line.plain.casefold()]

    def find(self, direction: int) -> bool:
        """Scrolls to the match after the one found last, or before it if `direction` is negative.  False if there is none."""
        matches = self.matches()
        if not matches:
            return False
        if direction > 0:
            self._at = next((line for line in matches if line > self._at), matches[0])
        else:
            self._at = next((line for line in reversed(matches) if line < self._at), matches[-1])
        self.show_line(self._at)
        return True


def look_lines(look: Look, width: int, plain: bool, wanted: str = "") -> list[Text]:
    """One look of the monitor: its scores, its samples, and the answers after each word if it has them."""
    best = ", best so far" if look.best else ""
    score = formats.judged(look.measure, look.bleu, look.exact)
    head = f"step {formats.count(look.step)}  {score}  chrF {formats.score(look.chrf)}"
    rule = "-" if plain else "─"
    made = [Text(f"{rule * 2} {head}{best} ".ljust(width, rule), "bold green" if look.best else "bold")]
    texts = [Text.assemble(("question ", "dim"), printable(sample.source)) for sample in look.samples]
    answers = judged_lines(look, width, plain) if look.measure == "exact" else scored_lines(look, plain)
    texts = [text for both in zip(texts, answers, strict=True) for text in (both[0],) * look.has_questions + both[1]]
    for text in [*texts, *after_each_word(look.after_each_word, width, plain)]:
        if wanted:
            text.highlight_words([wanted], "reverse", case_sensitive=False)
        made += wrapped(text, width, TextPanel.indent)
    return made


def scored_lines(look: Look, plain: bool) -> list[tuple[Text, ...]]:
    """The lines of each sample of a run that is judged by BLEU: its reference, and its answer.

    The reference has the number of words that came back in front of it, the answer its BLEU.
    """
    made: list[tuple[Text, ...]] = []
    for sample in look.samples:
        reference, said, right = compared(sample.reference, sample.said, plain)
        leads = f"{right[0]}/{right[1]}", "" if sample.bleu is None else formats.score(sample.bleu)
        lines = Text.assemble((f"{leads[0]:>5}    ", "dim"), reference), Text.assemble((f"{leads[1]:>5} -> ", "dim"), said)
        made.append(lines)
    return made


def judged_lines(look: Look, width: int, plain: bool) -> list[tuple[Text, ...]]:
    """The lines of each sample of a run that is judged by exact answers: what is right, and what was said.

    Both share a line if there is room for all samples of the look.
    """
    pairs = []
    for sample in look.samples:
        right, said, _ = compared(sample.reference, sample.said, plain)
        pairs.append((right, said, mark(sample.said == sample.reference, plain)))
    widest = max((right.cell_len for right, _, _ in pairs), default=0)
    longest = max((said.cell_len for _, said, _ in pairs), default=0)
    side_by_side = LEAD + widest + GAP + len("said ✓ ") + longest <= width
    made: list[tuple[Text, ...]] = []
    for right, said, sign in pairs:
        first, second = Text.assemble(("   right ", "dim"), right), Text.assemble(("said ", "dim"), sign, " ", said)
        if side_by_side:
            gap = " " * (widest - right.cell_len + GAP)
            made.append((Text.assemble(first, gap, second),))
        else:
            made.append((first, Text.assemble("  ", second)))
    return made


def mark(right: bool | None, plain: bool) -> Text:
    """A sign for a right answer and one for a wrong one; a blank if it is not known which it is."""
    if right is None:
        return Text(" ")
    return Text("+" if plain else "✓", "green") if right else Text("x" if plain else "✗", "bold red")


def after_each_word(answers: Sequence[AfterWord], width: int, plain: bool) -> list[Text]:
    """A heading, then each word of a sentence with what would be answered if it ended there, as many in a line as there is room
    for."""
    if not answers:
        return []
    known = [answer.right for answer in answers if answer.right is not None]
    count = f": {sum(known)} of {len(known)} right" if len(known) > 1 else ""
    words = [printable(answer.word) for answer in answers]
    said = [Text(printable(answer.said)) if answer.said else Text("(nothing)", "dim") for answer in answers]
    longest, widest = max(map(cell_len, words)), max(text.cell_len for text in said)
    cell = longest + 3 + widest
    across = max(1, (width - LEAD + GAP) // (cell + GAP))
    lines = [Text(f"after each word, the answer if the sentence ended there{count}", "bold")]
    for start in range(0, len(answers), across):
        line = Text(" " * LEAD)
        for i in range(start, min(start + across, len(answers))):
            line.append(words[i].ljust(longest) + " ", "dim").append_text(mark(answers[i].right, plain)).append(" ")
            line.append_text(said[i]).append(" " * (widest - said[i].cell_len + GAP))
        line.rstrip()
        lines.append(line)
    return lines


def compared(reference: str, said: str, plain: bool) -> tuple[Text, Text, tuple[int, int]]:
    """Both sides with the differing words marked; and the number of the reference's words that were said, and of all its words.

    A word of the reference that was not said is underlined.  A word that was said instead stands in brackets and in colour, so
    that a terminal without colour shows it, too.
    """
    wanted, got = printable(reference).split(), printable(said).split()
    blocks = difflib.SequenceMatcher(None, wanted, got, autojunk=False).get_matching_blocks()
    right = sum(block.size for block in blocks)
    kept_a = {block.a + i for block in blocks for i in range(block.size)}
    kept_b = {block.b + i for block in blocks for i in range(block.size)}
    a, b = Text(" ").join(_marked(wanted, kept_a, "underline", "", "")), Text("(nothing)", "dim")
    if got:
        b = Text(" ").join(_marked(got, kept_b, "bold red", *("[]" if plain else "‹›")))
    return a, b, (right, len(wanted))


def _marked(words: list[str], kept: set[int], style: str, left: str, right: str) -> list[Text]:
    return [Text(word) if i in kept else Text(f"{left}{word}{right}", style) for i, word in enumerate(words)]
