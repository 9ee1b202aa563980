"""The whole model: tokens -> encoder -> slots -> input port -> lattice -> output port -> slots -> decoder -> tokens.

With `arm = "identity"` there is no lattice and there are no ports.  This is a control: how good are the text parts alone?  With
`arm = "gru"` a recurrent network (lattice.model.recurrent) reads the slots in the lattice's place.
An evaluation has two more controls: `shuffled` decodes each sentence from the slots of another one, and `bypass` sets all
messages to zero.  Text that comes back under either control did not go through the lattice.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lattice.data.special_tokens import PAD
from lattice.kernels import choose
from lattice.kernels.chance import Chance
from lattice.kernels.sparse import TILE, Pattern
from lattice.model.cell_rule import CellRule
from lattice.model.coder import Decoder, Encoder
from lattice.model.lattice3d import Build, Lattice
from lattice.model.misfit import misfit
from lattice.model.ports import transposed_ports
from lattice.model.recurrent import Recurrent
from lattice.plasticity.plasticity import Plasticity
from lattice.random_streams import generator, key
from presets.schema import RunConfig

CONTROLS = ("none", "shuffled", "bypass")
STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TextLattice(nn.Module):
    """The model of one stage of a config, untrained.

    lattice.model.growth.carry_over moves what was learned into the model of the next stage.  Raises KernelUnavailable if the
    config names a kernel that can't run here, and ValueError if text.decoder_parameters are too few.
    """

    def __init__(self, config: RunConfig, stage: int, vocabulary: int, device: torch.device) -> None:
        super().__init__()
        text, section, here = config.text, config.lattice, config.stages[stage]
        seed, slots, from_end = config.run.seed, text.grid**2, text.positions == "end"
        self.in_time = text.reading == "time"
        self.lag = text.lag if self.in_time else None
        """Ticks from the drive of a slot to its reading; None if all slots drive the lattice at once."""
        self.port_channels = section.port_channels or section.channels
        self.device_type, self.state_dtype = device.type, STATE_DTYPES[config.run.precision]
        # Layers of torch draw from its global generator while they are built.  So this is given a stream with a key, too.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "text").initial_seed())
            self.encoder = Encoder(
                vocabulary, text.max_tokens, slots, text.slot_width, text.width, text.heads, text.encoder_feed_forward,
                text.encoder_layers, from_end,
            )  # fmt: skip
            self.decoder = Decoder(
                vocabulary, text.max_tokens, slots, text.slot_width, text.width, text.heads, text.decoder_layers,
                text.decoder_parameters, from_end,
            )  # fmt: skip
        self.lattice: Lattice | None = None
        self.recurrent: Recurrent | None = None
        self.kernel_line = "no lattice (identity arm)"
        if (units := section.gru_units) is not None and text.lag is not None:
            self.recurrent = Recurrent(text.slot_width, units, text.lag, generator(seed, "gru"))
            self.kernel_line = f"GRU of {units} units, no lattice (gru arm)"
        if section.arm == "lattice":
            topology = here.topology(section.boundary)
            self.input_port, self.output_port = transposed_ports(
                text.patches, text.slot_width, self.port_channels, generator(seed, "ports")
            )
            for port in (self.input_port, self.output_port):
                port.fit(*here.shape[:2])
            hidden, cells_learn = config.rule.hidden_numbers, section.cells == "gradient"
            each = here.shape if config.rule.scope == "cell" else None
            kernel, self.kernel_line = choose(
                config.run.kernel, topology, section.channels, device, self.state_dtype, hidden, each is not None
            )
            rule = None
            if hidden is not None:
                random = generator(seed, "rule", stage)
                rule = CellRule(section.channels, hidden, random, section.port_channels, cells_learn, each)
            learning, ticks = config.connections.learning, config.training.checkpoint_ticks
            plasticity = None
            if here.waves or learning in ("plastic", "hybrid"):
                plasticity = Plasticity(config.plasticity, topology, section.channels, here.activity_threshold)
            build = Build(
                channels=section.channels,
                ticks=here.ticks,
                start=config.connections,
                clusters=here.clustering.clusters,
                integration=here.clustering.clustering_integration,
                port_channels=section.port_channels,
                memory_ticks=section.memory_ticks,
                ports_pass=section.port_start == "pass",
                epsilon=section.norm_epsilon,
                chance=Chance(key(seed, "evaluation"), update_probability=config.rule.update_probability),
                kernel=kernel,
                rule=rule,
                plasticity=plasticity,
                segment=0 if ticks == "auto" else ticks,  # if "auto", training sets what the plan finds best
                connections_learn=learning in ("gradient", "hybrid") and here.profile != "freeze",
                cells_learn=cells_learn,
            )
            self.lattice = Lattice(topology, build, generator(seed, "lattice", stage))
        self.to(device)

    @property
    def kernel_name(self) -> str | None:
        """The name of the kernel that runs, as in presets.plan; None if there is no lattice."""
        if self.lattice is None:
            return None
        return self.lattice.kernel.name if self.lattice.kernel is not None else "reference"

    def drawn(self, **changes: Any) -> contextlib.AbstractContextManager[None]:
        """Changes fields of the ticks' chance (lattice.kernels.chance) within a `with` block.

        Otherwise the chance is that of an evaluation whose first sentence comes first: the same one every time, and no wounds.
        """
        return contextlib.nullcontext() if self.lattice is None else self.lattice.drawn(**changes)

    def slots(self, tokens: torch.Tensor, control: str = "none") -> torch.Tensor:
        """Runs token ids [B, N] through encoder and lattice.  Returns the slots [B, S, D] that the decoder reads.

        `control` is one of CONTROLS.
        """
        slots, there = self._encoded(tokens, control)
        if self.recurrent is not None:
            return self.recurrent(slots, there)
        if self.lattice is None:
            return slots
        drive, bypass = self._drive(slots, there), control == "bypass"
        if self.lag is None:
            return self.output_port.read(self._shown(self.lattice(drive, bypass)))
        faces = self._shown(self.lattice.read_in_time(drive, self.lag, bypass, there.sum(1)))
        read = self.output_port.read(faces.flatten(0, 1)).unflatten(0, faces.shape[:2]).squeeze(2).transpose(0, 1)
        return F.pad(read, (0, 0, 0, slots.shape[1] - read.shape[1])) * there[..., None]

    def there(self, tokens: torch.Tensor, control: str = "none") -> torch.Tensor | None:
        """The slots that the decoder may look at, bool [B, S]; None if it may look at all of them.

        In time, a slot after the end of a sentence is not read: so a sentence in a batch is answered as it is alone.
        """
        if not self.in_time:
            return None
        there = self.encoder.there(tokens)
        return there.roll(1, 0) if control == "shuffled" else there

    def _encoded(self, tokens: torch.Tensor, control: str = "none") -> tuple[torch.Tensor, torch.Tensor]:
        """(slots [B, S, D] before the lattice, which of them hold a token, bool [B, S])."""
        with self._autocast():
            slots = self.encoder(tokens)
        there = self.encoder.there(tokens)
        return (slots.roll(1, 0), there.roll(1, 0)) if control == "shuffled" else (slots, there)

    def _drive(self, slots: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """The drive [B, X, Y, C] of slots [B, S, D], or in time one for each slot of the longest sentence [D, B, X, Y, C]."""
        assert self.lattice is not None
        spare = self.lattice.channels - self.port_channels
        if self.lag is None:
            face = self.input_port.drive(slots.float())
            return (F.pad(face, (0, spare)) if spare else face).to(self.state_dtype)
        longest = max(1, int(there.sum(1).max()))
        each = slots[:, :longest].float().transpose(0, 1).flatten(0, 1)[:, None]
        faces = self.input_port.drive(each).unflatten(0, (longest, -1))
        silent = ~there[:, :longest].T[:, :, None, None, None]
        return F.pad(faces.masked_fill(silent, 0.0), (0, spare)).to(self.state_dtype)

    def _shown(self, face: torch.Tensor) -> torch.Tensor:
        """The channels of a face [..., C] that ports read, in fp32."""
        return face[..., : self.port_channels].float()

    def loss(self, source: torch.Tensor, begun: torch.Tensor, ended: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Cross-entropy of the target tokens in nats, summed, and the number of these tokens.

        `source` [B, N] are the tokens that are sent through.  The decoder reads `begun` [B, M] and must predict `ended` [B, M].
        """
        slots = self.slots(source)
        with self._autocast():
            logits = self.decoder(slots, begun, self.there(source))
        total = F.cross_entropy(logits.float().flatten(0, 1), ended.flatten(), ignore_index=PAD, reduction="sum")
        return total, int((ended != PAD).sum())

    @torch.no_grad()
    def say(self, source: torch.Tensor, control: str = "none") -> torch.Tensor:
        """Decodes greedily what comes back for source tokens [B, N].  Returns token ids [B, M], padded with PAD."""
        with self._autocast():
            return self.decoder.greedy(self.slots(source, control), self.there(source, control))

    @torch.no_grad()
    def state(self, source: torch.Tensor) -> torch.Tensor:
        """The lattice's state [B, X, Y, C, Z] after all ticks, for source tokens [B, N].  There must be a lattice."""
        assert self.lattice is not None
        drive = self._drive(*self._encoded(source))
        return self.lattice.state(drive, self._ticks(drive))

    def _ticks(self, drive: torch.Tensor) -> int:
        """Ticks that a drive takes."""
        assert self.lattice is not None
        return self.lattice.ticks if self.lag is None else len(drive) + self.lag

    def mean_state(self, source: torch.Tensor) -> torch.Tensor:
        """The lattice's state after all ticks, averaged over the B sentences of source tokens [B, N]: [X, Y, Z, C]."""
        return self.state(source).mean(0, dtype=torch.float32).permute(0, 1, 3, 2)

    @torch.no_grad()
    def change(self, source: torch.Tensor) -> torch.Tensor | None:
        """How much each cell's state changes in the last tick: the RMS over channels and batch, [X, Y, Z].

        None if there is no lattice.
        """
        if self.lattice is None:
            return None
        lattice, drive = self.lattice, self._drive(*self._encoded(source))
        ticks = self._ticks(drive)
        last = lattice.state(drive, ticks)
        earlier = drive if self.lag is None else drive[: ticks - 1]
        before = lattice.state(earlier, ticks - 1) if ticks > 1 else torch.zeros_like(last)
        # One layer along x at a time, because whole states in fp32 would take several times the memory that decoding takes.
        layers = zip(last.unbind(1), before.unbind(1), strict=True)
        return torch.stack([(now.float() - then.float()).square().mean((0, 2)).sqrt() for now, then in layers])

    def gradient_share(self) -> float | None:
        """After a backward: the share of cells whose gradient is not zero.  None if cells do not learn by gradient."""
        if self.lattice is None or self.lattice.cells.grad is None:
            return None
        return (self.lattice.cells.grad != 0).any(dim=3).any(dim=0).float().mean().item()

    def _autocast(self) -> torch.autocast:
        # Not on a CPU: text layers are too small to gain from autocast, steps get slower and take more memory (docs/LOG.md).
        halved = self.device_type == "cuda" and self.state_dtype != torch.float32
        return torch.autocast(self.device_type, dtype=self.state_dtype if halved else torch.bfloat16, enabled=halved)


def load_model(model: TextLattice, tensors: dict[str, torch.Tensor]) -> None:
    """Loads a checkpoint's tensors into a model of the same config.  Raises ValueError, which names what does not fit."""
    index = tensors.get("lattice.index")
    if model.lattice is not None and index is not None:
        offsets, (x, y, z) = len(model.lattice.topology.offsets), model.lattice.topology.shape
        if tuple(index.shape[1:]) != (x, y, -(-z // TILE)) or index.dtype != torch.uint8 or int(index.max()) >= offsets:
            raise ValueError("the checkpoint does not fit this config: lattice.index is of another lattice")
        device = model.lattice.weights.device
        model.lattice.become(torch.empty(len(index), x, y, z, device=device), Pattern(index.to(device), offsets))
    if model.lattice is not None and "lattice.lost" in tensors:
        model.lattice.lose(torch.empty_like(model.lattice.weights, dtype=torch.bool))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        why = misfit(model.state_dict(), tensors) or str(error).splitlines()[-1].strip()
        raise ValueError(f"the checkpoint does not fit this config: {why}") from error
