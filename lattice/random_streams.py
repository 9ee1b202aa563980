"""Random streams: every purpose has its own, so no numbers depend on what else was drawn before."""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, *names: object) -> int:
    """A number of 64 bits for (seed, names)."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def generator(seed: int, *names: object) -> torch.Generator:
    """A new generator for (seed, names).  The same arguments give the same numbers, whatever else was drawn."""
    return torch.Generator().manual_seed(key(seed, *names) >> 1)
