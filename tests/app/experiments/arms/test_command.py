"""`experiment arms` on the tiny preset: what it trains and prints, what it takes from a results file, what it refuses."""

from __future__ import annotations

import json

import pytest

from app.experiments.arms import command, scored_run
from lattice.training.trainer import Trainer

QUICK = ("--preset", "tiny", "--set", "run.threads=1", "--steps", 4)
TIME = ("--set", "text.reading=time", "--set", "text.lag=4", "--set", "stages=[{name='a',shape=[3,3,4],ticks=8,steps=9}]")
LIFT = "task:lift,words=3-9,count=200,held=8"
KEYS = {"name", "arms", "effect", "low", "high", "seeds", "measure", "effects", "against", "texts", "at_equal_cpu"}
CONTROLS = {"trained": ["bypass", "shuffled"], "frozen": ["bypass", "shuffled"]}


@pytest.fixture
def run(cli, sentences):
    """`run(...)`: the experiment on the tiny preset and 300 sentences."""
    return lambda *options: cli("experiment", "arms", *QUICK, "--data", sentences, *options)


@pytest.fixture
def trained(monkeypatch):
    """(arm, seed) of every run that was really trained."""
    calls, train = [], scored_run.train
    monkeypatch.setattr(command, "train", lambda arm, seed, *rest: calls.append((arm, seed)) or train(arm, seed, *rest))
    return calls


# What comes out


def test_every_arm_is_trained_with_every_seed_and_shows_its_controls(run):
    told = run("--seeds", 2, "--json")
    assert told.code == 0, told.err
    assert set(told.json) == KEYS and (told.json["measure"], told.json["against"]) == ("bleu", "frozen")
    found = [(arm["arm"], arm["seed"], sorted(arm["controls"])) for arm in told.json["arms"]]
    names = ("trained", "frozen", "identity", "larger encoder")
    assert found == [(name, seed, CONTROLS.get(name, ["shuffled"])) for seed in (0, 1) for name in names]
    trained, frozen, identity, larger = (arm["parameters"] for arm in told.json["arms"][:4])
    assert trained == frozen > identity and trained <= larger < trained + 1000
    assert "gru: left out, it is for text.reading = time" in told.err and "no rule" not in told.err
    assert "runs to train: 8 (trained, frozen, identity, larger encoder; 2 seeds each) of " in told.err


def test_in_time_and_with_a_rule_there_are_six(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = run(*TIME, "--set", "rule.kind=linear", "--steps", 2)
    assert told.code == 0, told.err
    for arm in ("no rule", "frozen", "identity", "larger encoder", "gru"):
        assert f"against {arm}\n" in told.out
    assert max(map(len, told.out.splitlines())) <= 80


def test_a_task_is_told_by_exact_answers_and_each_test_text_by_its_name(cli):
    tests = ("--test", LIFT, "--test", "task:lift,words=80-90,held=6")
    told = cli("experiment", "arms", *QUICK, "--data", LIFT, *tests, "--steps", 8, "--arms", "trained,identity", "--json")
    assert told.code == 0, told.err
    assert told.json["measure"] == "exact" and list(told.json["texts"]) == [LIFT, "task:lift,words=80-90,held=6"]
    rows = {arm["arm"]: arm for arm in told.json["arms"] if arm["seed"] is not None}
    for text, effects in told.json["texts"].items():
        ours, theirs = (100 * rows[name]["texts"][text]["exact"] for name in ("trained", "identity"))
        assert effects["identity"]["effect"] == pytest.approx(ours - theirs)
    assert [rows["trained"]["texts"][text]["count"] for text in told.json["texts"]] == [8, 6]
    (note,) = [line for line in told.err.splitlines() if line.startswith("note: ")]
    said = (
        "note: 6 of 6 task:lift,words=80-90,held=6 sources are longer than text.max_tokens = 40 and are cut there; the longest"
    )
    assert note.startswith(said)


def test_arms_are_chosen_and_own_ones_added(run, trained):
    told = run("--arms", "identity", "--arm", "hasty optimizer.learning_rate=0.01", "--json")
    assert told.code == 0 and trained == [("identity", 0), ("hasty", 0)], told.err
    assert (told.json["effects"], told.json["against"], told.json["effect"]) == ({}, None, None)


# On the way


def test_looks_are_taken_every_so_often_and_at_the_end_and_change_nothing(run):
    options = ("--arms", "trained", "--steps", 5, "--json")
    looked, plain = (run(*options, *every).json["arms"][0] for every in (("--every", 2), ()))
    assert looked["looks"]["steps"] == [2, 4, 5] and plain["looks"]["steps"] == []
    assert (looked["bleu"], looked["chrf"]) == (plain["bleu"], plain["chrf"])


def test_looks_take_no_cpu_seconds_and_equal_cpu_is_as_many_more_steps_as_a_step_is_cheaper(run, cpu_clock, monkeypatch):
    step = Trainer.step

    def timed(trainer, rows):
        cpu_clock.now += 3.0 if trainer.state.model.lattice is not None else 1.0
        step(trainer, rows)

    monkeypatch.setattr(Trainer, "step", timed)
    cpu_clock.costs(scored_run, "evaluate", 100.0)
    told = run("--arms", "trained,identity", "--every", 2, "--equal-cpu", "--target", 100, "--json")
    assert told.code == 0, told.err
    found = {arm["arm"]: arm for arm in told.json["arms"]}
    assert {name: (arm["steps"], arm["cpu_s"]) for name, arm in found.items()} == {
        "trained": (4, 12.0), "identity": (4, 4.0), "identity, equal CPU": (12, 12.0),
    }  # fmt: skip
    assert found["trained"]["looks"]["cpu_s"] == [6.0, 12.0]
    assert list(told.json["effects"]) == ["identity", "identity, equal CPU"]
    assert told.json["to_target"]["identity, equal CPU"] == {"steps": 12, "cpu_s": 12.0, "missed": 1, "runs": 1}


def test_the_picture_is_a_png(run, tmp_path):
    told = run("--arms", "trained,identity", "--every", 2, "--target", 50, "--seeds", 2, "--plot", tmp_path / "arms.png")
    assert told.code == 0 and (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# Going on


def test_a_results_file_gives_the_runs_that_it_has_and_the_rest_is_trained(run, trained, tmp_path):
    options = ("--every", 2, "--out", tmp_path / "results.jsonl", "--json")
    first = run(*options, "--arms", "trained")
    assert first.code == 0 and trained == [("trained", 0)], first.err
    both = run(*options, "--arms", "trained,identity", "--equal-cpu", "--target", 3)
    assert trained[1:] == [("identity", 0), ("identity, equal CPU", 0)] and "trained, seed 0: already" in both.err
    again = run(*options, "--arms", "trained,identity", "--equal-cpu", "--target", 3)
    assert len(trained) == 3 and again.out == both.out
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["experiment"], row["arm"]) for row in rows] == [("arms", arm) for arm, _ in trained]


@pytest.mark.parametrize("change", [("--every", 3), ("--steps", 5), ("--set", "optimizer.clip=2"), ("--test", "DATA")])
def test_results_under_other_conditions_are_not_taken(run, trained, sentences, tmp_path, change):
    options = ("--every", 2, "--out", tmp_path / "results.jsonl", "--arms", "identity")
    run(*options)
    assert run(*options, *(sentences if part == "DATA" else part for part in change)).code == 0
    assert len(trained) == 2


def test_results_of_another_kind_of_experiment_are_refused(cli, run, sentences, tmp_path):
    out = tmp_path / "results.jsonl"
    assert run("--arms", "identity", "--out", out).code == 0
    rest = ("--data", sentences, "--arms", "off-biased", "--every", 2, "--seeds", 1)
    told = cli("experiment", "convergence", *QUICK, *rest, "--out", out)
    assert told.code == 2 and "line 1 is no result of such an experiment" in told.err
    other = tmp_path / "other.jsonl"
    assert cli("experiment", "convergence", *QUICK, *rest, "--out", other).code == 0
    assert "line 1 is no result of such an experiment" in run("--arms", "identity", "--out", other).err


# Bad input


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--target", 50), ("--target: needs scores on the way; give --every",)),
        (("--plot", "arms.png"), ("--plot: needs scores on the way; give --every",)),
        (("--target", 0, "--every", 2), ("--target: 0 is no score to reach",)),
        (("--target", 101, "--every", 2), ("--target: 101 is no score",)),
        (("--target", "nan", "--every", 2), ("--target: nan is no score",)),
        (("--plot", "arms.svg", "--every", 2), ("the picture is a PNG",)),
        (("--arms", "gru"), ("--arms: gru can't be had, it is for text.reading = time",)),
        (("--arms", "trained, no rule"), ("--arms: no rule can't be had, this config has no rule",)),
        (("--arms", "trained,larger"), ("no arm is named 'larger'", "larger encoder")),
        (("--equal-cpu", "--arms", "trained,frozen"), ("--equal-cpu: compares identity, larger encoder, gru with trained",)),
        (("--equal-cpu", "--arms", "identity"), ("choose trained and one of the others",)),
        (("--test", "a.txt", "--test", "a.txt"), ("--test: a.txt is given twice",)),
        (("--test", "nowhere.txt"), ("nowhere.txt",)),
        (("--set", "lattice.arm=identity"), ("lattice.arm: identity is set by the arms themselves",)),
        (("--arm", "odd text.width=40"), ("arm odd: all arms share the section text",)),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_training(run, trained, monkeypatch, tmp_path, options, parts):
    monkeypatch.chdir(tmp_path)
    told = run(*options)
    *notes, last = told.err.splitlines()
    assert (told.code, told.out) == (2, "") and last.startswith("lattice-tui: "), told.err
    assert all(part in last for part in parts) and all("left out" in note for note in notes)
    assert trained == [] and list(tmp_path.iterdir()) == []


def test_results_that_can_not_be_written_are_told_before_training(run, trained, tmp_path):
    told = run("--out", tmp_path / "nowhere" / "results.jsonl")
    assert told.code == 2 and f"there is no folder {tmp_path / 'nowhere'}; make it first" in told.err and trained == []
