"""How parameters learn: AdamW, and rules that keep less for the lattice's tensors than it does.

A lattice of 13.5 million cells has over a thousand million parameters: AdamW's two moments take 9 GB of its 24.  The rules here
work in chunks, so that none needs a temporary tensor of the parameters' size, and keep plain tensors only.
"""

from lattice.optimizers.partwise import build

__all__ = ["build"]
