"""One optimizer for all parts of the model: for cells and connections the rule that the config names, AdamW for all others.

With the name `adamw` there are no rules, and torch's fused AdamW takes all parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import torch

from lattice.optimizers.adafactor import Adafactor
from lattice.optimizers.adam8bit import Adam8bit
from lattice.optimizers.galore import GaLore
from lattice.optimizers.groups import groups
from lattice.optimizers.lion import Lion
from presets.optimizer_state import GAP, LION_RATE, tensor_rank
from presets.schema import RunConfig
from presets.stage import Stage

if TYPE_CHECKING:
    from lattice.model.text_lattice import TextLattice

OWN = ("cells", "connections")
"""The parts of the model that follow `optimizer.name`."""

State = dict[str, torch.Tensor]


class Rule(Protocol):
    """How one tensor learns.  Its state is plain tensors by name, which all exist from the start."""

    def start(self, p: torch.Tensor) -> State:
        """The state before the first step, on the parameter's device.  On the meta device only its shapes are asked for."""

    def step(self, p: torch.Tensor, grad: torch.Tensor, state: State, rate: float) -> None:
        """Changes `p` and `state` in place.  `grad` is finite and contiguous, and must not be written to."""

    def moved(self, state: State, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]) -> State:
        """The state after a change of the pattern; `move` takes values of connections of `shape` to the new pattern.

        It is empty if the rule starts anew.
        """


class PartWise(torch.optim.Optimizer):
    """Each group has a `part`.  If `rules` has one for the part, the group follows it; if not, AdamW."""

    def __init__(self, groups: list[dict[str, Any]], rules: dict[str, Rule], rate: float, betas: tuple[float, float]) -> None:
        self.rules = rules
        others = [group for group in groups if group["part"] not in rules]
        self._adamw = torch.optim.AdamW(others, lr=rate, betas=betas, fused=True)
        super().__init__(groups, {"lr": rate})  # the same group objects: a rate that is set here is set there
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None, finite: bool = False) -> None:  # type: ignore[override]  # a closure would do nothing here
        """Takes a step.  Raises FloatingPointError, and changes nothing, if a gradient that a rule would take is not finite.

        `finite` says that all gradients are known to be finite, which saves a pass over them.
        """
        own = [(group, p) for group in self.param_groups if group["part"] in self.rules for p in group["params"]]
        own = [(group, p) for group, p in own if p.grad is not None]
        if not finite and not all(bool(torch.isfinite(torch.linalg.vector_norm(p.grad))) for _, p in own):
            raise FloatingPointError("a gradient of cells or connections is not finite; no step was taken")
        self._adamw.step()
        for group, p in own:
            rule = self.rules[group["part"]]
            if not self.state[p]:
                self.state[p] = rule.start(p)
            rule.step(p, p.grad.contiguous(), self.state[p], float(group["lr"]))


def build(config: RunConfig, stage: Stage, model: TextLattice) -> PartWise:
    """The optimizer of all parameters of a stage's model that are trained."""
    section = config.optimizer
    parts, betas = groups(model, section.weight_decay), (section.beta1, section.beta2)
    rules = {} if section.name == "adamw" else {part: _rule(config, stage, part) for part in OWN}
    return PartWise(parts, rules, section.learning_rate, betas)


def _rule(config: RunConfig, stage: Stage, part: str) -> Rule:
    section = config.optimizer
    betas = (section.beta1, section.beta2)
    match section.name:
        case "galore":
            return GaLore(betas, tensor_rank(config, stage), GAP if section.gap is None else section.gap)
        case "adam8bit":
            return Adam8bit(betas)
        case "adafactor":
            return Adafactor(part, betas, section.momentum == "bf16")
        case "lion":
            return Lion(LION_RATE if section.lion_rate is None else section.lion_rate)
        case "adamw":
            raise AssertionError("AdamW is torch's own, and no rule here")
        case unknown:
            assert_never(unknown)
