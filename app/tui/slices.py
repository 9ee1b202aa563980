"""Draws a layer of a lattice with characters: half blocks in colour, or signs without colour.  Pure functions.

A pixel is one byte of a volume.  A half block is one column wide and half a row high, which is about square.  A sign is drawn
twice, so that it is about square, too.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from itertools import groupby

from rich.text import Text

LEVELS = 12
"""Levels of activity that have colours of their own.  With few levels, neighbours often share a colour and cost no bytes."""

_STOPS = ((16, 16, 40), (52, 68, 150), (32, 150, 140), (150, 210, 70), (255, 240, 130))
"""Colours from a cell at rest to the most active one.  They grow brighter all the way, so that shades of grey show the same."""

SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ASCII_RAMP, BLOCK_RAMP = " .:-=+*#%@", " ░▒▓█"


def scaled(rows: Sequence[bytes], across: int, down: int) -> list[bytes]:
    """The layer in at most across x down pixels, in its proportions.

    A cell is repeated a whole number of times if there is room for that.  Otherwise cells are left out at equal distances.
    """
    height, width = len(rows), len(rows[0])
    if (times := min(across // width, down // height)) >= 1:
        return [bytes(byte for byte in row for _ in range(times)) for row in rows for _ in range(times)]
    share = min(across / width, down / height)
    across, down = max(1, int(width * share)), max(1, int(height * share))
    return [bytes(rows[y * height // down][x * width // across] for x in range(across)) for y in range(down)]


def blocks(rows: Sequence[bytes], across: int, down: int, colour: Callable[[int], str]) -> list[Text]:
    """Lines of half blocks within `across` columns and `down` rows of characters."""
    pixels = scaled(rows, across, 2 * down)
    made = []
    for y in range(0, len(pixels), 2):
        text = Text()
        below = pixels[y + 1] if y + 1 < len(pixels) else None
        columns = [(colour(top), colour(below[x]) if below else "") for x, top in enumerate(pixels[y])]
        for (top, bottom), run in groupby(columns):
            text.append("▀" * len(list(run)), f"{top} on {bottom}" if bottom else top)
        made.append(text)
    return made


def signs(rows: Sequence[bytes], across: int, down: int, sign: Callable[[int], str]) -> list[Text]:
    """Lines of signs within `across` columns and `down` rows of characters; they need no colour."""
    return [Text("".join(2 * sign(byte) for byte in row)) for row in scaled(rows, across // 2, down)]


def activity_colour(byte: int) -> str:
    at = (byte * LEVELS // 256) / (LEVELS - 1) * (len(_STOPS) - 1)
    low = min(int(at), len(_STOPS) - 2)
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def activity_sign(byte: int, plain: bool) -> str:
    ramp = ASCII_RAMP if plain else BLOCK_RAMP
    return ramp[byte * len(ramp) // 256]


def cluster_colour(label: int) -> str:
    """Neighbouring labels get hues far apart (the golden angle), and one of three brightnesses."""
    parts = colorsys.hsv_to_rgb(label * 0.381966 % 1.0, 0.75, (0.95, 0.7, 0.5)[label // 8 % 3])
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in parts))


def cluster_sign(label: int) -> str:
    return SIGNS[label % len(SIGNS)]
