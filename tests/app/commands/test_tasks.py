"""Bundled tasks on the command line: `tasks`, and `task:NAME` wherever a path to text could stand."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.commands.train import arms_of_run
from lattice.data.tasks.named import TASKS, named
from monitors.event_log import each_event
from monitors.runs import RunFolder
from presets.layers import load

ROOT = Path(__file__).resolve().parents[3]
LIFT = "task:lift,words=5-9,count=400,held=64"
QUICK = ("--preset", "tiny", "--set", "run.threads=1", "--set", "decode.every=2", "--set", "checkpoint.every=2", "--steps", 4)


@pytest.fixture(autouse=True, scope="module")
def threads():
    """A run sets the number of torch's threads; give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cli):
    """A runs folder with a finished run on LIFT."""
    runs = tmp_path_factory.mktemp("runs")
    told = cli("train", *QUICK, "--data", LIFT, "--runs-dir", runs)
    assert told.code == 0, told.err
    return runs, told


def refused(told, code: int, *parts: str) -> None:
    assert (told.code, told.out) == (code, ""), told.err
    assert told.err.startswith("lattice-tui: ") and "Traceback" not in told.err
    assert told.err.count("\n") == 1
    for part in parts:
        assert part in told.err


# `tasks`


def test_the_list_names_each_task_with_an_example_and_what_is_reached_without_reading(cli):
    told = cli("tasks")
    assert (told.code, told.err) == (0, "")
    assert all(name in told.out for name in TASKS)
    assert "more than 10^" in told.out and "constant answer" in told.out and "-> floor 7" in told.out


def test_the_list_as_json_has_true_examples_and_shares(cli):
    told = cli("tasks", "--json")
    assert [task["name"] for task in told.json["tasks"]] == list(TASKS)
    for task in told.json["tasks"]:
        opened = named(f"task:{task['name']}")
        assert opened.task.answer(task["example"]["source"]) == task["example"]["target"]
        assert task["distinct"] == opened.task.all_distinct and task["most_words"] == opened.task.most_words
        assert task["arguments"]["count"] == 25_000 and task["arguments"]["held"] == 1_000
        assert list(task["last_words"]) == ["1", "2", "3"]
        assert all(0 <= share < 0.6 for share in (task["constant"], *task["last_words"].values()))


def test_one_task_is_told_with_its_arguments(cli):
    told = cli("tasks", "lift,words=3-8,count=300,held=20")
    assert told.code == 0
    assert "arguments: words=3-8, floors=7, seed=0, count=300, held=20" in told.out
    assert "distinct sentences: 504, the longest of 8 words" in told.out
    assert cli("tasks", "lift,words=3-8,count=300,held=20", "--json").json["distinct"] == 504


def test_listing_loads_no_torch():
    code = "import sys; from app.cli import app; app(['tasks'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("split", "held"), [("train", "count"), ("test", "held")])
def test_pairs_of_a_side_are_written_as_lines_of_json(cli, tmp_path, split, held):
    out = tmp_path / "pairs.jsonl"
    told = cli("tasks", "house,words=4-12", "--count", 50, "--split", split, "--seed", 3, "--out", out, "--json")
    assert told.json == {"path": str(out), "task": "house", "split": split, "pairs": 50, "replaced": False}
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    expected = named(f"task:house,words=4-12,seed=3,{held}=50").pairs(split)
    assert pairs == [{"source": pair.source, "target": pair.target} for pair in expected]
    refused(cli("tasks", "house", "--count", 3, "--out", out), 2, "is there already; --force replaces it")
    again = cli("tasks", "house", "--count", 3, "--out", out, "--force")
    assert again.code == 0 and "replaced" in again.err
    assert len(out.read_text().splitlines()) == 3


def test_without_a_file_pairs_go_to_stdout(cli):
    told = cli("tasks", "task:mirror", "--count", 4)
    assert (told.code, told.err) == (0, "")
    assert all(set(json.loads(line)) == {"source", "target"} for line in told.out.splitlines())
    assert len(told.out.splitlines()) == 4


def test_written_pairs_can_be_trained_on(cli, tmp_path):
    for split in ("train", "test"):
        assert cli("tasks", "robot", "--count", 80, "--split", split, "--out", tmp_path / f"{split}.jsonl").code == 0
    files = ("--data", tmp_path / "train.jsonl", "--valid", tmp_path / "test.jsonl", "--task", "pairs")
    assert cli("train", *QUICK, *files, "--runs-dir", tmp_path / "runs", "--json").json["state"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["huose"], "did you mean 'house'?"),
        (["lift,floor=3"], "lift has no argument 'floor'; there are words, floors, seed, count, held; did you mean 'floors'?"),
        (["lift,words=2", "--count", 20], "there are 4 distinct sentences"),
        (["lift,seed=1", "--seed", 2], "--seed: seed is given twice, also in task:lift,seed=1; give it once"),
        (["lift,held=9", "--count", 2, "--split", "test"], "--count: held is given twice, also in task:lift,held=9"),
        (["lift,words", "--count", 2], "'words' is no argument=value"),
        (["lift", "--force"], "--force replaces the file of --out"),
        (["lift", "--count", 3, "--json"], "give --out with --json"),
        (["--count", 3], "--count needs the name of a task"),
        (["--seed", 3], "--seed needs the name of a task"),
    ],
)
def test_what_can_not_be_told_or_written_is_refused(cli, arguments, says):
    refused(cli("tasks", *arguments), 2, says)


def test_a_file_that_can_not_be_written_or_read_again_is_told(cli, tmp_path):
    def told(out: Path):
        return cli("tasks", "lift", "--count", 3, "--out", out, "--force")

    refused(told(tmp_path / "no" / "a.jsonl"), 2, f"there is no folder {tmp_path / 'no'}; make it first")
    refused(told(tmp_path / "a.txt"), 2, "a.txt: the pairs are JSON lines, which --data knows by .jsonl; name the file so")
    (folder := tmp_path / "b.jsonl").mkdir()
    refused(told(folder), 2, f"--out {folder}: is a folder; name a file")
    assert list(tmp_path.iterdir()) == [folder]


def test_too_few_sentences_leave_no_file(cli, tmp_path):
    refused(cli("tasks", "lift,words=2", "--count", 20, "--out", tmp_path / "a.jsonl"), 2, "ask for count=")
    assert list(tmp_path.iterdir()) == []


# `task:NAME` as data


def test_a_run_trains_on_a_task(trained):
    runs, told = trained
    (folder,) = map(RunFolder, runs.iterdir())
    assert f'task = "pairs"\ntrain = "{LIFT}"' in folder.read_config()
    assert f"400 sentences to train on, 64 held out, from {LIFT}" in told.err
    assert "floor" in told.out


def test_a_run_on_a_task_is_told_by_exact_answers_and_with_its_questions(trained, cli):
    runs, told = trained
    (folder,) = map(RunFolder, runs.iterdir())
    final = [event for event in each_event(folder.events_jsonl) if event and event.kind == "decoded"][-1]
    assert re.search(
        r"step 4: exact \d+\.\d% of 64 answers, held-out loss .*\n  question: (up|down).*\n  right:    floor", told.err
    )
    table = " ".join(told.out.split())
    assert "unseen question ┃ right answer ┃ what the lattice said" in table
    assert f"│ {final.samples[1].source.split()[0]} " in table and f"│ {final.samples[0].reference} │" in table
    assert f"{final.exact:.1%} exact answers to 64 unseen questions" in table and "BLEU" not in told.out + told.err
    assert f"evaluate {folder.name} --data {LIFT} --control" in table
    assert f"lattice-tui experiment arms --config {folder.config_toml} # what the lattice adds" in table
    score = f"exact {final.exact:.1%}"
    for command in (("status", "last"), ("runs",)):
        shown = cli(*command, "--runs-dir", runs).out
        assert score in shown and "BLEU" not in shown
    fields = cli("status", "last", "--runs-dir", runs, "--json").json
    assert (fields["measure"], fields["exact"]) == ("exact", final.exact)
    exported = cli("export", "last", "--what", "decoded", "--runs-dir", runs).out
    measures = [row["measure"] for row in csv.DictReader(io.StringIO(exported))]
    assert measures == ["exact"] * 3  # steps 2 and 4, and all sentences
    scored = cli("evaluate", "last", "--data", LIFT, "--runs-dir", runs).out
    assert score in scored and "BLEU" not in scored and f"{final.samples[0].source}\n  = {final.samples[0].reference}" in scored


def test_the_arms_that_a_run_names_can_be_trained_and_a_shipped_preset_is_named_alone(trained, cli, tmp_path):
    (folder,) = map(RunFolder, trained[0].iterdir())
    told = cli("experiment", "arms", "--config", folder.config_toml, "--arms", "identity", "--steps", 2, "--json")
    assert told.code == 0 and told.json["measure"] == "exact", told.err
    walker, baseline, elsewhere = load("walker").config, load("baseline").config, RunFolder(tmp_path / "of mine")
    assert arms_of_run(walker, "walker", elsewhere) == "lattice-tui experiment arms --preset walker"
    changed = f"lattice-tui experiment arms --config '{elsewhere.config_toml}'"
    assert arms_of_run(load("walker", None, ["run.seed=1"]).config, "walker", elsewhere) == changed
    assert arms_of_run(walker, "gone", elsewhere) == changed
    assert arms_of_run(baseline, "baseline", elsewhere) == ""
    no_lattice = ["rule.kind=none", "rule.scope=lattice", "lattice.arm=gru"]
    assert arms_of_run(load("walker", None, no_lattice).config, "walker", elsewhere) == ""


def test_decode_tells_what_comes_back_after_each_word(trained, cli):
    at = ("--runs-dir", trained[0])
    task, words = named(LIFT).task, ["up", "up", "down", "up"]
    told = cli("decode", "last", " ".join(words), "--after-each-word", "--json", *at).json["after_each_word"]
    assert [answer["word"] for answer in told] == words
    beginnings = [" ".join(words[:count]) for count in range(1, 5)]
    assert [answer["right"] for answer in told] == [task.answer(beginning) for beginning in beginnings]
    assert [answer["said"] for answer in told] == [cli("decode", "last", words, *at).out.strip() for words in beginnings]
    lines = cli("decode", "last", " ".join(words), "--after-each-word", *at)
    for line, answer in zip(lines.out.splitlines(), told, strict=True):
        is_right = answer["said"] == answer["right"]
        told_right = "right" if is_right else f"wrong: {answer['right']}"
        assert line.split() == [answer["word"], *(answer["said"] or "(nothing)").split(), *told_right.split()]
    assert lines.err == ""
    assert "after_each_word" not in cli("decode", "last", "up", "--json", *at).json


def test_decode_says_from_which_word_on_no_answer_is_known_and_which_words_were_cut(trained, cli):
    at = ("--runs-dir", trained[0])
    told = cli("decode", "last", "up upp down", "--after-each-word", *at)
    first, *rest = told.out.splitlines()
    assert "right" in first or "wrong: floor" in first
    assert len(rest) == 2 and not any("right" in line or "wrong" in line for line in rest)
    assert "'upp' is no word of task:lift; what is right from there on is not known" in told.err
    odd = cli("decode", "last", "up \x1b[31mred" + "x" * 90, "--after-each-word", *at)
    assert "note: '\\x1b[31mredxx" in odd.err and "xx...' is no word of task:lift" in odd.err
    none = cli("decode", "last", "x" * 90 + " up", "--after-each-word", *at)
    assert (none.code, none.out) == (0, "") and none.err.startswith("note: the first word alone has more than text.max_tokens")
    long = cli("decode", "last", "up " * 60, "--after-each-word", *at)
    assert 0 < len(long.out.splitlines()) < 60 and "and were cut" in long.err


def test_an_interrupted_run_on_a_task_resumes_to_the_same_losses(trained, cli, tmp_path):
    runs, _ = trained
    whole = next(runs.iterdir())
    place = tmp_path / "runs"
    assert cli("train", *QUICK, "--data", LIFT, "--runs-dir", place).code == 0
    (copy,) = place.iterdir()
    newest = max((copy / "checkpoints").glob("step-*"))
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"state": "stopped", "step": 2}))
    told = cli("train", "--resume", "last", "--runs-dir", place)
    assert told.code == 0, told.err
    losses = [
        [(event.step, event.loss) for event in each_event(folder / "events.jsonl") if event and event.kind == "trained"]
        for folder in (whole, copy)
    ]
    assert losses[0] == losses[1] != []


def test_a_run_is_scored_on_the_test_side(trained, cli):
    runs, _ = trained
    told = cli("evaluate", "last", "--data", "task:lift,words=5-9,held=30", "--runs-dir", runs, "--json")
    assert told.json["count"] == 30
    refused(cli("evaluate", "last", "--data", "task:lfit", "--runs-dir", runs), 2, "did you mean 'lift'?")
    assert cli("morphology", "last", "--data", "task:lift,held=40", "--runs-dir", runs, "--json").code == 0


def test_a_fork_goes_on_with_more_of_a_task_or_changes_to_one(trained, cli, sentences, tmp_path):
    runs, _ = trained
    more = LIFT.replace("count=400", "count=420")
    assert cli("fork", "last", "--data", more, "--steps", 6, "--runs-dir", runs, "--json").json["step"] == 6
    place = tmp_path / "runs"
    assert cli("train", *QUICK, "--data", sentences, "--runs-dir", place).code == 0
    told = cli("fork", "last", "--data", LIFT, "--steps", 6, "--runs-dir", place, "--json")
    assert told.json["step"] == 6
    assert 'task = "pairs"' in (place / told.json["run"] / "config.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--data", "task:lfit"), "there is no task 'lfit'"),
        (("--data", "task:lift,words=1-2"), "there are 6 distinct sentences"),
        (
            ("--data", "task:lift", "--task", "reconstruct"),
            "--task: data.task: reconstruct is for text, and task:lift has sources",
        ),
        (("--data", "task:lift", "--set", "data.task=denoise"), "--set: data.task: denoise is for text"),
        (("--valid", "task:lift"), "data.task: reconstruct is for text, and task:lift"),
        (("--data", "task:lift,words"), "--data: data.train: 'task:lift,words': 'words' is no argument=value"),
        (("--data", "task:lift", "--valid", "task:house,doors=9"), "doors: 9 is not within 0 to 6"),
        (("--set", "data.noise=0.2"), "data.noise: is for task = denoise and does nothing for reconstruct"),
    ],
)
def test_tasks_that_can_not_be_trained_on_are_refused(cli, tmp_path, arguments, says):
    refused(cli("train", *QUICK, *arguments, "--runs-dir", tmp_path / "runs"), 2, says)
    assert not (tmp_path / "runs").exists()


def test_a_detached_run_trains_on_a_task(cli, tmp_path, process):
    with process(tmp_path, "train", *QUICK, "--data", LIFT, "--detach", "--json", "--runs-dir", tmp_path / "runs") as run:
        told = run.wait()
    assert told.code == 0, told.err
    folder = RunFolder(tmp_path / "runs" / told.json["run"])
    assert f'train = "{LIFT}"' in folder.read_config()


def test_an_experiment_pairs_runs_on_a_task(cli):
    where = ("--data", LIFT, "--test", "task:lift,words=5-9,held=32", "--seeds", 1)
    told = cli("experiment", "arms", *QUICK, *where, "--json")
    assert told.code == 0, told.err
    trained = ["trained", "frozen", "identity", "larger encoder"]
    assert [arm["arm"] for arm in told.json["arms"]] == ["copy", "most frequent reply", *trained]
    assert {arm["count"] for arm in told.json["arms"]} == {32}


# Tasks on any text


@pytest.mark.parametrize("task", ["denoise", "continue"])
def test_a_run_trains_resumes_and_is_scored_on_any_text(cli, sentences, tmp_path, task):
    runs = tmp_path / "runs"
    assert cli("train", *QUICK, "--data", sentences, "--task", task, "--runs-dir", runs, "--json").json["state"] == "finished"
    assert cli("train", "--resume", "last", "--runs-dir", runs).code == 0
    short = tmp_path / "short.txt"
    short.write_text("one two\nthis is a longer sentence\n", encoding="utf-8")
    told = cli("evaluate", "last", "--data", short, "--runs-dir", runs, "--json")
    assert told.json["count"] == (1 if task == "continue" else 2)
    assert ("note: 1 sentences are left out: fewer than 4 words" in told.err) == (task == "continue")


def test_a_fork_to_another_task_holds_out_the_same_sentences(cli, sentences, tmp_path):
    runs = tmp_path / "runs"
    assert cli("train", *QUICK, "--data", sentences, "--runs-dir", runs).code == 0
    parent = next(runs.iterdir()).name
    assert cli("fork", parent, "--task", "denoise", "--set", "data.noise=0.3", "--steps", 6, "--runs-dir", runs).code == 0
    refused(
        cli("fork", parent, "--task", "denoise", "--set", "run.seed=5", "--steps", 6, "--runs-dir", runs),
        2,
        "held-out sentences were trained on",
    )
