"""Keys that come faster than screens open and close, as from a paste, a script, or over a slow line."""

import pytest
from textual import events

from app.tui.app import LatticeApp
from app.tui.screens.dialogs import Ask, Choose, StartDialog
from app.tui.screens.help import Help
from app.tui.screens.home import HomeScreen
from app.tui.screens.run import RunScreen


def type_at_once(screen, *keys: str) -> None:
    """Hands the application all keys before it looks at the first."""
    for key in keys:
        screen.app.post_message(events.Key(key, key if len(key) == 1 else None))


def stack(screen) -> list[type]:
    return [type(each) for each in screen.app.screen_stack[1:]]


@pytest.mark.parametrize("dialog, opens", [("slash", Ask), ("e", Ask), ("o", Choose), ("question_mark", Help)])
def test_a_dialog_that_is_answered_twice_leaves_the_run_screen(use, recorded, runs_dir, dialog, opens):
    async def look(screen):
        await screen.shows("finished")
        await screen.press(dialog)
        await screen.until(lambda: isinstance(screen.app.screen, opens) and screen.app.focused)
        type_at_once(screen, "enter", "enter", "enter")
        await screen.until(lambda: stack(screen) == [RunScreen])

        await screen.press(dialog)
        await screen.until(lambda: isinstance(screen.app.screen, opens))
        opened = screen.app.screen
        opened.dismiss(None)
        opened.dismiss(None)
        await screen.until(lambda: stack(screen) == [RunScreen])
        await screen.press("2")
        assert screen.app.screen.current == "Text"

    use(LatticeApp(runs_dir, recorded), (100, 40), look)


def test_what_is_typed_with_the_key_that_opens_a_dialog_is_its_answer(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("finished")
        type_at_once(screen, "slash", "f", "o", "x", "enter", "enter")
        await screen.until(lambda: stack(screen) == [RunScreen] and screen.app.screen.text.wanted == "fox")
        type_at_once(screen, "e", "backspace", "backspace", "e", "backspace", "2", "5", "enter", "enter")
        await screen.shows("decode.every = 25: refused, the run is finished")
        type_at_once(screen, "W", "w", "w", "escape", "question_mark", "q")
        await screen.pilot.pause()
        await screen.until(lambda: stack(screen) == [RunScreen])
        assert len(screen.app.screen._commands) == 1

    use(LatticeApp(runs_dir, recorded), (140, 40), look)


def test_a_paste_right_after_the_key_that_opens_a_dialog_is_taken(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("finished")
        type_at_once(screen, "slash")
        screen.app.post_message(events.Paste("a fox"))
        type_at_once(screen, "enter", "enter")
        await screen.until(lambda: stack(screen) == [RunScreen] and screen.app.screen.text.wanted == "a fox")

    use(LatticeApp(runs_dir, recorded), (100, 40), look)


def test_escape_many_times_goes_home_and_no_further(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("finished")
        type_at_once(screen, *["escape"] * 5)
        await screen.until(lambda: stack(screen) == [HomeScreen])
        type_at_once(screen, "tab", "enter", "enter")
        await screen.until(lambda: stack(screen) == [HomeScreen, RunScreen])
        type_at_once(screen, "escape", "escape", "escape")
        await screen.until(lambda: stack(screen) == [HomeScreen])

    use(LatticeApp(runs_dir, recorded), (100, 40), look)


def test_enter_twice_on_a_preset_asks_once(use, runs_dir):
    async def look(screen):
        type_at_once(screen, "enter", "enter")
        await screen.until(lambda: stack(screen) == [HomeScreen, StartDialog])
        await screen.press("escape")
        await screen.until(lambda: stack(screen) == [HomeScreen])

    use(LatticeApp(runs_dir), (100, 40), look)
