"""Offsets and reach: which cells matter to a path from the input face to the output face."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from presets.topology import LOCAL_OFFSETS, REACH_FLOOR, Topology, hops_from, reach, ticks_for_reach

DEEP = Topology((4, 4, 150), ((), (), (4, 16, 64)))


def bfs(topology: Topology, face: int) -> dict[tuple[int, int, int], int]:
    """Oracle: fewest hops from any cell of the face z = `face` to every cell, walking cell by cell along every offset."""
    size_x, size_y, size_z = topology.shape
    hops = {(x, y, face): 0 for x in range(size_x) for y in range(size_y)}
    queue = deque(hops)
    while queue:
        cell = queue.popleft()
        for offset in topology.offsets:
            x, y, z = (a + b for a, b in zip(cell, offset, strict=True))
            if topology.boundary == "periodic":
                x, y = x % size_x, y % size_y
            inside = 0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z
            if inside and (x, y, z) not in hops:
                hops[x, y, z] = hops[cell] + 1
                queue.append((x, y, z))
    return hops


CASES = [
    Topology((1, 1, 1)),
    Topology((1, 1, 9)),
    Topology((3, 4, 7)),
    Topology((4, 3, 12), ((), (), (5,))),
    Topology((4, 5, 13), ((3,), (2, 4), (4,))),
    Topology((5, 4, 17), ((2,), (), (4, 9))),
    Topology((5, 4, 11), ((4,), (3,), ())),
    Topology((5, 4, 17), ((2,), (3,), (3, 8)), "periodic"),
]


@pytest.mark.parametrize("topology", CASES, ids=str)
def test_reach_agrees_with_a_cell_by_cell_search_at_every_number_of_ticks(topology: Topology) -> None:
    inward, outward = bfs(topology, 0), bfs(topology, topology.shape[2] - 1)
    lengths = [inward[cell] + outward[cell] for cell in itertools.product(*map(range, topology.shape))]
    for ticks in range(max(lengths) + 2):
        assert reach(topology, ticks) == pytest.approx(sum(length <= ticks for length in lengths) / len(lengths))


@pytest.mark.parametrize("topology", CASES, ids=str)
def test_hops_from_a_face_agree_with_the_search_for_every_cell_of_that_depth(topology: Topology) -> None:
    for (_, _, z), hops in bfs(topology, 0).items():
        assert hops_from(0, topology.shape[2], topology.strides[2])[z] == hops


def test_depth_150_with_strides_4_16_64_is_67_percent_useful_at_8_ticks_and_wholly_at_10() -> None:
    assert round(reach(DEEP, 8), 2) == 0.67
    assert reach(DEEP, 10) == 1.0


def test_strides_1_and_25_alone_leave_nine_cells_in_ten_useless_at_depth_150() -> None:
    # Stride 1 is the neighbours'; eight ticks, as the stage's default.
    assert reach(Topology((4, 4, 150), ((), (), (25,))), 8) <= 0.1


def test_without_far_strides_a_signal_needs_a_tick_for_every_cell_of_depth() -> None:
    topology = Topology((2, 2, 20))
    assert reach(topology, 18) == 0
    assert reach(topology, 19) == 1


@pytest.mark.parametrize("depth", [1, 2, 10, 30, 49, 70, 150])
@pytest.mark.parametrize("strides", [(), (4,), (3, 9)], ids=str)
def test_ticks_for_reach_is_the_fewest_that_pass_the_floor(depth: int, strides: tuple[int, ...]) -> None:
    topology = Topology((2, 2, depth), ((), (), tuple(stride for stride in strides if stride < depth)))
    fewest = ticks_for_reach(topology)
    assert reach(topology, fewest) >= REACH_FLOOR
    assert fewest == 0 or reach(topology, fewest - 1) < REACH_FLOOR


def test_local_offsets_are_the_26_moore_neighbours() -> None:
    assert len(set(LOCAL_OFFSETS)) == 26
    assert all(max(map(abs, offset)) == 1 for offset in LOCAL_OFFSETS)


def test_offsets_are_local_first_then_both_directions_of_each_stride_on_its_own_axis() -> None:
    topology = Topology((9, 9, 9), ((2,), (3,), (4, 5)))
    assert topology.offsets[:26] == LOCAL_OFFSETS
    far = topology.offsets[26:]
    assert far == ((-2, 0, 0), (2, 0, 0), (0, -3, 0), (0, 3, 0), (0, 0, -4), (0, 0, 4), (0, 0, -5), (0, 0, 5))


def test_every_offset_has_its_opposite_so_that_reach_is_the_same_both_ways() -> None:
    offsets = set(Topology((9, 9, 9), ((2,), (3,), (4, 5))).offsets)
    assert {(-x, -y, -z) for x, y, z in offsets} == offsets
