"""Where panels go: they tile the screen at every size, and each can be reached."""

from __future__ import annotations

import pytest

from app.tui.keys import PANELS, RUN
from app.tui.layout import LOW, NARROW, arrange, is_small

SIZES = [(width, height) for width in (100, 120, 160, 189, 190, 200, 250) for height in (30, 37, 46, 47, 57, 67)]


@pytest.mark.parametrize(("width", "height"), SIZES, ids=lambda n: str(n))
def test_panels_tile_the_screen_without_overlap(width, height):
    regions = arrange(width, height, None)
    assert set(regions) <= set(PANELS)
    cells = [
        (x, y) for region in regions.values() for x in range(region.x, region.right) for y in range(region.y, region.bottom)
    ]
    assert len(cells) == width * height and set(cells) == {(x, y) for x in range(width) for y in range(height)}
    assert all(region.height >= 5 and region.width >= 20 for region in regions.values())


def test_a_tall_terminal_shows_all_panels():
    assert set(arrange(160, 47, None)) == set(arrange(200, 57, None)) == set(PANELS)


@pytest.mark.parametrize("name", PANELS)
def test_one_panel_alone_has_it_all(name):
    assert arrange(80, 21, name) == {name: (0, 0, 80, 21)}


def test_80_by_24_is_small():
    assert is_small(80, 21) and is_small(NARROW - 1, 60) and is_small(200, LOW - 1) and not is_small(NARROW, LOW)


def test_no_key_is_bound_twice_and_none_that_terminals_and_tmux_take():
    bound = [name for key in RUN for name in key.keys.split(",")]
    assert len(bound) == len(set(bound))
    assert not {name for name in bound if name.startswith("alt+")} | {"ctrl+q", "ctrl+s", "ctrl+b"} & set(bound)
