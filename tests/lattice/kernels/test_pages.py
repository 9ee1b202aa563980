"""Large tensors are given memory that earlier ones left, and never more of it than was in use at once."""

import gc
import mmap
import threading

import pytest
import torch

from lattice.kernels import pages
from lattice.kernels.pages import LARGE, Mappings

MIB = 2**20


def test_memory_is_lent_again_once_the_last_view_is_gone():
    mappings = Mappings()
    first = mappings.take(40 * MIB)
    place, view = first.data_ptr(), first[100:200].view(torch.float32)
    del first
    assert mappings.idle_bytes == 0
    second = mappings.take(40 * MIB)
    assert second.data_ptr() != place
    del view
    assert mappings.idle_bytes == 40 * MIB
    assert mappings.take(39 * MIB).data_ptr() == place


def test_what_is_much_too_large_is_not_lent():
    mappings = Mappings()
    large = mappings.take(100 * MIB)
    del large
    small = mappings.take(80 * MIB)
    assert small.numel() == 80 * MIB
    assert mappings.idle_bytes == 0, "the idle 100 MiB were given back for the 80 that were mapped"
    del small
    assert mappings.take(80 * MIB).numel() == 80 * MIB


def test_idle_memory_goes_back_before_more_is_mapped():
    mappings = Mappings()
    lent = [mappings.take(size * MIB) for size in (40, 60, 200)]
    del lent
    assert mappings.idle_bytes == 300 * MIB
    larger = mappings.take(280 * MIB)
    assert mappings.idle_bytes + larger.numel() <= 300 * MIB + pages.PAGE


def test_all_that_is_idle_can_be_given_back():
    mappings = Mappings()
    held, idle = mappings.take(40 * MIB), mappings.take(40 * MIB)
    held.fill_(7)
    del idle
    mappings.release()
    assert mappings.idle_bytes == 0
    assert bool((held == 7).all())


def test_tensors_that_live_at_once_never_share_memory():
    mappings, failures = Mappings(), []

    def work(mark: int) -> None:
        for _ in range(40):
            tensor = mappings.take(3 * MIB)
            tensor.fill_(mark)
            if not bool((tensor == mark).all()):
                failures.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not failures
    assert mappings.idle_bytes <= len(threads) * 2 * 4 * MIB, "two a thread, while one takes the place of the other"


def test_where_memory_is_out_it_says_so(monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match=r"no 0\.1 GB of memory left: Cannot allocate memory"):
        Mappings().take(50 * MIB)


def test_only_large_tensors_are_mapped(monkeypatch):
    mappings = Mappings()
    monkeypatch.setattr(pages, "MAPPINGS", mappings)
    small, large = pages.zeros((LARGE // 4 - 1,)), pages.zeros((2, LARGE // 4))
    assert (small.shape, large.shape, large.dtype) == ((LARGE // 4 - 1,), (2, LARGE // 4), torch.float32)
    assert not large.any()
    del small, large
    assert mappings.idle_bytes == 2 * LARGE
    assert pages.empty((2 * LARGE,), torch.uint8, torch.device("meta")).is_meta
    assert mappings.idle_bytes == 2 * LARGE
