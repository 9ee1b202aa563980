"""Random streams: every purpose has its own, so no numbers depend on what else was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: object) -> torch.Generator:
    """A new generator for (seed, names).  The same arguments give the same numbers, whatever else was drawn."""
    key = "\0".join(map(str, (seed, *names)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1)
