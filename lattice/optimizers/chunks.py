"""Chunks of large tensors, small enough that intermediate results of one stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def chunk_size(device: torch.device) -> int:
    """Numbers per chunk: a megabyte on the CPU, and elsewhere enough to keep a GPU busy.  A multiple of adam8bit's BLOCK."""
    return 2**18 if device.type == "cpu" else 2**24


def rows_of(device: torch.device, numbers: int) -> int:
    """Rows per chunk if a row has so many numbers; at least 1."""
    return max(1, chunk_size(device) // numbers)


def flat_chunks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Matching chunks of contiguous tensors with equally many numbers, as views [n]."""
    size = chunk_size(tensors[0].device)
    return zip(*(tensor.view(-1).split(size) for tensor in tensors), strict=True)
