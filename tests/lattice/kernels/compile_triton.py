"""Compiles every launch of TritonKernel for GPUs that are not here, and prints what came of it as JSON.

Launches are made as training makes them, but end where a device would be asked to run them.  Run by test_triton.py in a process
of its own, since Triton's interpreter and its compiler can't live in one.  Exit code 75 where this Triton has no such way.
"""

from __future__ import annotations

import json
import re
import sys

import torch

from lattice.kernels.kernel import Gradients, Parameters, RuleNumbers
from lattice.kernels.sparse import TILE, Pattern
from lattice.kernels.triton_kernel import TritonKernel
from presets.rule_size import rule_size
from presets.topology import Topology

try:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction
except ImportError as error:
    print(f"this triton can't compile for absent devices ({error})", file=sys.stderr)
    sys.exit(75)

CHANNELS, CPU = 12, torch.device("cpu")
CAPABILITIES = (80, 90)
SHAPES = ((3, 2, 33), (1, 4, 16))
RULES = (0, 20)
"""Hidden numbers: a linear rule, and one whose size is padded."""


class AbsentGpu:
    """What Triton asks a driver before it compiles."""

    def __init__(self, index: int) -> None:
        self._index = index

    def get_current_device(self) -> int:
        return self._index

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITIES[self._index], 32)

    def get_active_torch_device(self) -> torch.device:
        return CPU


def launches(shape: tuple[int, int, int], dtype: torch.dtype, boundary: str, hidden: int | None = None) -> None:
    """A tick and its backward, on dense connections without and on compact ones with all that may be given.

    With a rule, connections are dense when gradients are written, and compact when they are added to.
    """
    topology, (x, y, z) = Topology(shape, boundary=boundary), shape
    kernel = TritonKernel(topology, CHANNELS, CPU, dtype, hidden)
    state, cells = torch.zeros(1, x, y, CHANNELS, z, dtype=dtype), torch.zeros(6, x, y, CHANNELS, z)
    pattern = Pattern(torch.zeros(1, x, y, -(-z // TILE), dtype=torch.uint8), len(topology.offsets))
    drive, of_drive = state[..., 0].contiguous(), torch.zeros(1, x, y, CHANNELS)
    rule = None if hidden is None else RuleNumbers(torch.zeros(rule_size(CHANNELS, hidden)), hidden)
    for given, kept in ((None, len(topology.offsets)), (pattern, 1)):
        weights, extra = torch.zeros(kept, *shape), None if given is None else state.float()
        for fresh in (True, False) if rule is None else (given is None,):
            parameters = Parameters(weights, cells, given, rule=rule)
            kernel.forward(state, parameters, extra, drive if fresh else None)
            of_rule = None if rule is None else rule.numbers.clone()
            gradients = Gradients(cells.clone(), weights.clone(), of_drive, of_rule)
            kernel.backward(state.clone(), state, parameters, extra, gradients, fresh)


def main() -> None:
    found: dict[str, dict] = {}

    def compiled_only(self: JITFunction, grid: tuple[int, ...]):
        def launch(*arguments, **options):
            built = self.run(*arguments, grid=grid, warmup=True, **options)
            told = {
                "entry": re.search(r"\.entry (\w+)\(", built.asm["ptx"])[1],
                "hidden": options.get("HIDDEN"),
                "capability": built.metadata.target.arch,
                "cubin_bytes": len(built.asm["cubin"]),
                "shared_bytes": built.metadata.shared,
                "multiplied_in_32_bits": re.findall(r"%([a-z_]*?)(?:_?\d+)? = arith\.muli .* : i32", built.asm["ttir"]),
            }
            found[built.hash] = told

        return launch

    JITFunction.__getitem__ = compiled_only
    TritonKernel._probe = lambda self, topology: None
    for index in range(len(CAPABILITIES)):
        driver.set_active(AbsentGpu(index))
        for shape in SHAPES:
            for dtype, boundary in ((torch.bfloat16, "walls"), (torch.float32, "periodic")):
                launches(shape, dtype, boundary)
        for hidden in RULES:
            launches(SHAPES[0], torch.bfloat16, "walls", hidden)
    print(json.dumps(list(found.values())))


main()
