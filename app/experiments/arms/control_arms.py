"""The arms of `experiment arms`: what of the lattice does not learn, and what stands in its place.

    trained          the config as it is
    no rule          without the shared rule, if the config has one
    frozen           cells, rule and connections stay as they start
    identity         no lattice and no ports
    larger encoder   no lattice, and an encoder with at least as many more parameters as lattice and ports have
    gru              a recurrent network with at least as many parameters as lattice and ports have; if the config reads in time

Ports, encoder and decoder learn in all of them.
"""

from __future__ import annotations

import bisect
import sys

from app.exit_codes import ExitCode, Stop
from app.experiments.experiment import NO_CELLS, Arm, ExperimentRequest, choose
from presets.components import lattice_size
from presets.gru_size import MAX_GRU_WIDTH, least_gru_width
from presets.schema import RunConfig
from presets.text_memory import encoder_size
from presets.text_section import MAX_ENCODER_LAYERS, MAX_FEED_FORWARD, TextSection

TRAINED, NO_RULE, FROZEN, IDENTITY, LARGER, GRU = "trained", "no rule", "frozen", "identity", "larger encoder", "gru"

WITHOUT_LATTICE = (IDENTITY, LARGER, GRU)
"""The arms without a lattice."""

EQUAL_CPU = ", equal CPU"
"""What follows the name of an arm without a lattice if it trains for as many CPU seconds as the trained lattice."""

ENCODER_SIZE = ("encoder_layers", "encoder_feed_forward")
"""Settings of text that arms may change, since tokens stay the same."""

WITHOUT_RULE = ("rule.kind=none", "rule.hidden=none", "rule.scope=lattice")
NO_LATTICE = ("lattice.arm=identity", *NO_CELLS)


def chosen(request: ExperimentRequest) -> list[Arm]:
    """The arms that the command line chooses, and its own ones.

    Says on stderr which arms can't be had.  Raises Stop if one that is named can't, and if the config has no lattice.
    """
    config = request.source.load().config
    if config.lattice.arm != "lattice":
        raise Stop(ExitCode.USAGE, f"lattice.arm: {config.lattice.arm} is set by the arms themselves; leave it out")
    arms, missing = arms_of(config)
    named = [] if request.arms is None else [name.strip() for name in request.arms.split(",")]
    for name, why in missing.items():
        if name in named:
            raise Stop(ExitCode.USAGE, f"--arms: {name} can't be had, {why}")
        if request.arms is None and name != NO_RULE:
            print(f"{name}: left out, {why}", file=sys.stderr)
    return choose(arms, request.arms, request.own_arms)


def arms_of(config: RunConfig) -> tuple[list[Arm], dict[str, str]]:
    """The arms of a config, and why it does not have the others."""
    arms, missing = [Arm(TRAINED)], {}
    size = lattice_size(config, config.stages[-1])
    if config.rule.kind == "none":
        missing[NO_RULE] = "this config has no rule"
    else:
        arms.append(Arm(NO_RULE, WITHOUT_RULE))
    regrown = [i for i, stage in enumerate(config.stages) if stage.rewiring.regrow != "none"]
    still = (f"stages.{i}.rewiring.regrow=none" for i in regrown)  # connections that regrow at zero would stay there
    arms += [Arm(FROZEN, ("connections.learning=frozen", "lattice.cells=frozen", *still)), Arm(IDENTITY, NO_LATTICE)]
    if encoder := larger_encoder(config.text, size):
        arms.append(Arm(LARGER, (*NO_LATTICE, *encoder)))
    else:
        missing[LARGER] = "the largest encoder has fewer parameters than this lattice"
    width = least_gru_width(config.text.slot_width, size)
    if config.text.reading != "time":
        missing[GRU] = "it is for text.reading = time"
    elif width > MAX_GRU_WIDTH:
        missing[GRU] = "the largest recurrent network has fewer parameters than this lattice"
    else:
        arms.append(Arm(GRU, ("lattice.arm=gru", f"lattice.gru_width={width}", *NO_CELLS)))
    return arms, missing


def larger_encoder(text: TextSection, more: int) -> tuple[str, ...]:
    """Settings of an encoder with at least `more` parameters more than this one; none if no encoder can have so many.

    Layers are added only if the widest feed-forward layer is not enough.
    """
    wanted = encoder_size(text) + more
    for layers in range(text.encoder_layers, MAX_ENCODER_LAYERS + 1):
        widths = range(text.encoder_feed_forward, MAX_FEED_FORWARD + 1)
        sizes = [dict(zip(ENCODER_SIZE, (layers, width), strict=True)) for width in widths]
        found = bisect.bisect_left(sizes, wanted, key=lambda size: encoder_size(text.model_copy(update=size)))
        if found < len(sizes):
            return tuple(f"text.{name}={value}" for name, value in sizes[found].items())
    return ()
