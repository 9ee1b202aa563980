"""`experiment transfer`: the arms' stages, what counts of a grown run, and the loss around its growth."""

from __future__ import annotations

import math

import pytest
import torch

from app.experiments import measure, transfer
from app.experiments.experiment import Source
from app.experiments.measure import Conditions, ExperimentText
from app.experiments.transfer import GROWN, SCRATCH, GrowthLooks, arms_of, growth_ratios
from lattice.data.corpus import Corpus, Pair
from lattice.data.grammar import generate
from lattice.training import changes
from lattice.training.trainer import Trainer
from presets.layers import load


def configs(preset: str, before: float, *settings: str, steps: int | None = None):
    source = Source(preset, None, list(settings), {}, steps, None)
    return {arm.name: source.config(arm, 0) for arm in arms_of(source.load().config, before)}


def test_a_preset_of_one_stage_grows_from_half_its_size_in_the_same_steps():
    found = configs("small", 0.25, steps=400)
    scratch, grown = found[SCRATCH], found[GROWN]
    assert [(stage.shape, stage.steps) for stage in scratch.stages] == [((50, 50, 25), 400)]
    assert [(stage.shape, stage.strides.z, stage.steps) for stage in grown.stages] == [
        ((25, 25, 12), (2, 4), 100),
        ((50, 50, 25), (4, 8), 300),
    ]
    same = {"stages", "purpose"}
    assert scratch.model_dump(exclude=same) == grown.model_dump(exclude=same)


def test_a_preset_of_several_stages_grows_through_them():
    found = configs("progressive", 0.5)
    assert [stage.name for stage in found[GROWN].stages] == ["small", "medium", "large"]
    assert [(stage.name, stage.steps) for stage in found[SCRATCH].stages] == [("large", found[GROWN].total_steps)]


@pytest.mark.parametrize(("shape", "halved"), [("[9,8,7]", (4, 4, 3)), ("[8,8,2]", (4, 4, 1))])
def test_halves_are_rounded_down_to_one_cell_at_least(shape, halved):
    config = load("baseline", None, [f"stages.0.shape={shape}", "stages.0.strides.z=[]", "stages.0.ticks=12"]).config
    assert transfer.halved(config.stages[0], 5).shape == halved


def test_the_target_counts_in_the_last_stage_alone_with_the_first_one_s_time_and_the_growth_is_looked_at(cpu_clock):
    cpu_clock.costs(Trainer, "step", 1.0)
    cpu_clock.costs(changes, "_grow", 0.5)
    cpu_clock.costs(measure, "held_out_loss", 100.0)
    settings = ("stages.0.steps=14", "stages.1.steps=6", "optimizer.warmup_steps=2", "run.threads=1")
    config = load("tiny", None, settings).config
    pairs = tuple(Pair(line, line) for line in generate(200, seed=3))
    text = ExperimentText.of(config, Corpus("generated", pairs[:160], pairs[160:], {}), pairs[160:170])

    # Any loss is below this target: the first look in the last stage, right after growing, ends the run there.
    easy = Conditions(target=50, every=2, to_end=False, score=False)
    run = measure.train("grown", 0, config, text, torch.device("cpu"), easy, GrowthLooks)
    assert run.look_steps == (14,) and run.steps == 14
    assert run.look_cpu_s == (14.5,) and run.cpu_s == 14.5
    ((before, after),) = run.growths
    assert after == run.losses[0] and before != after and growth_ratios([run]) == [after / before]

    never = Conditions(target=0.001, every=2, to_end=False, score=False)
    run = measure.train("grown", 0, config, text, torch.device("cpu"), never, GrowthLooks)
    assert run.look_steps == (14, 16, 18, 20) and run.look_cpu_s == (14.5, 16.5, 18.5, 20.5)


def test_a_loss_that_is_not_finite_after_a_growth_is_no_small_ratio():
    class Run:
        growths = ((2.0, None), (2.0, 3.0), (None, 1.0))

    assert growth_ratios([Run()]) == [math.inf, 1.5]


def test_the_command_tells_both_arms_and_the_loss_around_the_growth(cli, sentences):
    quick = ("--preset", "tiny", "--steps", 12, "--every", 2, "--set", "run.threads=1", "--data", sentences, "--seeds", 1)
    told = cli("experiment", "transfer", *quick, "--target", 50, "--json")
    assert told.code == 0, told.err
    assert (told.json["name"], told.json["measure"]) == ("transfer", "cpu_s")
    runs = {arm["arm"]: arm["runs"][0] for arm in told.json["arms"]}
    assert runs["scratch"]["growths"] == [] and len(runs["grown"]["growths"]) == 1 and runs["grown"]["bleu"] is None
    table = cli("experiment", "transfer", *quick, "--target", 50)
    assert "held-out loss right after a growth" in table.out and "CPU s saved" in table.out
