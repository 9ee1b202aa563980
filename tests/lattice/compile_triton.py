"""Compiles the kernels of lattice.kernels.triton_tick for CUDA without a GPU, and prints what came of it as JSON.

Run by test_triton.py in a process of its own, since Triton's interpreter and its compiler can't live in one.  Exit code 75
where this Triton can't compile for a device that is not here.
"""

from __future__ import annotations

import itertools
import json
import re
import sys

from lattice.kernels import triton_tick
from lattice.kernels.triton_kernel import WARPS, Z_BLOCK

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError as error:
    print(f"this triton has no compiler for absent devices ({error})", file=sys.stderr)
    sys.exit(75)

CHANNELS = 12
CONSTANTS = {"CHANNELS": CHANNELS, "C_BLOCK": 16, "Z_BLOCK": Z_BLOCK}
SIZES = ("batch", "size_x", "size_y", "size_z", "kept", "offsets")
STATES = ("state", "out", "grad_out", "grad_state", "grad_message", "drive")
FLOATS = ("weights", "cells", "extra", "grad_cells", "grad_weights")


def variant(names: list[str], state: str, sparse: bool, extra: bool, periodic: bool) -> tuple[dict, dict]:
    """(signature, constants) of a kernel with these argument names."""
    types = {name: "i32" for name in SIZES} | {name: f"*{state}" for name in STATES} | {name: "*fp32" for name in FLOATS}
    types |= {"steps": "*i32", "epsilon": "fp32", "index": "*u8", "slots": "*u8"}
    absent = {name for name, there in (("index", sparse), ("slots", sparse), ("extra", extra), ("drive", extra)) if not there}
    signature = {name: "constexpr" if name in absent else types.get(name, "constexpr") for name in names}
    given = CONSTANTS | {"PERIODIC": periodic, "FRESH": not periodic}
    return signature, {name: given.get(name) for name, kind in signature.items() if kind == "constexpr"}


def main() -> None:
    found = {}
    variants = [("bf16", True, True, False), ("fp32", False, False, True), ("fp16", True, False, True)]
    for name, (state, sparse, extra, periodic) in itertools.product(WARPS, variants):
        function = getattr(triton_tick, name)
        signature, constants = variant(function.arg_names, state, sparse, extra, periodic)
        source = ASTSource(fn=function, signature=signature, constexprs=constants)
        target = GPUTarget("cuda", 80 if periodic else 90, 32)
        built = triton.compile(source, target=target, options={"num_warps": WARPS[name]})
        found[f"{name} {state} {'sparse' if sparse else 'dense'}"] = {
            "entry": re.search(r"\.entry (\w+)\(", built.asm["ptx"])[1],
            "cubin_bytes": len(built.asm["cubin"]),
            "shared_bytes": built.metadata.shared,
            "multiplied_in_32_bits": re.findall(r"%([a-z_]*?)(?:_?\d+)? = arith\.muli .* : i32", built.asm["ttir"]),
        }
    print(json.dumps(found))


main()
