"""Random numbers: a stream of its own for every purpose, so that nothing depends on what else was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: object) -> torch.Generator:
    """The stream of (seed, names): the same ones give the same numbers, in any order of use."""
    key = "\0".join(map(str, (seed, *names)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1)
