"""Field types for records that are written as JSON.  Values that JSON can't hold are replaced when a record is made.

So a record in memory equals the one that is read back from disk, and a diverging loss or an odd file name in a message never
makes writing fail.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, ConfigDict

ONLY_KEYS_CACHED = ConfigDict(cache_strings="keys")
"""The setting of a model that is read from JSON again and again.

By default, pydantic's parser keeps the last 16384 short strings that it has read, a megabyte that grows for hours.
"""


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _encodable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")


Measured = Annotated[float | None, AfterValidator(_finite_or_none)]
"""A measured number, or None if there is none.  NaN and infinities become None."""

Text = Annotated[str, AfterValidator(_encodable)]
"""Text that UTF-8 can hold.  Lone surrogates, as in file names that are not UTF-8, become `?`."""
