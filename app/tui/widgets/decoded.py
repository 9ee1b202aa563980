"""What the lattice made of held-out sentences: each answer stands under the sentence that was right."""

from __future__ import annotations

import difflib

from rich.text import Text
from textual.reactive import reactive

from app import formats
from app.tui.snapshot import Look, View
from app.tui.widgets.panel import Panel, wrapped
from monitors.text_safety import printable

LEAD = 9
"""Width of what stands in front of each line: the number of right words, or the sentence's BLEU."""


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
    """One look of the monitor: its scores, then the reference and the answer of each sample.

    The reference has the number of words that came back in front of it, the answer its BLEU.
    """
    best = ", best so far" if look.best else ""
    head = f"step {formats.count(look.step)}  BLEU {formats.score(look.bleu)}  chrF {formats.score(look.chrf)}"
    rule = "-" if plain else "─"
    made = [Text(f"{rule * 2} {head}{best} ".ljust(width, rule), "bold green" if look.best else "bold")]
    for sample in look.samples:
        reference, said, right = compared(sample.reference, sample.said, plain)
        leads = f"{right[0]}/{right[1]}", "" if sample.bleu is None else formats.score(sample.bleu)
        texts = [Text.assemble((f"{leads[0]:>5}    ", "dim"), reference), Text.assemble((f"{leads[1]:>5} -> ", "dim"), said)]
        for text in texts:
            if wanted:
                text.highlight_words([wanted], "reverse", case_sensitive=False)
            made += wrapped(text, width, TextPanel.indent)
    return made


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
