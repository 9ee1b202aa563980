"""Ticks of the lattice: `propagate` runs T of them, from a drive on the input face to the state or its output face.

There are four implementations of a tick: `reference` (plain torch and autograd), `native` (C, on the CPU, states in fp32 or
bf16), `triton` (CUDA GPUs, any dtype) and `compiled` (torch.compile, any device and dtype).  `choose` picks one.

The fast ones save only the states, and recompute messages and gates in the backward.  They add the gradients of parameters over
the ticks in place, so that a step holds one gradient buffer and not one per tick.
"""

from lattice.kernels.choice import choose
from lattice.kernels.functional import Functional
from lattice.kernels.propagate import TickOptions, propagate

__all__ = ["Functional", "TickOptions", "choose", "propagate"]
