"""The reader thread: what it reads, where it seeks, and that it never runs ahead of the screen."""

from __future__ import annotations

import queue
import shutil

import pytest

from app.tui import bridge
from app.tui.bridge import Reader
from app.tui.fold import fold
from app.tui.snapshot import Snapshot, View
from monitors.event_log import EventLog, read_events
from monitors.events import Trained, Warned
from monitors.runs import RunFolder

WAIT_S = 30.0


class Desk:
    """Stands for the screen: takes views one by one."""

    def __init__(self, folder: RunFolder) -> None:
        self.posted: queue.Queue[View] = queue.Queue()
        self.reader = Reader(folder, lambda message: self.posted.put(message.view), poll_s=0.01)

    def next(self) -> View:
        view = self.posted.get(timeout=WAIT_S)
        self.reader.taken()
        return view

    def until(self, condition) -> View:
        while not condition(view := self.next()):
            pass
        return view

    def __enter__(self) -> Desk:
        self.reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        assert not self.reader.is_alive()


@pytest.fixture
def copied(recorded: RunFolder, tmp_path) -> RunFolder:
    """The recorded run in another place, without its checkpoints."""
    path = tmp_path / "copy"
    shutil.copytree(recorded.path, path, ignore=shutil.ignore_patterns("checkpoints"))
    return RunFolder(path)


def test_a_view_tells_what_is_in_the_folder_also_in_a_copied_one(recorded, copied):
    for folder in (recorded, copied):
        view = Reader(folder, lambda message: None).read_once()
        assert (view.state, view.snapshot.step, view.trouble) == ("finished", 20, "")
        assert view.config is not None and len(view.plans) == 2 and view.host is not None and not view.is_live


def test_the_first_view_knows_the_runs_state_and_config(copied, monkeypatch):
    monkeypatch.setattr(bridge, "CHUNK_LINES", 4)
    with Desk(copied) as desk:
        view = desk.next()
    assert view.state == "finished" and view.info is not None and len(view.plans) == 2 and view.snapshot.events == 4


@pytest.mark.parametrize("line", [0, 1, 7, 20, 33])
def test_seeking_shows_exactly_the_first_lines_of_the_log(copied, monkeypatch, line):
    monkeypatch.setattr(bridge, "CHUNK_LINES", 4)
    monkeypatch.setattr(bridge, "MOST_FRAMES", 3)
    monkeypatch.setattr(bridge, "REFILL_LINES", 4)
    events = read_events(copied.events_jsonl).events
    with Desk(copied) as desk:
        desk.until(lambda view: view.position.event == len(events))
        desk.reader.seek(line)
        view = desk.until(lambda view: not view.position.following and view.position.event == min(line, len(events)))
        assert view.snapshot == fold(Snapshot(), events[:line])
        desk.reader.follow()
        # On the way there it may show what it has read so far.
        view = desk.until(lambda view: view.position.following and view.position.event == len(events))
        assert view.snapshot == fold(Snapshot(), events)


def test_playing_goes_on_to_the_end_and_then_follows(copied):
    with Desk(copied) as desk:
        end = desk.next().position.total
        desk.reader.seek(0)
        desk.until(lambda view: not view.position.following and view.position.event == 0)
        for _ in bridge.SPEEDS:
            desk.reader.change_speed(faster=True)
        desk.reader.play()
        desk.until(lambda view: view.position.playing)
        assert desk.until(lambda view: view.position.following).position.event == end


def test_a_growing_log_is_followed_and_one_that_was_rewound_is_read_anew(copied):
    with Desk(copied) as desk:
        before = desk.next().position.total
        log = EventLog(copied.events_jsonl)
        log.append(Warned(step=20, stage=1, message="one more"))
        view = desk.until(lambda view: view.position.event == before + 1)
        assert view.snapshot.log[-1].text == "one more"
        log.rewind(5)
        view = desk.until(lambda view: view.snapshot.step == 5)
        assert view.snapshot == fold(Snapshot(), read_events(copied.events_jsonl).events)
        log.close()


def test_a_screen_that_takes_nothing_gets_one_view_however_much_happens(copied):
    with Desk(copied) as desk:
        first = desk.posted.get(timeout=WAIT_S)
        log = EventLog(copied.events_jsonl)
        for step in range(21, 60):
            log.append(Trained(step=step, stage=1, loss=1.0, grad_norm=1.0, learning_rate=0.1, step_s=0.1))
        log.close()
        desk.reader._wake.set()
        with pytest.raises(queue.Empty):
            desk.posted.get(timeout=0.3)
        desk.reader.taken()
        desk.reader._wake.set()
        newest = desk.until(lambda view: view.snapshot.step == 59)
        assert newest.position.total == first.position.total + 39


def test_a_folder_that_vanishes_is_told_in_words(copied):
    with Desk(copied) as desk:
        desk.next()
        copied.run_json.unlink()
        assert "run.json can't be read" in desk.until(lambda view: view.trouble).trouble


@pytest.mark.parametrize("content", [b"purpose = ", b"\xff\xfe", b"[text]\ngrid = 'x'\n"])
def test_why_a_config_can_not_be_read_stays_on_the_screen(copied, content):
    copied.config_toml.write_bytes(content)
    reader = Reader(copied, lambda message: None)
    views = [reader.read_once() for _ in range(3)]
    assert all(view.trouble.startswith("config.toml") and view.trouble == views[0].trouble for view in views)
    assert all(view.state == "finished" and view.config is None for view in views)


def test_settings_changed_on_the_way_show_in_the_config(copied):
    from monitors.events import Edited

    log = EventLog(copied.events_jsonl)
    log.append(Edited(step=20, stage=1, who="ada", command="set", key="decode.every", old=5, new=7))
    log.append(Edited(step=20, stage=1, who="ada", command="set", key="no.such.thing", old=5, new=7))
    log.rewind(20)
    log.close()
    view = Reader(copied, lambda message: None).read_once()
    assert view.config is not None and view.trouble == "" and view.config.decode.every == 5
    lines = copied.events_jsonl.read_text().splitlines(keepends=True)
    copied.events_jsonl.write_text("".join(line for line in lines if "no.such.thing" not in line))
    view = Reader(copied, lambda message: None).read_once()
    assert view.config is not None and view.config.decode.every == 7
