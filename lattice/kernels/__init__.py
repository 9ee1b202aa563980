"""Ticks of the lattice behind one signature: `propagate` runs T of them from a drive on the input face to the output face.

Implementations: `reference` (plain torch, autograd), `native` (C, CPU fp32), `triton` (CUDA GPUs, any dtype) and `compiled`
(torch.compile, any device and dtype).  `choose` picks one.  The fast ones save only the states and recompute messages and
gates in the backward, and add parameter gradients over the ticks in place, so that a step holds one gradient buffer and not
one per tick.
"""

from lattice.kernels.propagate import Functional, Options, choose, propagate

__all__ = ["Functional", "Options", "choose", "propagate"]
