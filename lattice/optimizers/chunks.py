"""Pieces of large tensors, small enough that what is computed of one stays in a processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def chunk_size(device: torch.device) -> int:
    """Numbers of a chunk: a megabyte on the CPU, what keeps a GPU busy elsewhere.  A multiple of any block of 8-bit moments."""
    return 2**18 if device.type == "cpu" else 2**24


def rows_of(device: torch.device, numbers: int) -> int:
    """How many rows of so many numbers make a chunk; at least 1."""
    return max(1, chunk_size(device) // numbers)


def flat_chunks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Matching pieces of contiguous tensors of equally many numbers, as views [n]."""
    size = chunk_size(tensors[0].device)
    return zip(*(tensor.view(-1).split(size) for tensor in tensors), strict=True)
