"""The commands of `experiment` on the tiny preset: what they print, what they refuse, and going on after an interruption."""

from __future__ import annotations

import json
import re

import pytest

from app.experiments import convergence, experiment, optimizers, plasticity, search, sparsity
from app.experiments.arms import control_arms
from app.experiments.experiment import Arm, choose
from app.experiments.search import SearchRange

PNG = b"\x89PNG\r\n\x1a\n"
QUICK = ("--preset", "tiny", "--steps", 12, "--every", 2, "--set", "run.threads=1")
TWO = ("--arms", "off-biased,on-biased")
KEYS = {"name", "arms", "effect", "low", "high", "seeds"}


@pytest.fixture
def run(cli, sentences):
    """`run("convergence", ...)`: the experiment on the tiny preset and 300 sentences."""
    return lambda name, *options: cli("experiment", name, *QUICK, "--data", sentences, *options)


@pytest.fixture
def trained(monkeypatch):
    """(arm, seed) of every run that was really trained; with `fail_at = n`, the n-th is interrupted instead."""
    train = experiment.train

    class Calls(list):
        fail_at = None

    calls = Calls()

    def counting(arm, seed, *rest):
        if len(calls) == calls.fail_at:
            raise KeyboardInterrupt
        calls.append((arm, seed))
        return train(arm, seed, *rest)

    monkeypatch.setattr(experiment, "train", counting)
    return calls


def refused(told, *parts: str) -> None:
    """Exit code 2, and one sentence with all the parts."""
    assert (told.code, told.out) == (2, ""), told.err
    assert told.err.startswith("lattice-tui: ") and told.err.count("\n") == 1
    assert all(part in told.err for part in parts), told.err


# What comes out


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("convergence", ["off-biased", "on-unbiased"]),
        ("optimizers", ["adamw", "adam8bit"]),
        ("plasticity", ["gradient", "hybrid-bcm"]),
        ("sparsity", ["dense", "sparse-70"]),
    ],
)
def test_json_keeps_the_contract_and_tells_every_run(run, name, arms):
    told = run(name, "--arms", ",".join(arms), "--seeds", 2, "--target", 50, "--json")
    assert told.code == 0, told.err
    found = told.json
    assert set(found) >= KEYS and (found["name"], found["seeds"]) == (name, 2)
    assert [arm["arm"] for arm in found["arms"]] == arms
    assert [[each["seed"] for each in arm["runs"]] for arm in found["arms"]] == [[0, 1], [0, 1]]
    assert found["low"] <= found["effect"] <= found["high"] and found["bound"] == "exact"


@pytest.mark.parametrize("name", ["convergence", "optimizers", "plasticity", "sparsity"])
def test_tables_fit_80_columns_with_every_arm_and_say_who_missed_the_target(run, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arms = {
        "convergence": "*",
        "optimizers": "*",
        "plasticity": "gradient,frozen,*three_factor+winners",
        "sparsity": "dense,sparse-?0",
    }[name]
    told = run(name, "--arms", arms, "--seeds", 1, "--target", 0.001)
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "runs did not reach it in 12 steps" in " ".join(lines)
    assert "0/1" in told.out and "≥12" in told.out and ("unknown" in told.out or name == "sparsity")


def test_arms_of_a_seed_are_paired_equal_settings_give_equal_runs(run):
    told = run("convergence", "--arms", "off-biased", "--arm", "twin stages.0.waves=0", "--seeds", 2, "--target", 50, "--json")
    off, twin = ([each["losses"] for each in arm["runs"]] for arm in told.json["arms"])
    assert off == twin and off[0] != off[1]
    assert told.json["effect"] == told.json["low"] == told.json["high"] == 0


def test_discovery_is_on_in_the_arms_with_waves_alone_and_a_setting_of_the_user_wins_over_their_default(run):
    arms = {arm["arm"]: arm["runs"][0] for arm in run("convergence", *TWO, "--seeds", 1, "--json").json["arms"]}
    assert arms["off-biased"]["waves_cpu_s"] == 0 < arms["on-biased"]["waves_cpu_s"]
    source = experiment.Source("tiny", None, ["stages.0.waves=3"], {}, None, None)
    on = {arm.name: source.config(arm, 0) for arm in convergence.ARMS}
    assert [on[name].stages[0].waves for name in ("off-biased", "off-unbiased", "on-biased", "on-unbiased")] == [0, 0, 3, 3]
    assert on["on-biased"].plasticity.rate == 0.02 and on["on-unbiased"].connections.excitatory


def test_every_arm_of_every_experiment_is_a_config_of_its_own():
    source = experiment.Source("progressive", None, [], {}, None, None)
    for arms in (convergence.ARMS, optimizers.ARMS, plasticity.ARMS, sparsity.arms_of(3)):
        configs = [source.config(arm, 0) for arm in arms]
        assert len({config.model_dump_json() for config in configs}) == len(arms) == len({arm.name for arm in arms})


def test_arms_without_a_lattice_leave_chance_out_however_it_is_set():
    given = ["rule.update_probability=0.5", "training.wounds=0.5", "training.wound_size=0.5"]
    source = experiment.Source("walker", None, given, {}, None, None)
    for arms in (convergence.ARMS, control_arms.arms_of(source.load().config)[0]):
        for config in (source.config(arm, 0, control_arms.ENCODER_SIZE) for arm in arms):
            chance = config.rule.update_probability, config.training.wounds, config.training.wound_size
            assert chance == ((0.5, 0.5, 0.5) if config.lattice.arm == "lattice" else (1, 0, None))


def test_the_arm_without_a_lattice_leaves_the_shared_rule_out_however_it_is_set():
    source = experiment.Source("tiny", None, ["rule.kind=mlp", "rule.hidden=8"], {}, None, None)
    rules = {arm.name: source.config(arm, 0).rule.hidden_numbers for arm in convergence.ARMS}
    assert rules.pop("identity") is None and set(rules.values()) == {8}


def test_sparsity_trains_to_the_last_step_the_others_stop_at_the_target_unless_told(run):
    def steps(name, *options):
        found = run(name, "--seeds", 1, "--target", 50, "--json", *options).json
        return {each["steps"] for arm in found["arms"] for each in arm["runs"]}

    assert steps("sparsity", "--arms", "dense") == {12} and steps("sparsity", "--arms", "dense", "--to-target") == {10}
    assert steps("plasticity", "--arms", "gradient") == {10}
    assert steps("plasticity", "--arms", "gradient", "--to-end") == {12}


def test_the_test_file_is_what_is_scored(run, sentences, tmp_path):
    test = tmp_path / "test.txt"
    test.write_text("".join(sentences.read_text(encoding="utf-8").splitlines(keepends=True)[:7]), encoding="utf-8")
    told = run("convergence", "--arms", "off-biased", "--seeds", 1, "--test", test)
    assert told.code == 0 and "BLEU on 7 sentences" in " ".join(told.out.split())


def test_the_picture_is_a_png(run, tmp_path):
    path = tmp_path / "curves.png"
    assert run("convergence", *TWO, "--seeds", 2, "--plot", path).code == 0
    assert path.read_bytes().startswith(PNG)


# Going on


def test_an_interrupted_experiment_goes_on_with_the_runs_that_are_missing(run, trained, tmp_path):
    options = (*TWO, "--seeds", 2, "--target", 50, "--json", "--out", tmp_path / "results.jsonl")
    trained.fail_at = 3
    assert run("convergence", *options).code == 130
    assert trained == [("off-biased", 0), ("on-biased", 0), ("off-biased", 1)]
    trained.fail_at = None
    told = run("convergence", *options)
    assert trained[3:] == [("on-biased", 1)] and told.err.count("already in the results file") == 3
    again = run("convergence", *options)
    assert len(trained) == 4 and again.out == told.out


def test_half_a_line_of_a_killed_run_is_done_again(run, trained, tmp_path):
    out = tmp_path / "results.jsonl"
    options = (*TWO, "--seeds", 1, "--out", out)
    run("convergence", *options)
    whole = out.read_bytes()
    out.write_bytes(whole[:-40])
    run("convergence", *options)
    assert trained == [("off-biased", 0), ("on-biased", 0), ("on-biased", 0)]
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 2


@pytest.mark.parametrize(
    "change", [("--set", "optimizer.clip=2"), ("--steps", 14), ("--target", 2), ("--every", 3), ("--to-end",)]
)
def test_results_of_other_settings_are_not_taken(run, trained, tmp_path, change):
    options = ("--arms", "off-biased", "--seeds", 1, "--out", tmp_path / "results.jsonl")
    run("convergence", *options)
    run("convergence", *options, *change)
    assert len(trained) == 2


def test_results_of_other_text_are_not_taken(cli, run, trained, sentences, tmp_path):
    options = ("--arms", "off-biased", "--seeds", 1, "--out", tmp_path / "results.jsonl")
    run("convergence", *options)
    other = tmp_path / "other.txt"
    other.write_text("".join(sentences.read_text(encoding="utf-8").splitlines(keepends=True)[:200]), encoding="utf-8")
    cli("experiment", "convergence", *QUICK, "--data", other, *options)
    assert len(trained) == 2


@pytest.mark.parametrize("content", [b"my notes\n", b'{"a": 1}\n', b"no newline", b'{"key": "x", "arm": "a"}\n'])
def test_a_file_that_holds_no_results_is_refused_and_left_alone(run, trained, tmp_path, content):
    out = tmp_path / "notes.txt"
    out.write_bytes(content)
    refused(run("convergence", *TWO, "--out", out), "line 1 is no result of such an experiment")
    assert out.read_bytes() == content and trained == []


# Search


def test_every_arm_gets_the_same_trials_and_its_best_setting_gets_the_seeds(run, tmp_path):
    out = tmp_path / "results.jsonl"
    told = run("convergence", *TWO, "--seeds", 1, "--search", 3, "--search-steps", 12, "--out", out, "--json")
    assert told.code == 0, told.err
    found = told.json
    for arm in found["arms"]:
        trials = [trial for trial in found["trials"] if trial["arm"] == arm["arm"]]
        assert [trial["trial"] for trial in trials] == [0, 1, 2] and trials[0]["settings"] == []
        best = min(trials, key=lambda trial: trial["loss"])
        assert arm["settings"][len(arm["settings"]) - len(best["settings"]) :] == best["settings"]
    logged = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seed"] for row in logged] == [search.SEED_OFFSET] * 6 + [0, 0]


def test_trials_draw_the_same_values_of_what_arms_share_and_stay_in_range():
    space = convergence.SPACES
    for trial in range(1, 40):
        drawn = {name: {key: within.draw(trial, key) for key, within in arm.items()} for name, arm in space.items()}
        assert len({each["optimizer.learning_rate"] for each in drawn.values()}) == 1
        assert all(
            within.low <= float(drawn[name][key]) <= within.high for name, arm in space.items() for key, within in arm.items()
        )
    assert re.fullmatch(r"\d+", SearchRange(5, 80, whole=True).draw(1, "stages.0.waves"))


# Bad input


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--target", 0), ("--target: 0 is no held-out loss",)),
        (("--target", -1), ("--target",)),
        (("--target", "nan"), ("--target",)),
        (("--target", "inf"), ("--target",)),
        (("--arms", "off-biased,of-biased"), ("no arm is named 'of-biased'", "off-unbiased")),
        (("--arms", ""), ("no arm is named ''",)),
        (("--arm", "lonely"), ("'lonely' is not a name and settings",)),
        (("--arm", "torn 'quote"), ("is not a name and settings",)),
        (("--arm", "identity optimizer.clip=2"), ("already an arm identity",)),
        (("--arm", "odd optimizer.clap=2"), ("lattice-tui: arm odd: optimizer.clap: unknown key",)),
        (("--arm", "odd text.max_tokens=20"), ("arm odd: all arms share the section text",)),
        (("--plot", "picture.svg"), ("the picture is a PNG",)),
        (("--plot", "nowhere/picture.png"), ("there is no folder nowhere; make it first",)),
        (("--test", "nowhere.txt"), ("nowhere.txt",)),
        (("--steps", 1), ("--steps",)),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_training(run, trained, monkeypatch, tmp_path, options, parts):
    monkeypatch.chdir(tmp_path)
    refused(run("convergence", *options), *parts)
    assert trained == [] and list(tmp_path.iterdir()) == []


def test_results_that_can_not_be_written_are_told_before_training(run, trained, tmp_path):
    told = run("convergence", "--out", tmp_path / "nowhere" / "results.jsonl")
    assert told.code == 2 and f"there is no folder {tmp_path / 'nowhere'}; make it first" in told.err and trained == []


@pytest.mark.parametrize("options", [("--seeds", 0), ("--every", 0), ("--search", -1), ("--search-steps", 0)])
def test_counts_below_the_least_are_refused(run, trained, options):
    told = run("convergence", *options)
    assert told.code == 2 and options[0] in told.err and trained == []


def test_patterns_choose_arms_in_their_order_and_own_arms_come_last():
    known = [Arm(name) for name in ("a-1", "a-2", "b-1")]
    own = Arm("own", ("x.y=[1,2]", "x.z=two words"))
    assert choose(known, "b-*, a-?", ["own x.y=[1,2] 'x.z=two words'"]) == [known[2], known[0], known[1], own]
    assert choose(known, None, []) == known
