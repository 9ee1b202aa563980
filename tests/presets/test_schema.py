"""What the schema accepts, what it refuses, and what it says then."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from presets import schema
from presets.layers import flatten, load, preset_names
from presets.schema import RunConfig
from presets.stage import Clustering, Stage
from presets.text_section import MAX_SLOT_NUMBERS, MIN_FEED_FORWARD, TextSection
from presets.topology import REACH_FLOOR, reach


def config(**sections: Any) -> RunConfig:
    stage = {"name": "only", "shape": (6, 6, 8), "strides": {"z": (3,)}, "steps": 100}
    return RunConfig.model_validate({"stages": [stage], **sections})


def complaint(**sections: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        config(**sections)
    return str(caught.value)


def stage_complaint(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Stage.model_validate({"name": "only", "shape": (6, 6, 8), "ticks": 8, "steps": 100, **values})
    return str(caught.value)


def test_defaults_of_clusters_and_decoding_hold_and_the_rank_of_galore_can_be_set() -> None:
    assert Clustering().clustering_integration == 0.3
    assert schema.Optimizer(name="galore", tensor_rank=32).tensor_rank == 32
    assert schema.Decode().every == 50


def test_production_presets_are_pruned_and_form_clusters_that_cells_do_not_read() -> None:
    medium, large = load("production_medium").config, load("production_large").config
    assert (medium.stages[0].sparsity, large.stages[0].sparsity) == (0.4, 0.6)
    assert medium.optimizer.name == "adam8bit"
    assert large.optimizer.name == "adafactor"
    for preset in (medium, large):
        assert preset.stages[0].clustering.clusters > 0
        assert not preset.stages[0].clustering.functional
        assert preset.decode.every == 50


def test_progressive_grows_through_the_shapes_of_small_medium_and_large() -> None:
    shapes = [stage.shape for stage in load("progressive").config.stages]
    assert shapes == [(50, 50, 25), (150, 150, 75), (300, 300, 150)]


@pytest.mark.parametrize("name", preset_names())
def test_strides_along_the_axis_cut_across_machines_stay_at_most_16(name: str) -> None:
    assert all(stride <= 16 for stage in load(name).config.stages for stride in stage.strides.x)
    assert "less than or equal to 16" in stage_complaint(shape=(50, 6, 8), strides={"x": (17,)})


def test_every_setting_has_a_description() -> None:
    undescribed = [path for path, (_, description) in flatten(load("progressive").config).items() if not description]
    assert undescribed == []


def test_every_pattern_is_put_into_words_by_its_fields_description() -> None:
    sections = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    patterned = {
        name: field.description
        for kind in sections
        for name, field in kind.model_fields.items()
        if any(getattr(rule, "pattern", None) for rule in field.metadata)
    }
    assert patterned.keys() == {"name", "device"}
    assert all(";" in description for description in patterned.values())


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    assert "finite" in complaint(run={"memory_budget_gb": value})


def test_a_batch_has_a_bound_so_that_planning_its_parts_comes_to_an_end() -> None:
    assert "less than or equal to 1048576" in complaint(training={"batch": 10**10})
    assert config(training={"batch": 2**20}).training.batch == 2**20


def test_a_micro_batch_must_divide_the_batch_and_the_error_names_one_that_does() -> None:
    assert "micro_batch: 3 does not divide training.batch 32; 2 does" in complaint(training={"batch": 32, "micro_batch": 3})
    assert "micro_batch: 64 does not divide training.batch 32; 32 does" in complaint(training={"batch": 32, "micro_batch": 64})
    assert config(training={"batch": 32, "micro_batch": 2}).training.micro_batch == 2
    assert config(training={"batch": 32}).training.micro_batch == 0


def test_too_few_ticks_are_refused_with_the_ticks_that_would_do() -> None:
    deep = {"shape": (4, 4, 150), "strides": {"z": (4, 16, 64)}}
    message = stage_complaint(**deep, ticks=8)
    assert "ticks: 8 ticks reach 67%" in message
    enough = int(re.search(r"(\d+) ticks, or other strides", message).group(1))
    accepted = Stage.model_validate({"name": "only", "steps": 1, "ticks": enough, **deep})
    assert reach(accepted.topology("walls"), enough) >= REACH_FLOOR
    assert f"{enough} ticks" in stage_complaint(**deep, ticks=enough - 1)


def test_a_stride_must_be_shorter_than_its_axis() -> None:
    assert "strides.z: 8 does not fit 8 cells" in stage_complaint(strides={"z": (8,)})
    assert "strides.y: 9 does not fit 6 cells" in stage_complaint(strides={"y": (9,)})
    assert Stage.model_validate({"name": "only", "shape": (6, 6, 8), "strides": {"z": (7,)}, "steps": 1})


def test_a_stride_named_twice_is_refused() -> None:
    assert "strides.z: [3, 3] names a stride twice" in stage_complaint(strides={"z": (3, 3)})


def test_there_are_at_most_as_many_clusters_as_cells() -> None:
    assert "clustering.clusters: 289 is more than the 288 cells" in stage_complaint(clustering={"clusters": 289})
    whole = {"clusters": 288, "min_size": 1}
    assert Stage.model_validate({"name": "only", "shape": (6, 6, 8), "steps": 1, "clustering": whole})


def test_the_smallest_clusters_together_must_fit_the_cells_and_the_error_says_which_size_does() -> None:
    said = stage_complaint(clustering={"clusters": 16, "min_size": 19})
    assert "clustering.min_size: 16 clusters of at least 19 cells are more than the 288 cells; use 18 or less" in said
    fits = {"clusters": 16, "min_size": 18}
    assert Stage.model_validate({"name": "only", "shape": (6, 6, 8), "steps": 1, "clustering": fits})


def test_the_sample_must_hold_a_cell_for_every_cluster() -> None:
    said = stage_complaint(clustering={"clusters": 16, "sample": 15})
    assert "sample: 15 cells can't have 16 clusters; use 16 or more" in said


def test_a_face_must_hold_the_grid_of_slots() -> None:
    assert "stages.0.shape: a face of 6x6 cells is smaller than text.grid 7x7" in complaint(text={"grid": 7, "slot_width": 4})
    assert config(text={"grid": 6, "slot_width": 4}).text.grid == 6


def test_the_slots_of_a_sentence_hold_at_most_1024_numbers_and_the_error_says_which_width_would_do() -> None:
    message = complaint(text={"grid": 4, "slot_width": 65})
    assert "slot_width: 4x4 slots of 65 are 1040 numbers" in message
    assert "slot_width <= 64" in message
    assert MAX_SLOT_NUMBERS == 1024
    assert config(text={"grid": 4, "slot_width": 64}).text.slot_width == 64


def test_heads_must_divide_the_width() -> None:
    assert "heads: 5 does not divide width 128" in complaint(text={"heads": 5})


def test_a_decoder_too_small_for_its_vocabulary_is_refused_with_the_size_that_would_do() -> None:
    message = complaint(text={"decoder_parameters": 100_000})
    assert "decoder_parameters: 100000 is too few for a vocabulary of 2048 at width 128" in message
    enough = int(re.search(r"at least (\d+) are needed", message).group(1))
    assert TextSection(decoder_parameters=enough).decoder_feed_forward() == MIN_FEED_FORWARD
    assert "too few" in complaint(text={"decoder_parameters": enough - 1000})


SMALL = {"vocabulary": 300, "width": 64, "grid": 2, "decoder_layers": 3, "decoder_parameters": 300_000}


@pytest.mark.parametrize("values", [{}, SMALL], ids=["default", "small"])
def test_the_decoders_feed_forward_width_is_the_one_the_model_solves(values: dict[str, int]) -> None:
    from lattice.model.coder import Decoder

    text = TextSection(**values)
    sizes = (text.vocabulary, text.max_tokens, text.grid**2, text.slot_width, text.width, text.decoder_layers)
    solved = Decoder.feed_forward_width(*sizes, text.decoder_parameters)
    assert text.decoder_feed_forward() == solved
    assert abs(text.decoder_size(solved) / text.decoder_parameters - 1) < 0.01


def test_warm_up_must_end_before_the_run_does() -> None:
    assert "optimizer.warmup_steps: 100 is not below the run's 100 steps" in complaint(optimizer={"warmup_steps": 100})
    assert config(optimizer={"warmup_steps": 99}).total_steps == 100


def test_a_run_needs_a_stage() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        RunConfig(stages=())


# Optimizers

OWNED = {"tensor_rank": 0.5, "tensor_budget_gb": 1.0, "gap": 10, "momentum": "off", "lion_rate": 0.1}


@pytest.mark.parametrize("option", OWNED)
@pytest.mark.parametrize("name", ["adamw", "galore", "adam8bit", "adafactor", "lion"])
def test_an_option_of_another_optimizer_is_refused_and_its_owner_is_named(name: str, option: str) -> None:
    owner = {"momentum": "adafactor", "lion_rate": "lion"}.get(option, "galore")
    given = {"name": name, option: OWNED[option]}
    if name == owner:
        assert getattr(config(optimizer=given).optimizer, option) == OWNED[option]
    else:
        assert f"{option}: is for name = {owner} and does nothing for {name}" in complaint(optimizer=given)


def test_hidden_numbers_belong_to_an_mlp_and_have_a_default() -> None:
    found = {kind: config(rule={"kind": kind}).rule.hidden_numbers for kind in ("none", "linear", "mlp")}
    assert found == {"none": None, "linear": 0, "mlp": 32}
    assert config().rule.kind == "none"
    assert config(rule={"kind": "mlp", "hidden": 7}).rule.hidden_numbers == 7
    for kind in ("none", "linear"):
        assert f"hidden: is for kind = mlp and does nothing for {kind}" in complaint(rule={"kind": kind, "hidden": 7})
    for size in (0, 129):
        complaint(rule={"kind": "mlp", "hidden": size})
    complaint(rule={"kind": "quadratic"})


def test_a_rule_of_each_cell_needs_a_kind() -> None:
    assert config(rule={"kind": "linear", "scope": "cell"}).rule.scope == "cell"
    assert "scope: cell is for a rule, and kind is none" in complaint(rule={"scope": "cell"})


def test_a_rule_without_a_lattice_is_refused() -> None:
    for arm in ("identity", "gru"):
        said = complaint(rule={"kind": "mlp"}, lattice={"arm": arm}, text={"reading": "time", "lag": 2})
        assert f"rule.kind: mlp needs cells, and there are none with lattice.arm = {arm}; use none" in said


def test_a_recurrent_network_reads_in_time_alone_and_its_width_is_its_own() -> None:
    time = {"reading": "time", "lag": 0}
    found = config(lattice={"arm": "gru"}, text=time).lattice
    assert (found.gru_width, found.gru_units) == (None, 137)
    assert config(lattice={"arm": "gru", "gru_width": 7}, text=time).lattice.gru_units == 7
    assert config().lattice.gru_units is None
    assert "lattice.arm: gru reads slots one after the other" in complaint(lattice={"arm": "gru"})
    assert "text.lag: reading in time needs one" in complaint(lattice={"arm": "gru"}, text={"reading": "time"})
    for arm in ("lattice", "identity"):
        said = complaint(lattice={"arm": arm, "gru_width": 7})
        assert f"gru_width: is for arm = gru and does nothing for {arm}; leave it out" in said
    for width in (0, 4097):
        complaint(lattice={"arm": "gru", "gru_width": width}, text=time)


def test_the_probability_of_an_update_is_above_zero_and_needs_cells_but_no_rule() -> None:
    assert config().rule.update_probability == 1 and config(rule={"update_probability": 0.5}).rule.kind == "none"
    for wrong in (0, -0.5, 1.01, float("nan")):
        assert "rule.update_probability" in complaint(rule={"update_probability": wrong})
    said = complaint(rule={"update_probability": 0.5}, lattice={"arm": "identity"})
    assert "rule.update_probability: 0.5 needs cells, and there are none with lattice.arm = identity; use 1" in said


def test_wounds_need_cells_and_two_ticks_and_have_a_size_only_if_there_are_any() -> None:
    assert (config().training.wounds, config(training={"wounds": 1}).training.wound_share) == (0, 0.25)
    assert config(training={"wounds": 0.5, "wound_size": 0.5}).training.wound_share == 0.5
    for wrong in ({"wounds": -0.1}, {"wounds": 1.1}, {"wounds": 1, "wound_size": 0}, {"wounds": 1, "wound_size": 1.1}):
        assert "training.wound" in complaint(training=wrong)
    assert "wound_size: is 0.5, and no sentence is wounded with wounds = 0" in complaint(training={"wound_size": 0.5})
    said = complaint(training={"wounds": 0.5}, lattice={"arm": "identity"})
    assert "training.wounds: 0.5 needs cells to wound, and there are none with lattice.arm = identity; use 0" in said
    once = {"name": "only", "shape": (6, 6, 1), "ticks": 1, "steps": 100}
    said = complaint(training={"wounds": 0.5}, stages=[once])
    assert "stage 0 has one; use 2 or more in stages.0.ticks" in said


def test_galore_takes_a_share_or_a_whole_rank_or_a_budget_and_only_one_of_them() -> None:
    for rank in (0.1, 1.0, 2, 32):
        assert config(optimizer={"name": "galore", "tensor_rank": rank}).optimizer.tensor_rank == rank
    for rank in (1.5, 2.5):
        assert f"tensor_rank: {rank} is neither" in complaint(optimizer={"name": "galore", "tensor_rank": rank})
    both = {"name": "galore", "tensor_rank": 0.5, "tensor_budget_gb": 1.0}
    assert "give one of the two" in complaint(optimizer=both)
