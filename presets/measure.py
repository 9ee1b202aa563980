"""The measure that a run is judged by: exact answers on a bundled task, BLEU on all other text; and what decides ties.

BLEU counts runs of four words.  An answer of one or two words has none, so its BLEU is 0 even if it is right.  The measure
decides which checkpoint is the best one, and what screens and tables show as the score of the run.  A score may stand still
while a model learns, at 0 or at 100.  Then chrF, exact answers and the held-out loss decide which checkpoint is better.
"""

from __future__ import annotations

import math
import sys
from typing import Literal, overload

from presets.task_name import is_task

Measure = Literal["bleu", "exact"]


def measure_on(*sources: object) -> Measure:
    """The measure on text from these `sources`: exact answers if one of them is a bundled task."""
    return "exact" if any(map(is_task, sources)) else "bleu"


@overload
def score_by(measure: Measure, bleu: float, exact: float) -> float: ...
@overload
def score_by(measure: Measure, bleu: float | None, exact: float | None) -> float | None: ...
def score_by(measure: Measure, bleu: float | None, exact: float | None) -> float | None:
    """The score 0..100 by a measure, of a BLEU 0..100 and a share of exact answers 0..1; None if it was not taken."""
    if measure == "bleu":
        return bleu
    return None if exact is None else 100 * exact


def ties(chrf: float, exact: float, valid_loss: float | None) -> tuple[float, float, float]:
    """What decides between two looks of the same score, best last: chrF, exact answers, and a low held-out loss.

    A loss that is None or not finite is the worst.
    """
    known = valid_loss is not None and math.isfinite(valid_loss)
    return chrf, exact, -valid_loss if known and valid_loss is not None else -sys.float_info.max
