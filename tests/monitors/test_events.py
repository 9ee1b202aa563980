"""The event log survives crashes, resumes and newer versions, and gives back what was written."""

from __future__ import annotations

import gc
import json
import math
import sys
import tracemalloc

import pytest
from pydantic import ValidationError

from monitors import event_log, events
from monitors.event_log import EventLog, read_events


def trained(step: int, loss: float | None = 1.5) -> events.Trained:
    return events.Trained(step=step, loss=loss, grad_norm=0.5, learning_rate=3e-3, step_s=0.25)


ONE_OF_EACH = [
    events.RunStarted(run="20261122-051530-tiny", resumed=False, message="fresh"),
    events.StageStarted(
        name="grow",
        shape=(16, 16, 16),
        cells=4096,
        ticks=8,
        kernel="reference",
        plan_bytes=10**9,
        micro_batch=32,
        accumulation=1,
        carried=False,
    ),
    trained(1),
    events.Decoded(
        step=50,
        bleu=12.5,
        chrf=30.0,
        exact=0.25,
        valid_loss=2.0,
        count=64,
        signature="nrefs:1",
        samples=(events.Sample(source="a dog", reference="a dog", said="a\ndög"),),
        seconds=0.5,
        peak_bytes=1000,
        active_share=0.9,
        gradient_share=None,
        best=True,
        measure="exact",
        after_each_word=(
            events.AfterWord(word="a", said="", right=None),
            events.AfterWord(word="dog", said="cat", right=False),
        ),
    ),
    events.Saved(step=50, path="checkpoints/step-50", seconds=0.1, bytes=12345, best=True),
    events.BadStep(step=51, reason="loss is NaN", in_a_row=1),
    events.RolledBack(step=51, to_step=40, reason="5 steps in a row were bad"),
    events.MemorySampled(
        step=51, device="cpu", device_uuid="", rss_bytes=10**9, allocated_bytes=None, reserved_bytes=None, peak_bytes=2 * 10**9
    ),
    events.Clustered(step=51, count=2, sizes=(3000, 1096), silhouette=0.25, stability=None, merged=1, seconds=0.5),
    events.Plastic(
        step=51,
        updates=10,
        potentiated=5,
        depressed=3,
        unchanged=92,
        active_share=0.5,
        theta=(0.0, 0.1, 0.2, 0.3, 0.9),
        mean_change=1e-4,
        message_change=None,
        skipped_share=0.25,
        seconds=0.01,
    ),
    events.Rewired(step=51, pruned=20, regrown=10, sparsity=0.7, fan_in=(0, 0, 96, 4000), seconds=0.1),
    events.VolumeSaved(step=51, file="volumes/step-51.vol", fields=("activity",), shape=(16, 16, 16), bytes=4096),
    events.LeaksJudged(
        step=51,
        samples=30,
        verdict="leak",
        meters=(
            events.MeterVerdict(
                name="tensors",
                unit="count",
                value=340,
                slope=1.0,
                low=0.75,
                growth=200,
                verdict="leak",
                suspect="float32 [256] (+200)",
            ),
        ),
    ),
    events.Warned(step=51, message="slow disk"),
    events.Edited(step=52, who="ann (pid 7)", command="set", key="stages.0.until_loss", old=None, new=1.5),
    events.StageEnded(step=60, name="grow", reason="plateau"),
    events.RunEnded(step=60, stage=1, state="finished", reason="all stages done", exit_code=0),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


@pytest.fixture
def log(path):
    """A log whose clock counts 100, 101, ... seconds."""
    log = EventLog(path, clock=iter(range(100, 10**6)).__next__)
    yield log
    log.close()


def test_every_kind_of_event_is_read_back_equal_to_what_append_returned(log, path):
    written = [log.append(event) for event in ONE_OF_EACH]
    result = read_events(path)
    assert result.events == written
    assert [type(event) for event in result.events] == [type(event) for event in ONE_OF_EACH]
    assert result.skipped == 0


def test_one_of_each_kind_is_tested():
    assert {type(event) for event in ONE_OF_EACH} == set(events.Event.__subclasses__())


def test_the_log_sets_the_time_and_only_the_time(log):
    event = trained(7)
    assert event.time == 0.0
    assert log.append(event) == event.model_copy(update={"time": 100.0})
    assert log.append(event).time == 101.0


def test_an_appended_event_is_on_disk_as_one_line_before_the_log_is_closed(log, path):
    log.append(ONE_OF_EACH[3])
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


def test_the_log_file_is_the_owners_alone(log, path):
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_null_on_disk_and_none_when_read(log, path, value):
    appended = log.append(trained(1, loss=value))
    record = json.loads(path.read_bytes(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["loss"] is None
    assert appended.loss is None
    assert read_events(path).events == [appended]


def test_nan_where_a_number_is_required_is_refused_naming_the_field():
    with pytest.raises(ValidationError, match="learning_rate"):
        events.Trained(loss=1.0, grad_norm=1.0, learning_rate=math.nan, step_s=0.1)


def test_text_that_utf8_cannot_hold_is_written_all_the_same(log, path):
    log.append(events.Warned(message="no such file: caf\udce9.txt"))
    assert read_events(path).events[0].message == "no such file: caf?.txt"


def test_events_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        trained(1).step = 2


def test_a_misspelled_field_is_refused_in_code():
    with pytest.raises(ValidationError, match="stp"):
        events.Warned(message="x", stp=3)


def test_an_event_of_a_newer_version_is_read_without_its_new_fields():
    sample = {"source": "a", "reference": "b", "said": "c", "tokens": 3}
    record = json.loads(ONE_OF_EACH[3].model_dump_json()) | {"perplexity": 4.0, "samples": [sample]}
    event = events.parse_event(json.dumps(record))
    assert event.bleu == 12.5
    assert event.samples == (events.Sample(source="a", reference="b", said="c"),)


def test_a_look_of_version_0_1_0_is_judged_by_bleu_and_tells_nothing_after_each_word():
    record = json.loads(ONE_OF_EACH[3].model_dump_json())
    for name in ("measure", "after_each_word"):
        del record[name]
    event = events.parse_event(json.dumps(record))
    assert (event.measure, event.score, event.after_each_word) == ("bleu", 12.5, ())
    assert ONE_OF_EACH[3].score == 25.0


GARBAGE = {
    "empty": b"",
    "text": b"not json",
    "bytes": b"\xff\xfe\x00",
    "array": b"[1, 2]",
    "deep": b'{"a":' * 5000,
    "unknown-kind": b'{"kind": "teleported", "step": 3}',
    "no-kind": b'{"step": 3}',
    "fields-missing": b'{"kind": "trained"}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_line_that_is_no_known_event_is_skipped_and_counted(log, path, garbage):
    first = log.append(trained(1))
    with path.open("ab") as stream:
        stream.write(garbage + b"\n")
    second = log.append(trained(2))
    result = read_events(path)
    assert result.events == [first, second]
    assert result.skipped == 1
    assert result.offset == path.stat().st_size


def test_a_torn_last_line_is_left_until_it_is_whole(log, path):
    first = log.append(trained(1))
    whole = path.stat().st_size
    line = trained(2).model_dump_json().encode() + b"\n"
    with path.open("ab") as stream:
        stream.write(line[:-20])
    torn = read_events(path)
    assert (torn.events, torn.skipped, torn.offset) == ([first], 0, whole)
    with path.open("ab") as stream:
        stream.write(line[-20:])
    assert read_events(path, after=torn.offset).events == [trained(2)]


def test_reading_goes_on_at_the_offset_without_loss_or_repetition(log, path):
    written, read, offset = [], [], 0
    for step in range(1, 10):
        written.append(log.append(trained(step)))
        if step % 2:
            result = read_events(path, after=offset)
            read, offset = read + result.events, result.offset
    assert read == written


def test_a_run_that_has_logged_nothing_yet_has_no_events(tmp_path):
    assert read_events(tmp_path / "absent.jsonl") == event_log.ReadResult([], 0, 0)


@pytest.mark.parametrize("tail", [b'{"kind": "trai', b"x" * 200_000], ids=["short", "longer-than-a-block"])
def test_opening_a_log_cuts_off_its_torn_last_line(path, tail):
    log = EventLog(path, clock=lambda: 1.0)
    first = log.append(trained(1))
    log.close()
    with path.open("ab") as stream:
        stream.write(tail)
    log = EventLog(path, clock=lambda: 2.0)
    second = log.append(trained(2))
    log.close()
    result = read_events(path)
    assert result.events == [first, second]
    assert result.skipped == 0


def test_opening_a_log_that_is_one_torn_line_empties_it(path):
    path.write_bytes(b'{"kind"')
    EventLog(path).close()
    assert path.read_bytes() == b""


def test_opening_a_whole_log_changes_nothing(path):
    path.write_bytes(trained(1).model_dump_json().encode() + b"\n")
    before = path.read_bytes()
    EventLog(path).close()
    assert path.read_bytes() == before


def test_a_rewound_and_continued_log_equals_the_uninterrupted_one(tmp_path):
    def run(log: EventLog, steps: range) -> None:
        for step in steps:
            log.append(trained(step, loss=1 / step))

    whole, resumed = (EventLog(tmp_path / name, clock=lambda: 5.0) for name in ("whole", "resumed"))
    run(whole, range(1, 21))
    run(resumed, range(1, 16))
    assert resumed.rewind(10) == 5
    run(resumed, range(11, 21))
    whole.close()
    resumed.close()
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_rewind_keeps_starts_and_warnings_up_to_the_step_and_drops_later_ones(log, path):
    kept = [log.append(event) for event in (events.RunStarted(run="r", resumed=False, message=""), trained(10))]
    kept.append(log.append(events.Warned(step=10, message="early")))
    log.append(events.Warned(step=11, message="late"))
    log.append(events.RunStarted(step=11, run="r", resumed=True, message=""))
    log.rewind(10)
    assert read_events(path).events == kept


def test_an_edit_keeps_the_types_of_its_values_through_the_log(log, path):
    for value in (True, 1, 1.0, 0.5, "freeze", None):
        log.append(events.Edited(who="ann", command="set", key="a.b", old=value, new=value))
    assert [type(event.new) for event in read_events(path).events] == [bool, int, float, float, str, type(None)]


def test_rewind_drops_an_edit_that_the_checkpoint_of_its_step_does_not_know_and_all_that_followed(log, path):
    def edited(step: int) -> events.Edited:
        return events.Edited(step=step, who="ann", command="pause")

    for event in (trained(9), edited(9), trained(10), edited(10), events.Warned(step=10, message="x"), edited(10)):
        log.append(event)
    whole = read_events(path).events
    assert log.rewind(10, edits=3) == 0
    assert log.rewind(10, edits=2) == 1
    assert read_events(path).events == whole[:5]
    assert log.rewind(10, edits=1) == 2
    assert read_events(path).events == whole[:3]
    assert log.rewind(8, edits=0) == 3


def test_rewind_keeps_kinds_it_does_not_know_and_drops_garbage(log, path):
    with path.open("ab") as stream:
        stream.write(b'{"kind": "teleported", "step": 3}\ngarbage\n{"kind": "teleported", "step": 30}\n')
    assert log.rewind(10) == 2
    assert path.read_bytes() == b'{"kind": "teleported", "step": 3}\n'


def test_rewind_past_the_end_leaves_the_file_as_it_is(log, path):
    log.append(trained(1))
    before = path.stat()
    assert log.rewind(1) == 0
    assert path.stat().st_ino == before.st_ino


def test_rewind_drops_the_last_look_that_followed_the_checkpoint_and_keeps_those_before_it(log, path):
    def saved(step: int) -> events.Saved:
        return events.Saved(step=step, path=f"step-{step:08d}", seconds=0.1, bytes=1, best=False)

    def sampled(step: int) -> events.MemorySampled:
        sizes = dict.fromkeys(("rss_bytes", "allocated_bytes", "reserved_bytes", "peak_bytes"))
        return events.MemorySampled(step=step, device="cpu", device_uuid="", **sizes)

    def ended(name: str) -> events.StageEnded:
        return events.StageEnded(step=10, name=name, reason="steps")

    told = [
        sampled(9),
        saved(9),
        sampled(9),
        trained(10),
        sampled(10),
        saved(10),
        ended("a"),
        sampled(10),
        saved(10),
        ended("b"),
    ]
    whole = [log.append(event) for event in told]
    log.append(sampled(10))
    log.append(trained(11))
    assert log.rewind(10) == 2
    assert read_events(path).events == whole
    assert log.rewind(10) == 0
    assert log.rewind(9) == 7 + 1
    assert read_events(path).events == whole[:2]


def test_rewind_takes_no_memory_for_a_long_log(log, path):
    line = events.Warned(step=1, message="x" * 900).model_dump_json().encode() + b"\n"
    last = events.Warned(step=2, message="late").model_dump_json().encode() + b"\n"
    with path.open("ab") as stream:
        stream.write(20_000 * line + last)
    tracemalloc.start()
    assert log.rewind(1) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size == 20_000 * len(line) > 100 * peak


def test_a_log_goes_on_after_a_rewind_that_failed(log, path, monkeypatch):
    log.append(trained(1))
    log.append(trained(2))

    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(event_log, "atomic_write", full)
        log.rewind(1)
    log.append(trained(3))
    assert [event.step for event in read_events(path).events] == [1, 2, 3]


@pytest.mark.parametrize("read", ["event", "stamp", "frame"])
def test_texts_that_were_read_are_not_kept(read, tmp_path):
    from app.wire import protocol

    def one(text: str) -> None:
        if read == "event":
            assert events.parse_event(json.dumps({"kind": "warned", "message": text})) is not None
        elif read == "frame":
            with pytest.raises(protocol.FrameError):
                protocol.request(json.dumps({"v": protocol.VERSION, "kind": text}).encode())
        else:
            (tmp_path / "log").write_text("".join(json.dumps({"kind": f"{text} {i}", "step": 1}) + "\n" for i in range(100)))
            log = EventLog(tmp_path / "log")
            log.rewind(step=1)
            log.close()

    count = 20 if read == "stamp" else 2000
    one(f"{read} first")
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(count):
        one(f"{read} {number}")
    gc.collect()
    assert sys.getallocatedblocks() - before < 500  # with pydantic's own cache of strings it is 2000
