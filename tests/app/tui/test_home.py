"""The home screen: presets, runs, and the way into a run."""

from __future__ import annotations

import pytest
from textual import events
from textual.widgets import Input

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.tui.app import LatticeApp
from app.tui.screens.dialogs import StartDialog, number_in, wrong_data, wrong_steps
from app.tui.screens.run import RunScreen
from lattice.data.pair import DataError
from lattice.data.reading import read_pairs
from presets.layers import preset_names
from presets.plan import plan


@pytest.fixture
def large_is_too_big(monkeypatch):
    """As it is where only the compiled kernel runs."""
    monkeypatch.setattr("app.tui.screens.home.planning.here", lambda config: plan(config, "compiled"))


def test_it_shows_presets_with_their_memory_and_the_runs_there_are(use, recorded, runs_dir, large_is_too_big):
    async def look(screen):
        memory = formats.bytes_(plan(configure.load("baseline", None, []).config, "compiled")[0].total_bytes)
        await screen.shows(recorded.name, "finished", "baseline", "16x16x16", memory, "24 GB", "too big")

    use(LatticeApp(runs_dir), (80, 24), look)


def test_enter_on_a_run_attaches_and_escape_comes_back(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows(recorded.name)
        await screen.press("tab", "enter")
        await screen.shows("step 20/20", "all steps")
        assert isinstance(screen.app.screen, RunScreen)
        await screen.press("escape")
        await screen.shows("preset", recorded.name)

    use(LatticeApp(runs_dir), (80, 24), look)


def test_without_runs_it_says_so(use, tmp_path):
    async def look(screen):
        await screen.shows("No runs yet in")

    use(LatticeApp(tmp_path / "none"), (120, 30), look)


def test_the_dialog_says_what_the_preset_learns_from_if_nothing_is_typed(use, runs_dir):
    async def look(screen):
        await screen.press("down", "enter")
        await screen.until(lambda: isinstance(screen.app.screen, StartDialog))
        await screen.shows("Start a run of walker", "empty = task:house")

    use(LatticeApp(runs_dir), (80, 24), look)


def test_starting_checks_the_data_and_gives_the_options_to_the_engine(use, recorded, runs_dir, sentences, monkeypatch):
    launched = []

    def launch(arguments, place):
        launched.append((arguments, place))
        return recorded

    monkeypatch.setattr("app.run_process.launch.launch", launch)

    async def look(screen):
        await screen.press("enter")
        await screen.until(lambda: isinstance(screen.app.screen, StartDialog))
        await screen.shows("empty = the bundled corpus")
        screen.app.screen.query_one("#data", Input).value = "/no/such/file.txt"
        await screen.press("enter")
        await screen.shows("/no/such/file.txt does not exist")
        screen.app.screen.query_one("#data", Input).value = str(sentences)
        screen.app.screen.query_one("#steps", Input).value = "1"
        await screen.press("enter")
        await screen.shows("at least 2")
        screen.app.screen.query_one("#steps", Input).value = "50"
        await screen.press("enter")
        await screen.until(lambda: isinstance(screen.app.screen, RunScreen))
        assert launched == [(["--preset", "tiny", "--data", str(sentences), "--steps", "50"], runs_dir)]

    use(LatticeApp(runs_dir), (80, 24), look)


def test_an_engine_that_refuses_is_quoted(use, runs_dir, monkeypatch):
    def launch(arguments, place):
        raise Stop(ExitCode.USAGE, "no [bold]text[/bold] in it")

    monkeypatch.setattr("app.run_process.launch.launch", launch)

    async def look(screen):
        await screen.press("enter")
        await screen.until(lambda: isinstance(screen.app.screen, StartDialog))
        await screen.press("enter")
        await screen.until(lambda: screen.app._notifications)
        (told,) = screen.app._notifications
        assert told.message == "no [bold]text[/bold] in it" and not told.markup

    use(LatticeApp(runs_dir), (80, 24), look)


def test_a_preset_that_is_too_big_asks_first_and_read_only_starts_nothing(use, runs_dir, large_is_too_big):
    async def look(screen):
        await screen.press(*["down"] * preset_names().index("large"), "enter")
        await screen.shows("does not fit", "start it all the same")

    use(LatticeApp(runs_dir), (120, 30), look)

    async def look_only(screen):
        await screen.press("enter")
        await screen.pilot.pause()
        assert not isinstance(screen.app.screen, StartDialog)

    use(LatticeApp(runs_dir, read_only=True), (120, 30), look_only)


def test_help_lists_the_keys(use, runs_dir):
    async def look(screen):
        await screen.press("question_mark")
        await screen.shows("start the preset, or attach to the run")

    use(LatticeApp(runs_dir), (80, 24), look)


def test_keys_typed_ahead_of_a_slow_screen_are_taken_in_their_order(use, runs_dir, monkeypatch):
    def launch(arguments, place):
        launched.append(arguments)
        raise Stop(ExitCode.USAGE, "not now")

    launched: list[list[str]] = []
    monkeypatch.setattr("app.run_process.launch.launch", launch)

    async def look(screen):
        await screen.press("enter")
        await screen.until(lambda: isinstance(screen.app.screen, StartDialog) and screen.app.focused)
        for key in ("x", "backspace", "tab", "1", "9", "backspace", "backspace", "4", "0", "enter"):
            screen.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await screen.until(lambda: launched)

    use(LatticeApp(runs_dir), (80, 24), look)
    assert launched == [["--preset", "tiny", "--steps", "40"]]


def test_a_task_is_started_by_its_name_and_completed(use, recorded, runs_dir, monkeypatch):
    launched: list[list[str]] = []

    def launch(arguments, place):
        launched.append(arguments)
        return recorded

    monkeypatch.setattr("app.run_process.launch.launch", launch)

    async def look(screen):
        await screen.press("enter")
        await screen.until(lambda: isinstance(screen.app.screen, StartDialog) and screen.app.focused)
        field = screen.app.screen.query_one("#data", Input)
        field.value = "task:rob"
        assert await field.suggester.get_suggestion("task:rob") == "task:robot"
        assert await field.suggester.get_suggestion("task:robs") is None
        await screen.press("enter")
        await screen.shows("there is no task 'rob'")
        field.value = "task:robot,words=4-9"
        await screen.press("enter")
        await screen.until(lambda: isinstance(screen.app.screen, RunScreen))

    use(LatticeApp(runs_dir), (80, 24), look)
    assert launched == [["--preset", "tiny", "--data", "task:robot,words=4-9"]]


@pytest.mark.parametrize("name", ["a.json", "a.JSONL", "a.ndjson", "a.txt", "a.TXT", "a", "a.md", "a.tsv.gz", "a.csv"])
@pytest.mark.parametrize(
    "content",
    [b'{"source": "a"}\n{"source": "b"}\n', b"one\ntwo\n", "one\n".encode("utf-16"), b"\0\5\x16\7"],
    ids=["json", "plain", "utf-16", "macos"],
)
def test_the_screen_refuses_the_names_and_contents_that_the_command_refuses(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        assert list(read_pairs(path, "reconstruct"))
    except DataError as error:
        if "JSON object like" not in str(error):  # what a line lacks is found when it is read
            assert wrong_data(str(path)) == str(error)
    else:
        assert wrong_data(str(path)) == ""


def test_a_path_is_told_wrong_before_an_engine_starts(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.pdf").write_text("%PDF-1.7 x")
    (tmp_path / "none").mkdir()
    assert wrong_data("") == ""
    assert "is empty" in wrong_data(str(tmp_path / "empty.txt"))
    assert "is the beginning of a PDF" in wrong_data(str(tmp_path / "a.pdf"))
    assert "holds no" in wrong_data(str(tmp_path / "none"))
    (tmp_path / "none" / "deep").mkdir()
    (tmp_path / "none" / "deep" / "b.TXT.gz").write_bytes(b"x")
    assert wrong_data(str(tmp_path)) == wrong_data(str(tmp_path / "none")) == ""
    assert r"\x1b" in wrong_data("/\x1b[2J")
    assert wrong_data("task:lift,words=4-9") == ""
    assert "did you mean 'lift'?" in wrong_data("task:lfit") and "is no range" in wrong_data("task:lift,words=x")
    assert r"\x1b" in wrong_data("task:lift,words=\x1b[2J")
    assert wrong_steps("", 2) == wrong_steps("2", 2) == "" and wrong_steps("1", 2) and wrong_steps("2.5", 2)
    check = number_in(0, 1, exclusive=True)
    assert check("0.003") == "" and check("0") and check("nan") and check("x") and check("1.5")
