"""`experiment optimizers`: the arms' optimizers, what they keep, and what GaLore retains while it trains."""

from __future__ import annotations

import pytest
import torch

from app.experiments import measure
from app.experiments.experiment import Source
from app.experiments.measure import Conditions, ExperimentText
from app.experiments.optimizers import ARMS, EnergyLooks, sentences
from lattice.data.corpus import Corpus, Pair
from lattice.data.grammar import generate
from lattice.training.trainer import Trainer
from presets.layers import load

CPU = torch.device("cpu")
CONDITIONS = Conditions(target=0.001, every=2, to_end=True, score=False)
SETTINGS = ("stages.0.steps=7", "stages.1.steps=5", "optimizer.warmup_steps=2", "run.threads=1")


@pytest.fixture(scope="module")
def text() -> ExperimentText:
    pairs = tuple(Pair(line, line) for line in generate(200, seed=3))
    return ExperimentText.of(
        load("tiny", None, SETTINGS).config, Corpus("generated", pairs[:160], pairs[160:], {}), pairs[160:170]
    )


def trained(text: ExperimentText, *settings: str, looking: type[measure.Looks] = EnergyLooks) -> measure.Outcome:
    return measure.train("a", 0, load("tiny", None, [*SETTINGS, *settings]).config, text, CPU, CONDITIONS, looking)


def test_every_arm_trains_by_the_optimizer_it_is_named_after():
    source = Source("small", None, [], {}, None, None)
    found = {arm.name: source.config(arm, 0).optimizer for arm in ARMS}
    assert all(name.startswith(section.name) for name, section in found.items()) and len(found) == 6
    assert [name for name, section in found.items() if section.momentum == "bf16"] == ["adafactor-momentum"]


def test_the_energy_is_looked_at_every_so_often_through_all_stages_for_cells_and_connections(text):
    run = trained(text, "optimizer.name=galore", "connections.learning=gradient")
    parts = ("cells", "connections")
    assert [(step, part) for step, part, _, _ in run.retained] == [(step, part) for step in range(2, 13, 2) for part in parts]
    for _, _, kept, random in run.retained:
        assert 0 < random < kept < 1


def test_other_optimizers_retain_nothing_and_full_rank_retains_all(text):
    assert trained(text, "optimizer.name=adam8bit").retained == ()
    run = trained(text, "optimizer.name=galore", "optimizer.tensor_rank=1.0")
    assert all(kept == pytest.approx(1, abs=1e-5) and random == pytest.approx(1, abs=1e-5) for *_, kept, random in run.retained)


def test_looking_at_the_energy_changes_no_loss_and_costs_the_run_nothing(text, cpu_clock):
    from app.experiments import optimizers

    cpu_clock.costs(Trainer, "step", 1.0)
    cpu_clock.costs(optimizers, "of_step", 100.0)
    plain, looked = (trained(text, "optimizer.name=galore", looking=looking) for looking in (measure.Looks, EnergyLooks))
    assert looked.losses == plain.losses and looked.retained and not plain.retained
    assert (plain.cpu_s, looked.cpu_s) == (12.0, 12.0) and cpu_clock.now == 2 * 12 + 6 * 100


def test_the_sentences_tell_bytes_against_adamw_and_what_was_retained(text):
    results = {name: [trained(text, f"optimizer.name={name}")] for name in ("adamw", "galore", "adam8bit")}
    told = list(sentences(results))
    assert [line.partition(" ")[0] for line in told] == ["galore"] * (len(told) - 1) + ["adam8bit"]
    lattice = results["adam8bit"][0].lattice_optimizer_bytes / results["adamw"][0].lattice_optimizer_bytes
    assert f"adam8bit keeps {lattice:.1%} of AdamW's bytes for cells and connections" in told[-1]
    kept = [look[2] for look in results["galore"][0].retained if look[1] == "cells"]
    assert any(f"retains {sum(kept) / len(kept):.0%} of the energy of gradients of cells" in line for line in told)
    assert all("AdamW" not in line for line in sentences({"galore": results["galore"]}))


def test_the_command_tells_the_loss_against_adamw_and_the_energy(cli, sentences):
    quick = ("--preset", "tiny", "--steps", 12, "--every", 2, "--set", "run.threads=1", "--data", sentences, "--seeds", 2)
    arms = ("--arms", "adamw,galore")
    told = cli("experiment", "optimizers", *quick, *arms, "--json")
    assert told.code == 0, told.err
    found = told.json
    runs = {arm["arm"]: arm["runs"] for arm in found["arms"]}
    ratios = [ours["loss"] / theirs["loss"] - 1 for ours, theirs in zip(runs["galore"], runs["adamw"], strict=True)]
    assert found["measure"] == "loss" and found["effect"] == pytest.approx(sum(ratios) / 2)
    assert runs["galore"][0]["retained"] and not runs["adamw"][0]["retained"]
    table = cli("experiment", "optimizers", *quick, *arms).out
    assert "loss change" in table and "galore retains" in " ".join(table.split())
