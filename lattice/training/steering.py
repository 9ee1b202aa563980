"""Steering: the operator's orders to a run.  They wait in an inbox and are applied between two steps, first come first served.

Each applied order emits an `edited` event and counts in `Progress.edits`.  An order that can't be applied is refused with a
reason and changes nothing.  A paused run waits for the next order, so a pause costs nothing and ends at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lattice.healing.waves import LOOKS, NothingFires
from lattice.training import changes, micro_batch
from lattice.training.callbacks import Callbacks
from lattice.training.inbox import Order
from lattice.training.state import TrainingState
from monitors import gauges
from monitors.events import Edited, Plastic
from presets import wound
from presets.control_commands import HealArguments, SetArguments, StageArguments, WoundArguments
from presets.layers import ConfigError
from presets.live import edit
from presets.plan import explain

Scalar = bool | int | float | str | None


class Refused(Exception):
    """An order is refused.  The message is one sentence for the operator that says why."""


class Steering:
    """Applies orders to a training state."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.paused = False
        self._callbacks = callbacks

    def at_boundary(self, state: TrainingState) -> None:
        """Applies the waiting orders.  Must be called between two steps.

        If the run is paused, this waits and applies further orders, until one resumes it, stops it, or ends its stage.
        """
        for order in state.inbox.waiting():
            self._obey(state, order)
        while self.paused and not state.stop_request:
            waited = state.inbox.wait()
            if waited is not None:
                self._obey(state, waited)

    def _obey(self, state: TrainingState, order: Order) -> None:
        try:
            HANDLERS[order.command](self, state, order)
        except (Refused, ConfigError) as refusal:
            order.answer(None, "; ".join(str(refusal).split("\n")))
        else:
            order.answer(state.progress.step, "")

    def _log(
        self, state: TrainingState, order: Order, key: str = "", old: Scalar = None, new: Scalar = None, action: str = ""
    ) -> None:
        state.progress.note_edits()
        command = f"{order.command} {action}".strip()
        state.tell(Edited(who=order.who, command=command, key=key, old=old, new=new, **state.here))

    def _set(self, state: TrainingState, order: Order) -> None:
        assert isinstance(order.arguments, SetArguments)
        key, current = order.arguments.key, state.progress.stage
        config = edit(state.config, key, order.arguments.value, current)
        for planned in state.planning(config)[current:]:
            if not planned.fits:
                raise Refused(explain(planned))
        old, new = _value(state.config, key), _value(config, key)
        changes.reconfigure(state, config)
        self._log(state, order, key, old, new)

    def _stage(self, state: TrainingState, order: Order) -> None:
        assert isinstance(order.arguments, StageArguments)
        match order.arguments.action:
            case "hold":
                self._hold(state, order, True)
            case "release":
                self._hold(state, order, False)
            case "next":
                self._leave(state, order, state.progress.stage + 1)
            case "goto":
                self._leave(state, order, _later_stage(state, order.arguments.stage))

    def _hold(self, state: TrainingState, order: Order, hold: bool) -> None:
        if state.progress.held == hold:
            raise Refused(f"stage {state.progress.stage} is {'held already' if hold else 'not held'}")
        state.progress.hold(hold)
        self._log(state, order, "held", not hold, hold, "hold" if hold else "release")

    def _leave(self, state: TrainingState, order: Order, target: int) -> None:
        assert isinstance(order.arguments, StageArguments)
        if state.progress.leave_for is not None:
            raise Refused(f"stage {state.progress.stage} is being left already")
        state.progress.leave(target)
        self._log(state, order, "stage", state.progress.stage, target, order.arguments.action)
        self._go_on(state, order, order.arguments.action)

    def _pause(self, state: TrainingState, order: Order) -> None:
        if self.paused:
            raise Refused("the run is paused already")
        self.paused = True
        self._log(state, order, "paused", False, True)

    def _resume(self, state: TrainingState, order: Order) -> None:
        if not self.paused:
            raise Refused("the run is not paused")
        self._go_on(state, order)

    def _go_on(self, state: TrainingState, order: Order, action: str = "") -> None:
        if self.paused:
            self.paused = False
            self._log(state, order, "paused", True, False, action)

    def _wound(self, state: TrainingState, order: Order) -> None:
        assert isinstance(order.arguments, WoundArguments)
        if state.model.lattice is None:
            raise Refused(f"there is no lattice to wound (lattice.arm = {state.config.lattice.arm})")
        what = wound.parse(order.arguments.wound)
        try:
            changes.wound(state, what)
        except ValueError as error:
            raise Refused(str(error)) from error
        self._log(state, order, action=str(what))
        self._callbacks.on_command(state, "decode")

    def _heal(self, state: TrainingState, order: Order) -> None:
        assert isinstance(order.arguments, HealArguments)
        if not state.progress.wounds:
            raise Refused("the lattice has no wound; `wound` makes one")
        clock, cpu = time.perf_counter(), gauges.cpu_seconds()
        waves = changes.heal(state, order.arguments)
        try:
            wave = next(waves, None)
        except NothingFires:
            raise Refused("no cell fires, so STDP can't heal") from None
        except Exception as error:
            if not micro_batch.ran_out(error):
                raise
            raise Refused(f"too little memory to heal: {error}") from error
        self._log(state, order, action=str(order.arguments))
        while wave is not None:
            if wave.number in LOOKS:
                state.tell(Plastic(**wave.report, **state.here))
                self._callbacks.on_command(state, "decode")
            wave = next(waves, None)
        state.progress.spend(time.perf_counter() - clock, gauges.cpu_seconds() - cpu)
        self._callbacks.on_command(state, "decode")

    def _now(self, state: TrainingState, order: Order) -> None:
        self._log(state, order)
        self._callbacks.on_command(state, order.command)

    def _stop(self, state: TrainingState, order: Order) -> None:
        self._log(state, order)
        state.request_stop(f"stopped by {order.who}")


HANDLERS: dict[str, Callable[[Steering, TrainingState, Order], None]] = {
    "set": Steering._set,
    "stage": Steering._stage,
    "pause": Steering._pause,
    "resume": Steering._resume,
    "wound": Steering._wound,
    "heal": Steering._heal,
    "decode": Steering._now,
    "checkpoint": Steering._now,
    "stop": Steering._stop,
}


def _later_stage(state: TrainingState, target: int | None) -> int:
    """Returns `target` if it is a later stage.  Raises Refused if not; the message names the stages that are."""
    current, count = state.progress.stage, len(state.config.stages)
    if target is None or not current < target < count:
        later = f"stages {current + 1} to {count - 1} can be gone to" if current + 1 < count else "this is the last one"
        raise Refused(f"stage {target} does not come after stage {current}, and a lattice only grows; {later}")
    return target


def _value(config: object, key: str) -> Scalar:
    for part in key.split("."):
        config = config[int(part)] if isinstance(config, tuple) else getattr(config, part)
    assert config is None or isinstance(config, bool | int | float | str), "a live setting is one of these"
    return config
