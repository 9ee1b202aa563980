"""Tests of `export`: tables have every event and field of the log, TensorBoard reads the curves, nothing is overwritten."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from app.commands import export
from monitors.event_log import read_events
from monitors.events import BadStep, Decoded, Edited, Plastic, RunEnded, RunStarted, Sample, Trained, Warned

SAMPLES = (
    Sample(source='say "hi", twice', reference="two\nlines", said="\x1b[31mred"),
    Sample(source="b", reference="b", said="б"),
)
LOOK = {
    "bleu": 12.5,
    "chrf": 20.0,
    "exact": 0.25,
    "valid_loss": None,
    "count": 64,
    "signature": "nrefs:1|case:mixed",
    "samples": SAMPLES,
    "seconds": 0.5,
    "peak_bytes": 7,
    "active_share": 1.0,
    "gradient_share": 0.75,
    "best": True,
}
COUNTS = {"updates": 1, "potentiated": 5, "depressed": 3, "unchanged": 0}
EVENTS = [
    RunStarted(run="r", resumed=False, message="here, we go"),
    *(Trained(step=i, loss=None if i == 3 else 1 / i, grad_norm=2.0, learning_rate=0.001, step_s=0.1) for i in range(1, 6)),
    Decoded(step=5, **LOOK),
    Plastic(
        step=5,
        **COUNTS,
        active_share=0.5,
        theta=(0.0, 0.1, 0.2, 0.3, 0.4),
        mean_change=0.01,
        message_change=None,
        skipped_share=0.0,
        seconds=0.1,
    ),
    BadStep(step=5, reason="the loss is nan", in_a_row=1),
    Warned(step=5, message="\x1b[2J careful"),
    Edited(step=5, who="ada", command="pause", key="paused", old=False, new=True),
    RunEnded(step=5, state="finished", reason="all", exit_code=0),
]


@pytest.fixture
def run(tmp_path, written, monkeypatch) -> Path:
    """A run's folder; its runs folder is the working directory's `runs`."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "runs", "r", (), EVENTS, step=5)
    return tmp_path / "runs" / "r"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def rebuilt(kind: str, row: dict[str, str]) -> dict[str, object]:
    """The fields that a row of the table was written from."""
    fields: dict[str, object] = {"kind": kind}
    for name, text in row.items():
        annotation = str(export.KINDS[kind].model_fields[name].annotation)
        if text == "" and "None" in annotation:
            fields[name] = None
        else:
            fields[name] = json.loads(text) if any(part in annotation for part in ("tuple", "bool", "int", "float")) else text
    return fields


def test_the_tables_hold_every_event_and_every_field_of_the_log(cli, run):
    told = cli("export", "r", "--runs-dir", "runs", "--json")
    assert told.code == 0, told.err
    assert {Path(file["path"]).name: file["rows"] for file in told.json["files"]} == {
        "run_started.csv": {"run_started": 1},
        "trained.csv": {"trained": 5},
        "decoded.csv": {"decoded": 1},
        "plastic.csv": {"plastic": 1},
        "bad_step.csv": {"bad_step": 1},
        "warned.csv": {"warned": 1},
        "edited.csv": {"edited": 1},
        "run_ended.csv": {"run_ended": 1},
    }
    found = []
    for path in Path("r-csv").iterdir():
        kind = path.stem
        found += [export.KINDS[kind].model_validate(rebuilt(kind, row)) for row in rows(path)]
    assert sorted(found, key=lambda event: event.time) == read_events(run / "events.jsonl").events


def test_a_missing_number_is_an_empty_cell(cli, run):
    cli("export", "r", "--runs-dir", "runs", "--out", "out")
    assert [row["loss"] for row in rows(Path("out/trained.csv"))][1:3] == ["0.5", ""]


def test_one_kind_goes_to_stdout_or_to_a_file(cli, run):
    told = cli("export", "r", "--what", "trained", "--runs-dir", "runs")
    assert told.code == 0 and told.err == ""
    assert told.out.splitlines()[0] == "time,step,stage,loss,grad_norm,learning_rate,step_s"
    assert len(told.out.splitlines()) == 6
    assert cli("export", "r", "--what", "trained", "--out", "deep/er/table.csv", "--runs-dir", "runs").code == 0
    assert Path("deep/er/table.csv").read_text() == told.out
    assert list(Path("deep/er").iterdir()) == [Path("deep/er/table.csv")]


def test_nothing_is_overwritten_without_force_and_with_it_it_is_said(cli, run):
    assert cli("export", "r", "--runs-dir", "runs", "--out", "out").code == 0
    Path("out/trained.csv").write_text("mine")
    Path("out/notes.txt").write_text("mine, too")
    told = cli("export", "r", "--runs-dir", "runs", "--out", "out")
    assert told.code == 2 and "out is there already and not empty" in told.err and told.out == ""
    assert Path("out/trained.csv").read_text() == "mine"
    told = cli("export", "r", "--runs-dir", "runs", "--out", "out", "--force")
    assert told.code == 0 and "replaced out/trained.csv" in told.err
    assert len(rows(Path("out/trained.csv"))) == 5 and Path("out/notes.txt").read_text() == "mine, too"
    Path("one.csv").write_text("mine")
    told = cli("export", "r", "--what", "trained", "--runs-dir", "runs", "--out", "one.csv")
    assert told.code == 2 and Path("one.csv").read_text() == "mine"


def test_an_export_that_breaks_leaves_nothing(cli, run, monkeypatch):
    def broken(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_row", broken)
    before = sorted(Path().iterdir())
    for arguments in ((), ("--what", "trained", "--out", "one.csv")):
        told = cli("export", "r", "--runs-dir", "runs", *arguments)
        assert told.code == 1 and "No space left on device" in told.err and "Traceback" not in told.err
    assert sorted(Path().iterdir()) == before


def test_lines_that_can_not_be_read_are_counted(cli, run):
    with (run / "events.jsonl").open("a") as log:
        log.write('not json\n{"kind": "of tomorrow", "step": 3}\n{"torn')
    told = cli("export", "r", "--runs-dir", "runs", "--json")
    assert told.json["unread"] == 2 and "2 lines of the log can't be read and are left out" in told.err


def test_the_log_is_read_line_by_line(run, monkeypatch):
    """The first row is written before the second event is read."""
    seen = []

    def events():
        for event in EVENTS:
            seen.append(len(told))
            yield event

    class Told(list):
        def write(self, text: str) -> int:
            self.append(text)
            return len(text)

    told = Told()
    assert export._table(told, "trained", events()) == 5
    assert seen == sorted(seen) and len(set(seen)) == 6  # the header, and each of the five rows but the last before the next


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--what", "trainned"), "'trainned' is no kind of event"),
        (("--what", "trained", "--format", "tensorboard"), "--what picks one CSV table"),
        (("--what", "trained", "--json"), "give --out with --json"),
        (("--out", "runs/r/run.json"), "is not a folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli, run, options, reason):
    told = cli("export", "r", "--runs-dir", "runs", *options)
    assert told.code == 2 and reason in told.err and told.out == ""


def test_a_run_that_is_not_there_exits_with_5(cli, run):
    assert cli("export", "nope", "--runs-dir", "runs").code == 5


# TensorBoard


def test_tensorboard_reads_the_numbers_with_their_steps_and_times(cli, run):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    from tensorboard.util import tensor_util

    told = cli("export", "r", "--format", "tensorboard", "--runs-dir", "runs", "--json")
    assert told.code == 0, told.err
    [file] = told.json["files"]
    assert file["rows"] == {"trained": 5, "decoded": 1, "plastic": 1, "bad_step": 1}
    points: dict[str, list[tuple]] = {}
    for event in loader.EventFileLoader(file["path"]).Load():
        for value in event.summary.value:
            number = tensor_util.make_ndarray(value.tensor).item()
            points.setdefault(value.tag, []).append((event.step, event.wall_time, pytest.approx(number)))
    events = read_events(run / "events.jsonl").events
    losses = [(e.step, e.time, e.loss) for e in events if isinstance(e, Trained) and e.loss is not None]
    assert points["trained/loss"] == losses
    assert points["decoded/bleu"] == [(5, events[6].time, 12.5)]
    assert points["plastic/potentiated"] == [(5, events[7].time, 5.0)]
    assert "decoded/valid_loss" not in points and "trained/step" not in points and "run_ended/exit_code" not in points
    assert "torch.utils.tensorboard" not in sys.modules


def test_without_the_package_one_sentence_says_what_to_install(cli, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    told = cli("export", "r", "--format", "tensorboard", "--runs-dir", "runs")
    assert told.code == 2 and "pip install 'lattice-tui[tensorboard]'" in told.err and len(told.err.splitlines()) == 1
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]
