"""Which arms a config has, and that each is what its name says."""

from __future__ import annotations

import pytest
import torch

from app.experiments.arms.control_arms import ENCODER_SIZE, FROZEN, GRU, IDENTITY, LARGER, NO_RULE, TRAINED, arms_of
from app.experiments.experiment import Source
from lattice.model.text_lattice import TextLattice

WALKER = ("data.train=task:house,count=20,held=5",)


def configs(preset: str, *settings: str) -> tuple[dict, dict[str, str]]:
    """The config of each arm, and why others are missing."""
    source = Source(preset, None, list(settings), {}, None, None)
    arms, missing = arms_of(source.load().config)
    return {arm.name: source.config(arm, 0, ENCODER_SIZE) for arm in arms}, missing


def size(config) -> int:
    return sum(p.numel() for p in TextLattice(config, 0, 300, torch.device("cpu")).parameters())


def test_walker_has_all_arms_and_those_in_the_lattices_place_have_at_least_its_parameters():
    found, missing = configs("walker", *WALKER)
    assert list(found) == [TRAINED, NO_RULE, FROZEN, IDENTITY, LARGER, GRU] and missing == {}
    sizes = {name: size(config) for name, config in found.items()}
    assert sizes[TRAINED] == sizes[FROZEN] > sizes[NO_RULE] > sizes[IDENTITY]
    layer = size(found[LARGER]) - size(found[IDENTITY])  # the first one; there are no narrower encoders
    assert sizes[TRAINED] <= sizes[LARGER] < sizes[TRAINED] + layer and sizes[TRAINED] <= sizes[GRU] < sizes[TRAINED] + 1000
    assert found[GRU].lattice.gru_width == 137


def test_no_rule_changes_the_rule_alone_and_frozen_only_what_learns():
    found, _ = configs("walker", *WALKER, "rule.kind=mlp", "rule.hidden=8", "rule.update_probability=0.9")
    same = {name: config.model_dump() for name, config in found.items()}
    assert same[NO_RULE].pop("rule") == {"kind": "none", "hidden": None, "scope": "lattice", "update_probability": 0.9}
    trained = dict(same[TRAINED])
    assert (
        trained.pop("rule") == {"kind": "mlp", "hidden": 8, "scope": "cell", "update_probability": 0.9}
        and trained == same[NO_RULE]
    )
    frozen = same[FROZEN]
    assert (frozen["lattice"].pop("cells"), frozen["connections"].pop("learning")) == ("frozen", "frozen")
    same[TRAINED]["lattice"].pop("cells"), same[TRAINED]["connections"].pop("learning")
    assert frozen == same[TRAINED]


def test_arms_that_say_nothing_of_a_config_are_missing_with_the_reason():
    found, missing = configs("tiny")
    assert list(found) == [TRAINED, FROZEN, IDENTITY, LARGER]
    assert missing == {NO_RULE: "this config has no rule", GRU: "it is for text.reading = time"}


def test_the_last_stage_decides_how_large_the_other_arms_are_once_it_is_pruned():
    (whole, _), (pruned, _) = configs("tiny"), configs("tiny", "stages.1.sparsity=0.9", "stages.1.rewiring.prune_at=9")
    wide = [found[LARGER].text.encoder_feed_forward for found in (whole, pruned)]
    assert wide[0] > wide[1] + 50


def test_a_frozen_lattice_does_not_regrow():
    found, _ = configs("tiny", "stages.1.sparsity=0.5", "stages.1.rewiring.regrow=activity")
    assert [found[name].stages[1].rewiring.regrow for name in (TRAINED, FROZEN)] == ["activity", "none"]


@pytest.mark.parametrize(
    ("limit", "least", "name"), [("MAX_ENCODER_LAYERS", 0, LARGER), ("MAX_GRU_WIDTH", 136, GRU), ("MAX_GRU_WIDTH", 137, None)]
)
def test_an_arm_that_can_not_be_large_enough_is_missing(monkeypatch, limit, least, name):
    monkeypatch.setattr(f"app.experiments.arms.control_arms.{limit}", least)
    monkeypatch.setattr("app.experiments.arms.control_arms.MAX_FEED_FORWARD", 300 if name == LARGER else 2048)
    _, missing = configs("walker", *WALKER)
    assert list(missing) == ([name] if name else [])
    assert all("fewer parameters than this lattice" in why for why in missing.values())
