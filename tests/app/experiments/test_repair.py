"""`experiment repair`: the damage that is scored, that all arms meet the same, and what is told of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from app.experiments import measure, repair
from app.experiments.experiment import Source
from app.experiments.measure import Conditions, ExperimentText, Outcome
from app.experiments.repair import ARMS, PROBABILITIES, UNWOUNDED, WOUNDED, RepairLooks, conditions
from app.experiments.statistics import UNKNOWN
from lattice.data.corpus import load_corpus
from lattice.model.lattice3d import Lattice
from lattice.training.trainer import Trainer
from presets.layers import load

PNG = b"\x89PNG\r\n\x1a\n"
CPU = torch.device("cpu")
LIFT = "task:lift,words=3-9,count=200,held=8"
QUICK = ("--preset", "tiny", "--steps", 8, "--set", "run.threads=1", "--data", LIFT)
SETTINGS = (
    f'data.train="{LIFT}"', "stages.0.steps=3", "stages.1.steps=3", "optimizer.warmup_steps=2", "run.threads=1",
)  # fmt: skip
NO_SCORE = Conditions(target=1.0, every=100, to_end=True, score=False)


def outcome(arm: str, seed: int, *repaired: tuple[float, float, float], failure: str = "") -> Outcome:
    blank = {field.name: () for field in dataclasses.fields(Outcome)}
    numbers = {"steps": 4, "budget": 4, "cpu_s": 1.0, "waves_cpu_s": 0.0, "losses": (1.0,), "bleu": None}
    return Outcome(**blank | numbers | {"arm": arm, "seed": seed, "repaired": repaired, "failure": failure})


def test_a_face_of_16_columns_has_all_shares_and_a_smaller_one_those_it_can_have():
    walker = load("walker", None, ["stages.0.shape=[4,4,4]", "text.lag=3", "stages.0.ticks=39"]).config
    shares = [0, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert conditions(walker) == [(share, probability) for probability in (1.0, 0.9, 0.5) for share in shares]
    small = load("walker", None, ["stages.0.shape=[2,2,3]"]).config
    assert [share for share, probability in conditions(small) if probability == 1] == [0, 1 / 4, 1 / 2]


def test_arms_differ_in_wounds_alone_whose_share_and_size_can_be_set():
    for given in ((), ("training.wounds=0.8", "training.wound_size=0.5")):
        source = Source("walker", None, list(given), {}, None, None)
        without, wounded = (source.config(arm, 0) for arm in ARMS)
        assert (without.training.wounds, without.training.wound_size) == (0, None)
        assert (wounded.training.wounds, wounded.training.wound_share) == ((0.8, 0.5) if given else (0.5, 0.25))
        assert without.model_dump(exclude={"training"}) == wounded.model_dump(exclude={"training"})


def test_every_damage_is_scored_alike_in_all_arms_and_otherwise_in_other_seeds(monkeypatch, cpu_clock):
    cpu_clock.costs(Trainer, "step", 1.0)
    cpu_clock.costs(repair, "evaluate", 100.0)
    met: list[tuple] = []
    ran = Lattice._ran

    def watching(self, drive, *rest, **more):
        if not torch.is_grad_enabled():
            met.append(dataclasses.replace(self.chance, ticks=None))
        return ran(self, drive, *rest, **more)

    monkeypatch.setattr(Lattice, "_ran", watching)
    base = load("tiny", None, SETTINGS).config
    corpus = load_corpus(base)
    text, found = ExperimentText.of(base, corpus, corpus.valid), {}
    for name, settings in (("a", ()), ("b", ("training.wounds=0.5",)), ("c", ("run.seed=1",))):
        met.clear()
        config = load("tiny", None, [*SETTINGS, *settings]).config
        run = measure.train(name, config.run.seed, config, text, CPU, NO_SCORE, RepairLooks)
        assert [condition[:2] for condition in run.repaired] == conditions(config)
        assert all(0 <= score <= 100 for _, _, score in run.repaired) and run.cpu_s == 6.0
        found[name] = [chance for chance in met if chance.key != met[0].key]  # the first pass is of a look
    wounds = [
        (bool(chance.wounds), chance.wound_size if chance.wounds else 0.0, chance.update_probability) for chance in found["a"]
    ]
    assert wounds == [(share > 0, share, probability) for share, probability in conditions(base)]
    assert found["a"] == found["b"] and len({chance.key for chance in found["a"]}) == 1
    assert not {chance.key for chance in found["a"]} & {chance.key for chance in found["c"]}


def test_the_effect_is_the_mean_difference_under_the_same_damage_and_unknown_if_a_run_failed():
    here, there = (0.25, 1.0), (0.5, 1.0)
    results = {
        UNWOUNDED: [outcome(UNWOUNDED, seed, (*here, 60.0 + seed), (*there, 40.0)) for seed in (0, 1)],
        WOUNDED: [outcome(WOUNDED, seed, (*here, 70.0 + 3 * seed), (*there, 39.0)) for seed in (0, 1)],
    }
    found = repair.effect(results, here)
    assert (found.mean, found.low, found.high, found.bound) == (11.0, 10.0, 12.0, "exact")
    assert repair.effect(results, there).mean == -1.0
    assert repair.effect({WOUNDED: results[WOUNDED]}, here) == UNKNOWN
    results[WOUNDED][1] = outcome(WOUNDED, 1, failure="a weight is not finite")
    assert repair.effect(results, here) == UNKNOWN


def test_a_failed_run_is_told_and_its_arm_has_no_scores(tmp_path):
    base = load("walker").config
    whole = [(*condition, 50.0) for condition in conditions(base)]
    results = {UNWOUNDED: [outcome(UNWOUNDED, 0, *whole)], WOUNDED: [outcome(WOUNDED, 0, failure="a weight is not finite")]}
    columns = [list(column.cells) for column in repair.table(results, base).columns]
    assert columns[0] == [UNWOUNDED] * 3 + [WOUNDED] * 3 and columns[1] == ["1", "0.9", "0.5"] * 2
    assert all(column == ["50.0"] * 3 + ["failed"] * 3 for column in columns[2:])
    assert list(repair.sentences(results, base, 1, 9))[1:] == ["wounded, seed 0 failed at step 5: a weight is not finite"]
    repair.draw(tmp_path / "curve.png", results, base)
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_a_difference_that_rounds_to_nothing_has_no_minus():
    base = load("walker").config
    by_arm = {UNWOUNDED: 50.0, WOUNDED: 49.98}
    results = {arm: [outcome(arm, 0, *((*each, score) for each in conditions(base)))] for arm, score in by_arm.items()}
    assert "wounded against unwounded, nothing zeroed: +0.0" in repair.sentences(results, base, 1, 9)


def test_the_command_trains_both_arms_keeps_their_runs_and_tells_every_score(cli, tmp_path):
    kept = ("--out", tmp_path / "runs.jsonl", "--seeds", 2)
    told = cli("experiment", "repair", *QUICK, *kept, "--json", "--plot", tmp_path / "curve.png")
    assert told.code == 0, told.err
    assert "runs to train: 4 (unwounded, wounded; 2 seeds each) of 8 steps\n" in told.err
    found = told.json
    assert (found["name"], found["measure"], found["seeds"]) == ("repair", "exact", 2)
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)
    runs = {arm["arm"]: arm["runs"] for arm in found["arms"]}
    assert list(runs) == [UNWOUNDED, WOUNDED] and [run["seed"] for run in runs[WOUNDED]] == [0, 1]

    def scores(arm: str, probability: float, share: float) -> list[float]:
        same = [{"share": share, "update_probability": probability}]
        return [each["score"] for run in runs[arm] for each in run["scores"] if {**each, **same[0]} == each]

    for each in found["effects"]:
        ours, theirs = (scores(arm, each["update_probability"], each["share"]) for arm in (WOUNDED, UNWOUNDED))
        assert len(ours) == len(theirs) == 2 and each["mean"] == pytest.approx((sum(ours) - sum(theirs)) / 2)
    main = next(e for e in found["effects"] if e["update_probability"] == 1 and e["share"] == pytest.approx(0.25))
    assert (found["effect"], found["low"], found["high"]) == (main["mean"], main["low"], main["high"])

    again = cli("experiment", "repair", *QUICK, *kept)
    assert again.code == 0 and again.err.count("already in the results file") == 4
    said = " ".join(again.out.split())
    assert "exact answers in percent, means over 2 seeds" in said and "wounded against unwounded, nothing zeroed" in said
    assert all(f"{arm} {probability:g}" in said for arm in (UNWOUNDED, WOUNDED) for probability in PROBABILITIES)


def test_own_arms_are_scored_too(cli):
    own = ("--arms", UNWOUNDED, "--arm", "loose rule.update_probability=0.5")
    told = cli("experiment", "repair", *QUICK, *own, "--seeds", 1, "--json")
    assert told.code == 0, told.err
    assert [arm["arm"] for arm in told.json["arms"]] == [UNWOUNDED, "loose"] and told.json["effect"] is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--set", "lattice.arm=identity"), "lattice.arm: identity has no cells that could be damaged; use lattice"),
        (("--arms", "healed"), "no arm is named 'healed'; there are unwounded, wounded"),
        (("--plot", "curve.pdf"), "the picture is a PNG"),
        (("--set", "training.wound_size=2"), "training.wound_size"),
        (("--set", "training.wounds=0"), "training.wounds: 0 leaves nothing to tell wounded from unwounded"),
    ],
)
def test_what_can_not_be_is_refused(cli, options, reason):
    told = cli("experiment", "repair", *QUICK, *options)
    assert (told.code, told.out) == (2, "") and reason in told.err
