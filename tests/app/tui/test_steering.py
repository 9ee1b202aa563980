"""Keys that change a run, against a real engine that trains meanwhile."""

from __future__ import annotations

from app.tui.app import LatticeApp
from app.tui.screens.steered import WOUNDS
from monitors.event_log import read_events
from monitors.events import Edited, Trained
from monitors.runs import state_of
from presets import wound


def edits(folder) -> list[str]:
    return [event.command for event in read_events(folder.events_jsonl).events if isinstance(event, Edited)]


def test_steering_a_run_from_the_keys(use, live):
    async def steer(screen):
        await screen.shows("running", "loss")

        await screen.press("e")
        await screen.shows("Decode every so many steps")
        await screen.press("backspace", *"0", "enter")
        await screen.shows("a whole number, at least 1")
        await screen.press("backspace", *"40", "enter")
        await screen.shows("decode.every = 40: applied at step")

        await screen.press("r")
        await screen.shows("Peak learning rate")
        await screen.press("backspace", *"0.001", "enter")
        await screen.shows("optimizer.learning_rate = 0.001: applied at step")

        await screen.press("p")
        await screen.shows("pause: applied at step", "paused")
        paused_at = screen.app.screen.view.snapshot.step
        await screen.press("c", "d")
        await screen.shows("decode: applied at step", "checkpoint: applied at step")
        await screen.until(lambda: screen.app.screen.view.snapshot.saved)
        assert screen.app.screen.view.snapshot.step == paused_at
        await screen.press("p")
        await screen.shows("resume: applied at step", "running")

        await screen.press("o")
        await screen.shows("consolidation")
        await screen.press("c")
        await screen.shows("stages.0.profile = consolidation: applied at step")
        await screen.press("y")
        await screen.shows("Share of connections pruned")
        await screen.press("backspace", *"0.5", "enter")
        await screen.shows("stages.0.sparsity = 0.5: applied at step")
        await screen.press("O")
        await screen.shows("Rate of the plasticity rule")
        await screen.press("backspace", *"0.005", "enter")
        await screen.shows("plasticity.rate = 0.005: applied at step")
        await screen.press("h", "H")
        await screen.shows("hold this stage: applied", "release this stage: applied")
        await screen.press("H")
        await screen.shows("refused, stage 0 is not held")

        await screen.press("b")
        await screen.shows("heal: refused, the lattice has no wound")
        await screen.press("W")
        await screen.shows("Destroy a part of the lattice", "70 % of all connections", "back: leave the lattice whole")
        await screen.press("down", "enter")
        await screen.shows("wound connections:0.3: applied at step")
        await screen.press("b")
        await screen.shows("heal: applied at step")

        await screen.press("g")
        await screen.shows("1 grow, 6x6x8 cells")
        await screen.press("enter")
        await screen.shows("go to stage 1: applied at step")
        await screen.until(lambda: screen.app.screen.view.snapshot.stage == 1)

        await screen.press("q")
        await screen.shows("detach: leave, the run goes on")
        await screen.press("s")
        await screen.until(lambda: not screen.app.is_running)

    use(LatticeApp(live.path.parent, live), (130, 40), steer)
    done = ["set", "set", "pause", "checkpoint", "decode", "resume", *["set"] * 3, "stage hold", "stage release"]
    assert edits(live) == [*done, "wound connections:0.3", "heal neighbours", "stage goto", "stop"]
    log = read_events(live.events_jsonl).events
    steps = [event.step for event in log if isinstance(event, Trained)]
    assert steps == list(range(1, len(steps) + 1))


def test_the_screen_offers_wounds_that_there_are():
    assert [str(wound.parse(text)) for text in WOUNDS] == list(WOUNDS)


def test_steering_a_run_with_the_mouse_alone(use, live):
    async def click(screen, words: str) -> None:
        await screen.shows(words)
        y = next(y for y, row in enumerate(screen.rows) if words in row)
        await screen.pilot.click(offset=(screen.rows[y].index(words) + 1, y))

    async def steer(screen):
        await screen.shows("running", "loss")
        await click(screen, "d decode")
        await screen.shows("decode: applied at step")
        await click(screen, "p pause")
        await screen.shows("pause: applied at step", "paused")
        await click(screen, "p pause")
        await screen.shows("resume: applied at step")
        await click(screen, "x stop")
        await click(screen, "stop: save a checkpoint and end")
        await screen.shows("stop: applied at step")

    use(LatticeApp(live.path.parent, live), (130, 40), steer)
    assert edits(live) == ["decode", "pause", "resume", "stop"]


def test_detaching_leaves_the_run_alone_and_read_only_changes_nothing(use, live):
    async def look(screen):
        await screen.shows("running", "read-only", "loss")
        await screen.press("p", "d", "x", "c", "W", "b")
        await screen.pilot.pause()
        await screen.press("q")
        await screen.shows("detach: leave")
        assert "stop: save" not in screen.text
        await screen.press("d")
        await screen.until(lambda: not screen.app.is_running)

    use(LatticeApp(live.path.parent, live, read_only=True), (80, 24), look)
    assert state_of(live) == "running" and edits(live) == []
