"""Tests of growth into another shape: fields are interpolated, strides keep their rank, text parts stay as they are."""

from __future__ import annotations

import pytest
import torch

from lattice.kernels.sparse import Pattern
from lattice.model.growth import carry_over, matching_offsets, nearest, resample
from lattice.model.text_lattice import TextLattice
from presets.topology import LOCAL_OFFSETS, Topology

SHAPES = [
    ((4, 5, 6), (7, 9, 12)),
    ((6, 6, 8), (4, 4, 5)),
    ((2, 3, 4), (2, 3, 9)),
    ((1, 4, 6), (3, 7, 11)),
    ((1, 1, 5), (2, 2, 9)),
]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def build(config_of):
    def build(stage: int, *assignments: str) -> TextLattice:
        return TextLattice(config_of(*assignments), stage, 512, torch.device("cpu"))

    return build


def scramble(model: TextLattice) -> TextLattice:
    """Every parameter as if it had been trained: unlike what a fresh model starts with."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


# Fields


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_faces_go_to_faces(old, new):
    fields = noise(2, *old)
    grown = resample(fields, new)
    assert grown.shape == (2, *new)
    for axis in (1, 2, 3):
        for end in (0, -1):
            face = [size for at, size in enumerate(new) if at + 1 != axis]
            kept = resample(fields.select(axis, end).unsqueeze(axis), (*face[: axis - 1], 1, *face[axis - 1 :]))
            assert torch.allclose(grown.select(axis, end), kept.squeeze(axis), atol=1e-5)


def test_corner_cells_keep_their_values_exactly():
    fields = noise(1, 3, 4, 5)
    grown = resample(fields, (6, 6, 9))
    for x in (0, -1):
        for y in (0, -1):
            for z in (0, -1):
                assert grown[0, x, y, z] == fields[0, x, y, z]


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_constant_fields_stay_constant(old, new):
    grown = resample(torch.full((1, *old), 0.7), new)
    assert torch.allclose(grown, torch.full((1, *new), 0.7), atol=1e-6)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_linear_fields_are_reproduced(old, new):
    def linear(shape: tuple[int, int, int]) -> torch.Tensor:
        # Along an axis of one cell the field has no slope that could carry over.
        slopes = [slope if size > 1 else 0.0 for slope, size in zip((0.3, -0.8, 1.1), old, strict=True)]
        axes = [torch.linspace(0, 1, size, dtype=torch.float64) * slope for size, slope in zip(shape, slopes, strict=True)]
        x, y, z = axes
        return (0.25 + x[:, None, None] + y[None, :, None] + z[None, None, :]).float()[None]

    assert torch.allclose(resample(linear(old), new), linear(new), atol=1e-6)


def test_the_same_shape_gives_an_equal_copy_that_is_not_shared():
    fields = noise(1, 3, 4, 5)
    same = resample(fields, (3, 4, 5))
    assert torch.equal(same, fields) and same.data_ptr() != fields.data_ptr()


def test_a_single_cell_is_repeated_everywhere():
    fields = noise(3, 1, 1, 1)
    assert torch.equal(resample(fields, (2, 3, 4)), fields.expand(3, 2, 3, 4))


# Offsets


def offset_pairs(old: Topology, new: Topology) -> dict:
    return {new.offsets[k]: old.offsets[before] for k, before in matching_offsets(old, new).items()}


def test_each_stride_descends_from_the_stride_of_its_rank_in_both_directions():
    old = Topology((40, 40, 25), ((), (3,), (5, 2)))
    new = Topology((40, 40, 80), ((4,), (6, 12), (4, 64, 16)))
    pairs = offset_pairs(old, new)
    assert {local: pairs.pop(local) for local in LOCAL_OFFSETS} == {local: local for local in LOCAL_OFFSETS}
    assert pairs == {
        (0, 6, 0): (0, 3, 0),
        (0, -6, 0): (0, -3, 0),
        (0, 0, 4): (0, 0, 2),
        (0, 0, -4): (0, 0, -2),
        (0, 0, 16): (0, 0, 5),
        (0, 0, -16): (0, 0, -5),
    }


def test_strides_that_the_new_lattice_has_no_room_for_are_dropped():
    pairs = offset_pairs(Topology((4, 4, 25), ((), (), (2, 5, 16))), Topology((4, 4, 8), ((), (), (3,))))
    assert {new: old for new, old in pairs.items() if new not in LOCAL_OFFSETS} == {
        (0, 0, 3): (0, 0, 2),
        (0, 0, -3): (0, 0, -2),
    }


# The whole model


def test_text_parts_and_ports_carry_over_unchanged(build):
    old, new = scramble(build(0)), build(1)
    carry_over(old, new)
    before, after = old.state_dict(), new.state_dict()
    parts = {name for name in before if not name.startswith("lattice.")}
    assert {name.partition(".")[0] for name in parts} == {"encoder", "decoder", "input_port", "output_port"}
    assert [name for name in parts if not torch.equal(before[name], after[name])] == []


def test_cells_and_weights_are_interpolated_offset_by_offset(build):
    old, new = scramble(build(0)), build(1)
    carry_over(old, new)
    for part in range(6):
        for channel in (0, 11):
            wanted = resample(old.lattice.cells[part, :, :, channel][None], (6, 6, 8))[0]
            assert torch.equal(new.lattice.cells[part, :, :, channel], wanted)
    matches = matching_offsets(old.lattice.topology, new.lattice.topology)
    assert len(matches) == 28
    for k, before in matches.items():
        assert torch.equal(new.lattice.weights[k], resample(old.lattice.weights[before][None], (6, 6, 8))[0])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_shared_rule_carries_over_unchanged(build, kind):
    old, new = scramble(build(0, f"rule.kind={kind}")), build(1, f"rule.kind={kind}")
    carry_over(old, new)
    before, after = old.lattice.rule.state_dict(), new.lattice.rule.state_dict()
    assert before and before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_cell_takes_the_rule_of_the_nearest_old_cell(build, kind):
    rule = (f"rule.kind={kind}", "rule.scope=cell")
    old, new = scramble(build(0, *rule)), build(1, *rule)
    carry_over(old, new)
    before, after = (model.lattice.rule().numbers for model in (old, new))
    assert torch.equal(after[0, 0, :, 0], before[0, 0, :, 0]) and torch.equal(after[-1, -1, :, -1], before[-1, -1, :, -1])
    places = nearest(torch.arange(before[:, :, 0].numel()).view(before[:, :, 0].shape), new.lattice.topology.shape)
    of_old = before.movedim(2, -1).flatten(0, 2)
    assert torch.equal(after.movedim(2, -1), of_old[places])


def test_offsets_without_a_forebear_keep_their_fresh_start(build):
    old, new = scramble(build(0)), build(1, "stages.1.strides.x=[2]")
    fresh = new.lattice.weights.detach().clone()
    carry_over(old, new)
    offsets = new.lattice.topology.offsets
    same = {offset for k, offset in enumerate(offsets) if torch.equal(new.lattice.weights[k], fresh[k])}
    assert same == {(2, 0, 0), (-2, 0, 0)}


def test_the_gain_of_the_functional_tier_is_interpolated_like_a_cell_parameter(build):
    clustered = ("stages.0.clustering.clusters=3", "stages.1.clustering.clusters=5")
    old, new = scramble(build(0, *clustered)), build(1, *clustered)
    labels = new.lattice.labels.clone()
    carry_over(old, new)
    assert torch.equal(new.lattice.gain[:, :, 4], resample(old.lattice.gain[:, :, 4][None], (6, 6, 8))[0])
    assert torch.equal(new.lattice.labels, labels)


def test_a_single_cell_face_grows(build):
    stage = '{name="%s", shape=%s, ticks=8, steps=1, strides={z=[2]}}'
    stages = "stages=[{}, {}]".format(stage % ("a", "[1,1,5]"), stage % ("b", "[3,2,9]"))
    settings = (stages, "text.grid=1", "optimizer.warmup_steps=0")
    old, new = scramble(build(0, *settings)), build(1, *settings)
    carry_over(old, new)
    for z_old, z_new in ((0, 0), (2, 4), (4, 8)):
        wanted = old.lattice.cells[..., z_old].expand(6, 3, 2, 12)
        assert torch.allclose(new.lattice.cells[..., z_new], wanted, atol=1e-6)


def test_a_pruned_lattice_grows_like_one_whose_other_connections_are_zero_and_its_pattern_ends_there(build):
    old, zeroed, new, wanted = scramble(build(0)), scramble(build(0)), build(1), build(1)
    tiles = torch.zeros(len(old.lattice.topology.offsets), *old.lattice.topology.shape[:2], 1, dtype=torch.bool)
    tiles[::2] = True
    pattern = Pattern.of_tiles(tiles)
    old.lattice.rewire(pattern, torch.Generator())
    with torch.no_grad():
        zeroed.lattice.weights *= pattern.mask(old.lattice.topology.shape[2])
    carry_over(old, new)
    carry_over(zeroed, wanted)
    assert new.lattice.index is None and new.lattice.weights.equal(wanted.lattice.weights)


def test_growing_changes_neither_the_old_model_nor_shares_its_memory(build):
    old, new = scramble(build(0)), build(1)
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    carry_over(old, new)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    assert [name for name, tensor in old.state_dict().items() if not torch.equal(tensor, before[name])] == []
