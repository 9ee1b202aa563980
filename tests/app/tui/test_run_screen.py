"""The run screen on a recorded run, panel by panel and key by key; and the rows it draws from a fixed view."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.tui.app import LatticeApp
from app.tui.snapshot import View
from app.tui.widgets.decoded import compared
from app.tui.widgets.memory import stacked
from monitors.runs import RunFolder

ROWS = Path(__file__).with_name("rows")


def still(view: View, **options: object) -> LatticeApp:
    """An app that shows this view and reads nothing."""
    return LatticeApp(Path("/runs"), RunFolder(Path(view.folder)), plain=options.pop("plain", False), still=view, **options)


def check_rows(name: str, rows: list[str]) -> None:
    """Compares with the stored file; with UPDATE_ROWS=1 it is written instead, to be read before it is committed."""
    path, text = ROWS / f"{name}.txt", "\n".join(rows) + "\n"
    if os.environ.get("UPDATE_ROWS"):
        ROWS.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_screen_as_rows(use, fixed_view, size):
    async def look(screen):
        await screen.shows("step 40/60", "loss", *(("peak",) if size[0] > 100 else ()))
        check_rows(f"run-{size[0]}x{size[1]}", screen.rows)

    use(still(fixed_view), size, look)


INSIDE = {"2": "-> She feeds", "3": "disk left", "4": "engine RSS", "7": "stage grow"}
"""What only the panel of each key shows."""


@pytest.mark.parametrize("key", INSIDE)
def test_each_panel_alone_as_rows_at_80x24(use, fixed_view, key):
    async def look(screen):
        await screen.shows("step 40/60")
        await screen.press(key)
        await screen.shows(INSIDE[key])
        check_rows(f"panel-{key}-80x24", screen.rows)

    use(still(fixed_view), (80, 24), look)


@pytest.mark.parametrize(("key", "word"), [("1", "exact answers"), ("2", "after each word")])
def test_panels_of_a_run_on_a_bundled_task_alone_as_rows_at_80x24(use, task_view, key, word):
    async def look(screen):
        await screen.shows("step 100/1,000", "exact 62.5%")
        await screen.press(key)
        await screen.shows(word)
        assert "BLEU" not in screen.text
        check_rows(f"task-{key}-80x24", screen.rows)

    use(still(task_view), (80, 24), look)


@pytest.mark.parametrize(("key", "word"), [("5", "silhouette"), ("6", "fan-in")])
def test_panels_of_self_organisation_alone_as_rows_at_80x24(use, lit_view, key, word):
    async def look(screen):
        await screen.shows("step 40/60")
        await screen.press(key)
        await screen.shows(word)
        check_rows(f"panel-{key}-80x24", screen.rows)

    use(still(lit_view), (80, 24), look)


def test_the_screen_of_a_self_organising_run_as_rows(use, lit_view):
    async def look(screen):
        await screen.shows("step 40/60", "silhouette", "potentiated")
        check_rows("lit-200x60", screen.rows)

    use(still(lit_view), (200, 60), look)


@pytest.mark.parametrize("size", [(160, 50), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_plain_drawing_uses_ascii_only(use, lit_view, size):
    async def look(screen):
        await screen.shows("step 40/60", "loss", "silhouette", "potentiated")
        assert screen.text.isascii(), {character for character in screen.text if not character.isascii()}

    use(still(lit_view, plain=True), size, look)


@pytest.mark.parametrize("size", [(80, 24), (100, 33), (160, 50), (250, 70)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_row_is_longer_than_the_terminal_and_hostile_text_stays_text(use, fixed_view, size):
    async def look(screen):
        await screen.shows("step 40/60")
        await screen.press("2")
        await screen.shows(r"A \x1b[31mred\x1b[0m [bold]word[/bold]")
        assert len(screen.rows) == size[1] and all(len(row) <= size[0] for row in screen.rows)

    use(still(fixed_view), size, look)


def test_without_colour_the_screen_still_draws(use, fixed_view, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    async def look(screen):
        await screen.shows("step 40/60", "loss")
        assert screen.app.no_color

    use(still(fixed_view), (160, 50), look)


def test_curve_keys_change_scale_smoothing_window_and_curve(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("loss", "all steps")
        await screen.press("l", "s", "w")
        await screen.shows("last 1000 steps, log, smooth")
        await screen.press("m")
        await screen.until(lambda: "held-out loss" in screen.rows[2])

    use(LatticeApp(runs_dir, recorded), (80, 24), look)


def test_history_is_walked_with_arrows_home_and_end(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("step 20/20")
        await screen.press("home")
        await screen.shows("REPLAY 0%", "step 0/20")
        await screen.press("right", "right", "right", "right", "right")
        await screen.until(lambda: "REPLAY 0%" not in screen.text and "REPLAY" in screen.text)
        await screen.press("plus", "plus", "plus", "plus", "space")
        await screen.until(lambda: "REPLAY" not in screen.text and "step 20/20" in screen.text)
        await screen.press("left")
        await screen.shows("REPLAY")
        await screen.press("end")
        await screen.until(lambda: "REPLAY" not in screen.text)

    use(LatticeApp(runs_dir, recorded), (80, 24), look)


def test_text_scrolls_back_and_searches(use, fixed_view):
    async def look(screen):
        await screen.press("2")
        await screen.shows("step 40", "‹kitten›")
        newest = screen.text
        await screen.press("pageup")
        assert screen.text != newest
        await screen.press("pagedown")
        assert screen.text == newest
        await screen.press("slash")
        await screen.press(*"attic")
        await screen.press("enter")
        await screen.shows("/attic: 8 lines")
        await screen.press("n")
        first = screen.text
        await screen.press("N", "N")
        assert screen.text != first

    use(still(fixed_view), (80, 12), look)


def test_freezing_holds_the_panels_while_the_reading_goes_on(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("step 20/20", "all steps")
        await screen.press("f")
        await screen.shows("FROZEN")
        await screen.press("home")
        await screen.shows("REPLAY 0%")
        assert screen.app.screen.view.snapshot.step == 20
        await screen.press("f")
        await screen.shows("nothing measured yet")

    use(LatticeApp(runs_dir, recorded), (80, 24), look)


def test_zoom_and_the_mouse_choose_panels(use, fixed_view):
    async def look(screen):
        await screen.shows("1 Curves", "4 Memory")
        await screen.pilot.click("#memory")
        assert screen.app.screen.current == "Memory"
        await screen.press("z")
        await screen.until(lambda: "7 Log |" not in screen.text and screen.text.count("╭") + screen.text.count("┏") == 1)
        await screen.press("z")
        await screen.shows("1 Curves", "4 Memory")

    use(still(fixed_view), (160, 50), look)


def test_help_and_palette_come_from_the_table_of_keys(use, fixed_view):
    from app.tui.keys import RUN

    async def look(screen):
        await screen.press("question_mark")
        await screen.until(lambda: all(key.does in screen.text for key in RUN))
        await screen.press("escape")
        commands = [command.title for command in screen.app.get_system_commands(screen.app.screen)]
        assert "Steering: save a checkpoint" in commands and len(commands) == len(RUN) - 1

    use(still(fixed_view), (120, 70), look)


def test_a_finished_run_refuses_commands_and_is_left_without_a_question(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("step 20/20")
        await screen.press("d")
        await screen.shows("decode: refused, the run is finished")
        await screen.press("q")
        await screen.until(lambda: not screen.app.is_running)

    use(LatticeApp(runs_dir, recorded), (80, 24), look)


def test_differing_words_are_marked_in_more_than_colour():
    reference, said, right = compared("the cat sat down", "the dog sat", plain=False)
    assert said.plain == "the ‹dog› sat" and right == (2, 4)
    assert reference.plain == "the cat sat down"
    assert [reference.plain[span.start : span.end] for span in reference.spans if "underline" in str(span.style)] == [
        "cat",
        "down",
    ]
    assert compared("a", "b", plain=True)[1].plain == "[b]"
    assert compared("a", "", plain=True)[1].plain == "(nothing)"


def test_the_stacked_bar_never_rounds_past_its_end():
    for sizes in ([1, 1, 1], [999, 1], [5], [0, 7]):
        for width in (10, 31):
            text = stacked(sizes, 1000, width).plain
            assert len(text) == width and text[0] == "[" and text[-1] == "]"
    assert stacked([500, 500], 1000, 12).plain == "[aaaaabbbbb]"
