"""Optimizers: AdamW, and rules that keep less memory than AdamW for the tensors of the lattice.

A lattice of 13.5 million cells has over a thousand million parameters, and AdamW's two moments would take 9 of its 24 GB.  The
rules here work in chunks, so that none needs a temporary tensor of the parameters' size.  Their state is plain tensors only.
"""

from lattice.optimizers.partwise import build

__all__ = ["build"]
