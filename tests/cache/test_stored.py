"""How keys lie in memory, which kernels rely on; and parts of them as ordinary tensors."""

from __future__ import annotations

import pytest
import torch

import qkv
from qkv.cache.codec import decode
from qkv.cache.stored import Stored
from tests.cache.kinds import KINDS, RECENT, tokens

READ_IN_PLACE = ("ring", "paged", "int8", "int4", "ring8", "paged4")


def stored(name: str) -> tuple[Stored, Stored, torch.Tensor, torch.Tensor]:
    """Keys and values of eleven tokens as stored, and what attention sees of those that are held."""
    kind = {**KINDS, **RECENT}[name]
    cache = kind.make()
    _, k, v = tokens(11, 1)
    for n in range(11):
        cache.append(k[:, :, n : n + 1], v[:, :, n : n + 1])
    view = cache.view()
    assert isinstance(view.keys, Stored)
    assert isinstance(view.values, Stored)
    held = view.standing.count
    return view.keys, view.values, kind.seen(k)[:, :, -held:], kind.seen(v)[:, :, -held:]


@pytest.mark.parametrize("name", [*READ_IN_PLACE, *RECENT])
def test_parts_are_what_was_appended(name: str) -> None:
    for found, want in zip(stored(name)[:2], stored(name)[2:], strict=True):
        assert torch.equal(found.whole(), want)
        assert found.shared == (2, 1)
        for first in range(found.count):
            for last in range(first, found.count + 1):
                assert torch.equal(found.part(first, last), want[:, :, first:last])
                assert torch.equal(found.part(first, last, (0, 1, 2)), want[1:, :, first:last])
                assert torch.equal(found.part(first, last, (1, 0, 1)), want[:, :, first:last])


@pytest.mark.parametrize("name", [*READ_IN_PLACE, *RECENT])
def test_the_layout_is_the_one_that_kernels_read(name: str) -> None:
    """Each key, found by hand from start, pages and codes."""
    for found, want in zip(stored(name)[:2], stored(name)[2:], strict=True):
        assert found.data.stride(-1) == 1
        assert (found.scale is None) == (found.bits is None)
        assert found.dtype == torch.float64
        for b in range(2):
            for j in range(found.count):
                if found.pages is None:
                    place = (b, 0, (found.start + j) % found.data.shape[-2])
                else:
                    assert found.pages.dtype == torch.int32
                    place = (int(found.pages[b, j // found.page_size]), 0, j % found.page_size)
                row = found.data[place]
                if found.newest is not None and j >= found.newest.first:
                    slots = found.newest.data
                    assert slots.stride(-1) == 1
                    row = slots[b, 0, j % slots.shape[-2]]
                elif found.bits is not None and found.scale is not None:
                    row = decode(row, found.scale[place], found.bits, found.feature_size, torch.float64)
                assert torch.equal(row, want[b, 0, j])


def test_a_dense_cache_shows_views() -> None:
    cache = qkv.cache.Dense()
    _, k, v = tokens(5, 2)
    cache.append(k, v)
    view = cache.view()
    assert view.keys.data_ptr() == cache.state.keys.data.data_ptr()
    assert view.keys.shape == k.shape
    assert torch.equal(view.values, v)


def test_behind_the_end_of_a_sequence_are_zeros() -> None:
    for bits in (None, 8):
        cache = qkv.cache.Paged(qkv.cache.PagePool(2, bits=bits))
        _, k, v = tokens(5, 3)
        cache.append(k, v, lengths=[5, 2])
        view = cache.view()
        assert view.lengths.tensor.tolist() == [5, 2]
        assert not bool(view.keys.whole()[1, :, 2:].any())
        assert bool(view.keys.whole()[0].any(-1).all())
