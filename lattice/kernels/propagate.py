"""T ticks as one differentiable operation, on any kernel that can run one tick forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from lattice.kernels import pages, reference
from lattice.kernels.chance import CERTAIN, Chance, Updates, Wounds
from lattice.kernels.functional import Functional
from lattice.kernels.kernel import NORM_EPSILON, Gradients, Kernel, Parameters, RuleNumbers
from lattice.kernels.sparse import TILE, Pattern
from presets.rule_size import rule_size
from presets.topology import Topology


class Observer(Protocol):
    """Is shown every state and gradient, for plasticity.  It must change none of them."""

    def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
        """Is called with the state [B, X, Y, C, Z] before `tick`, and if `final` with the one after the last tick."""

    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        """Is called in the backward, last tick first, with dL/d(state after `tick`) and the state before it."""


@dataclass(frozen=True)
class TickOptions:
    """How ticks are run, and what is returned of them."""

    observer: Observer | None = None
    segment: int = 0
    """Of every `segment` ticks one state is kept for the backward, which computes the others again; 0 keeps all."""
    face: bool = False
    """Return the output face only; then neither the last state nor a gradient of its size is kept."""
    read_from: int | None = None
    """With `face`: return the output faces after this tick (from 0) and after all later ones, and not the last one alone."""
    epsilon: float = NORM_EPSILON
    """Added to the mean square of a message before it is normalised."""
    chance: Chance = CERTAIN
    """Which cells do not update, and which sentences are wounded."""


_DEFAULT = TickOptions()


@dataclass(frozen=True)
class _Run:
    """What all ticks of one run share, apart from its tensors."""

    kernel: Kernel
    functional: Functional | None
    pattern: Pattern | None
    ticks: int
    options: TickOptions
    hidden: int
    """Hidden numbers of the shared rule, if there is one."""
    updates: Updates | None
    """None if all cells update in all ticks."""
    wounds: Wounds | None
    """None if no sentence is wounded."""

    def parameters(self, weights: torch.Tensor, cells: torch.Tensor, numbers: torch.Tensor | None) -> Parameters:
        """What the ticks compute with; `numbers` are those of the shared rule."""
        rule = None if numbers is None else RuleNumbers(numbers, self.hidden)
        return Parameters(weights, cells, self.pattern, self.options.epsilon, rule)

    @property
    def segment(self) -> int:
        return self.options.segment or 1

    @property
    def first_read(self) -> int:
        """The first tick after which the output face is returned."""
        return self.ticks - 1 if self.options.read_from is None else self.options.read_from

    def tick(self, tick: int, state: torch.Tensor, drive: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The state before the tick after `tick`, not yet wounded, from the one before it."""
        extra = None if self.functional is None else self.functional.message(state)
        driven = _before(drive, tick + 1, self.ticks)
        if self.updates is None:
            return self.kernel.forward(state, parameters, extra, driven)
        after = self.kernel.forward(state, parameters, extra, None)
        self.updates.apply(tick, after, state)
        if driven is not None:  # enters all cells of the face, also those that did not update
            after[..., 0] += driven
        return after

    def wound(self, tick: int, state: torch.Tensor, drive: torch.Tensor) -> None:
        """Wounds the state before `tick`, in place.  It already has its drive, which stays."""
        if self.wounds is not None:
            self.wounds.apply(tick, state, _before(drive, tick, self.ticks))


def _before(drive: torch.Tensor, tick: int, ticks: int) -> torch.Tensor | None:
    """What is added to the input face before a tick: the drive, or that of this tick; None if there is none."""
    if tick >= ticks:
        return None
    if drive.dim() == 4:
        return drive
    return drive[tick] if tick < len(drive) else None


class _Context(Protocol):
    """What autograd hands from a forward to its backward."""

    states: dict[int, torch.Tensor]
    run: _Run
    needs_input_grad: tuple[bool, ...]

    @property
    def saved_tensors(
        self,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]: ...
    def save_for_backward(self, *tensors: torch.Tensor | None) -> None: ...


class _Propagate(torch.autograd.Function):
    """The ticks with a backward of their own.

    Of all that grows with the batch, it saves only states before ticks: all T, or one per segment (Chen et al. 2016).  The
    states of the last segment are always kept: its backward runs first, when the states of all segments are still there, so
    that keeping them costs little and spares a second forward.

    If a parameter already has a gradient, the backward adds to it in place and returns none to autograd.  So accumulating over
    micro-batches needs no second gradient of every parameter.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        drive: torch.Tensor,
        weights: torch.Tensor,
        cells: torch.Tensor,
        gain: torch.Tensor | None,
        numbers: torch.Tensor | None,
        run: _Run,
        keep: bool,
    ) -> torch.Tensor:
        drive = drive.detach()  # its slices go to kernels, and torch.compile looks for the gradients of what it is given
        batch, x, y, channels = drive.shape[-4:]
        state = run.kernel.empty_state((batch, x, y, channels, weights.shape[-1]), zero=True)
        state[..., 0] = drive if drive.dim() == 4 else drive[0]
        parameters, faces = run.parameters(weights, cells, numbers), []
        observer = run.options.observer
        states: dict[int, torch.Tensor] = {}
        last_segment = (run.ticks - 1) // run.segment * run.segment
        for tick in range(run.ticks):
            run.wound(tick, state, drive)
            if keep and (tick % run.segment == 0 or tick >= last_segment):
                states[tick] = state
            if observer is not None:
                observer.observe(tick, state, False)
            state = run.tick(tick, state, drive, parameters)
            if run.options.face and tick >= run.first_read:
                faces.append(state[..., -1].clone(memory_format=torch.contiguous_format))
        if observer is not None:
            observer.observe(run.ticks, state, True)
        ctx.save_for_backward(drive, weights, cells, gain, numbers)
        ctx.states, ctx.run = states, run
        if not run.options.face:
            return state
        return faces[0] if run.options.read_from is None else torch.stack(faces)

    @staticmethod
    def backward(ctx: _Context, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        drive, weights, cells, gain, numbers = ctx.saved_tensors
        drive = drive.detach()
        states, run = ctx.states, ctx.run
        if not states:
            raise RuntimeError("propagate: the states were freed by an earlier backward; run the ticks again")
        functional, kernel, observer = run.functional, run.kernel, run.options.observer
        (grad_weights, grad_cells), inside = _totals(weights if ctx.needs_input_grad[1] else None, cells)
        assert grad_cells is not None
        fresh = not any(inside)  # the last tick's backward, the first to run, then writes; those after it add
        grad_gain, gain_inside = None, False
        if gain is not None:
            gain_inside = gain.is_leaf and gain.grad is not None
            grad_gain = gain.grad if gain_inside else torch.zeros_like(gain)
        grad_drive = torch.zeros(drive.shape, dtype=torch.float32, device=drive.device)
        faces: torch.Tensor | None = None
        if run.options.face:
            faces = grad[None] if run.options.read_from is None else grad
            grad = run.kernel.empty_state((*drive.shape[-4:], weights.shape[-1]), zero=True)
        else:
            grad = grad.clone(memory_format=torch.contiguous_format)  # kernels overwrite it, and it is not ours
        grad_numbers = torch.zeros_like(numbers) if numbers is not None and ctx.needs_input_grad[4] else None
        parameters = run.parameters(weights, cells, numbers)
        after_the_drive = torch.zeros_like(grad_drive[0]) if drive.dim() == 5 and len(drive) < run.ticks else grad_drive
        transposed = kernel.transposed(parameters)
        for tick in reversed(range(run.ticks)):
            if tick not in states:
                for begun in range(tick // run.segment * run.segment, tick):
                    states[begun + 1] = run.tick(begun, states[begun], drive, parameters)
                    run.wound(begun + 1, states[begun + 1], drive)
            state = states.pop(tick)  # freed as soon as it is used
            if faces is not None and tick >= run.first_read:
                grad[..., -1] += faces[tick - run.first_read]
            driven = grad_drive
            if drive.dim() == 5:
                driven = grad_drive[tick] if tick < len(drive) else after_the_drive
            gradients = Gradients(grad_cells, grad_weights, driven, grad_numbers)
            if observer is not None:
                observer.signal(tick, grad, state)
            extra = None if functional is None else functional.message(state)
            passing = None if run.updates is None else run.updates.part(tick, grad)
            grad, grad_message = kernel.backward(grad, state, parameters, extra, gradients, fresh, transposed)
            fresh = False
            if passing is not None:
                grad += passing
                driven += passing[..., 0]
            if functional is not None:
                assert grad_gain is not None
                functional.add_gradients(grad_message, state, grad_gain, grad, driven)
            if run.wounds is not None:
                run.wounds.apply(tick, grad)
            del state, extra, grad_message, passing  # before the next tick makes its own
        totals = zip((grad_weights, grad_cells, grad_gain), (*inside, gain_inside), strict=True)
        given = [None if there else total for total, there in totals]
        return grad_drive.to(drive.dtype), *given, grad_numbers, None, None


def _totals(*parameters: torch.Tensor | None) -> tuple[list[torch.Tensor | None], list[bool]]:
    """For each parameter the tensor to add its gradient to, and whether that is the gradient it already has.

    If no parameter has one, the tensors are not yet written to.
    """
    inside = [p is not None and p.is_leaf and p.grad is not None for p in parameters]
    totals: list[torch.Tensor | None] = []
    for p, there in zip(parameters, inside, strict=True):
        if p is None or there:
            totals.append(None if p is None else p.grad)
        else:
            fresh = pages.empty(p.shape, p.dtype, p.device)
            totals.append(fresh.zero_() if any(inside) else fresh)
    return totals, inside


def propagate(
    drive: torch.Tensor,
    weights: torch.Tensor,
    cells: torch.Tensor,
    topology: Topology,
    ticks: int,
    kernel: Kernel | None = None,
    functional: Functional | None = None,
    pattern: Pattern | None = None,
    options: TickOptions = _DEFAULT,
    rule: RuleNumbers | None = None,
) -> torch.Tensor:
    """The state after `ticks` ticks from silence, with `drive` added to the input face before each of them.

    drive [B, X, Y, C] in the state dtype (fp32, bf16, fp16), or [D, B, X, Y, C]: what is added before each of the first D
    ticks, D <= ticks, and nothing after them.  weights [K, X, Y, Z], or with a `pattern` the compact [kept, X, Y, Z], and cells
    [6, X, Y, C, Z] in fp32.  Returns [B, X, Y, C, Z], or only its output face [B, X, Y, C] if `options.face`, or the output
    faces [ticks - read_from, B, X, Y, C] if there is an `options.read_from`.  `kernel=None` runs the reference, which keeps all
    that autograd needs, whatever `options.segment` says.
    An observer sees each tick once, also if the backward runs it again.
    Raises ValueError if shapes do not belong together.
    """
    x, y, z = topology.shape
    expected: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {"drive": (drive.shape[-3:-1], (x, y))}
    if pattern is not None:
        expected["pattern"] = ((pattern.offsets, *pattern.index.shape[1:]), (len(topology.offsets), x, y, -(-z // TILE)))
    kept = len(topology.offsets) if pattern is None else len(pattern.index)
    expected["weights"] = (weights.shape, (kept, x, y, z))
    if drive.dim() not in (4, 5) or (drive.dim() == 5 and not 1 <= len(drive) <= ticks):
        raise ValueError(f"drive: shape {tuple(drive.shape)} is not that of one drive, or of 1 to {ticks}")
    if options.read_from is not None and not (options.face and 0 <= options.read_from < ticks):
        raise ValueError(f"read_from: {options.read_from} is no tick of {ticks}, or the whole state is asked for")
    expected["cells"] = (cells.shape, (6, x, y, drive.shape[-1], z))
    if rule is not None:
        size = rule_size(drive.shape[-1], rule.hidden)
        expected["rule"] = (rule.numbers.shape, (x, y, size, z) if rule.per_cell else (size,))
    for name, (found, wanted) in expected.items():
        if tuple(found) != wanted:
            raise ValueError(f"{name}: shape {tuple(found)} does not fit the topology, expected {wanted}")
    if pattern is not None and (kernel is None or not kernel.sparse):
        weights, pattern = pattern.expand(weights), None
    chance, batch, face = options.chance, drive.shape[-4], (x, y)
    updates = None if chance.update_probability == 1 else Updates(chance, batch, topology.shape, drive.device)
    wounds = None if chance.wounds == 0 else Wounds(chance, batch, face, ticks)
    if kernel is not None:
        keep = torch.is_grad_enabled()
        gain = functional.gain if functional is not None else None
        numbers, hidden = (None, 0) if rule is None else (rule.numbers.contiguous(), rule.hidden)
        run = _Run(kernel, functional, pattern, ticks, options, hidden, updates, wounds)
        return _Propagate.apply(drive.contiguous(), weights, cells, gain, numbers, run, keep)
    observer, faces = options.observer, []
    state = torch.zeros(*drive.shape[-4:], z, dtype=drive.dtype, device=drive.device)
    for tick in range(ticks):
        if wounds is not None and (columns := wounds.columns(tick, batch, face)) is not None:
            state = state.masked_fill(columns[..., None, None].to(state.device), 0.0)
        if (driven := _before(drive, tick, ticks)) is not None:
            state = torch.cat([state[..., 0:1] + driven[..., None], state[..., 1:]], dim=-1)
        before = state
        if observer is not None:
            observer.observe(tick, before, False)
        extra = functional.gain * functional.spread(functional.means(state)) if functional is not None else None
        state = reference.tick(state, weights, cells, topology, options.epsilon, extra, rule)
        if updates is not None:
            state = torch.where(updates.cells(tick), state, before)
        if observer is not None and state.requires_grad:
            state.register_hook(partial(_signal, observer, tick, before.detach()))
        if options.read_from is not None and tick >= options.read_from:
            faces.append(state[..., -1])
    if observer is not None:
        observer.observe(ticks, state, True)
    if faces:
        return torch.stack(faces)
    return state[..., -1] if options.face else state


def _signal(observer: Observer, tick: int, before: torch.Tensor, grad: torch.Tensor) -> None:
    observer.signal(tick, grad, before)
