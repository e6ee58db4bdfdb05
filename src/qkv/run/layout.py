"""From a caller's layout to the one that strategies work in, and back.

Canonical tensors are q ``[shared..., query-only..., feature]``, k ``[shared..., key..., feature]``, v ``[shared...,
key..., value feature]``, with several feature coordinates flattened into one. Everything is a view where the strides
allow it. This module knows axes; it refuses to know what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..coords.pattern import TensorPattern


@dataclass(frozen=True, slots=True)
class Layout:
    """How one tensor's axes become canonical ones: merged axes split, axes permuted; ``plain`` if nothing is."""

    splits: tuple[tuple[int, tuple[int, ...]], ...]
    order: tuple[int, ...]
    plain: bool

    @staticmethod
    def of(pattern: TensorPattern, sizes: Mapping[str, int], order: Sequence[str]) -> Layout:
        """The layout that brings a tensor with the axes of ``pattern`` into the order ``order``."""
        flat = [name for axis in pattern.axes for name in axis.names]
        permutation = tuple(flat.index(name) for name in order)
        # From the last axis to the first, so that the numbers of the axes before stay right.
        splits = tuple(
            (n, tuple(sizes[name] for name in axis.names))
            for n, axis in reversed(list(enumerate(pattern.axes)))
            if len(axis.names) != 1
        )
        return Layout(splits, permutation, not splits and permutation == tuple(range(len(permutation))))

    def canonical(self, tensor: Tensor) -> Tensor:
        """A view of ``tensor`` with one axis for each coordinate, in canonical order."""
        if self.plain:
            return tensor
        for axis, sizes in self.splits:
            tensor = torch.unflatten(tensor, axis, sizes) if sizes else tensor.squeeze(axis)
        return tensor.permute(self.order)


ALIGNMENT = 64
"""Bytes at whose multiples torch's own allocations begin."""


def packed(tensor: Tensor) -> Tensor:
    """The tensor with its last axis fastest and no gaps, from an aligned address; itself where that is so already.

    Matrix products choose the order of their sums by strides and alignment: packed, the same numbers give the same bits
    whatever layout they came in.
    """
    import torch

    stride, expected = 1, list[int]()
    for size in reversed(tensor.shape):
        expected.append(stride)
        stride *= size
    if tensor.stride() == tuple(reversed(expected)) and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def flatten_last(tensor: Tensor, count: int) -> Tensor:
    """The last ``count`` axes as one; a view when there is only one."""
    return tensor if count == 1 else tensor.flatten(-count)


@dataclass(frozen=True, slots=True)
class Return:
    """How a canonical result becomes the pattern's output: axes split, permuted, flattened."""

    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def of(
        pattern: TensorPattern,
        sizes: Mapping[str, int],
        canonical: Sequence[str],
        without: frozenset[str] = frozenset(),
    ) -> Return:
        """The way back for a result whose axes are ``canonical``, into ``pattern`` less the coordinates ``without``."""
        axes = [[name for name in axis.names if name not in without] for axis in pattern.axes]
        kept = [names for names, axis in zip(axes, pattern.axes, strict=True) if names or not axis.names]
        flat = [name for names in kept for name in names]
        return Return(
            tuple(sizes[name] for name in canonical),
            tuple(list(canonical).index(name) for name in flat),
            tuple(math.prod(sizes[name] for name in names) for names in kept),
        )

    def apply(self, tensor: Tensor) -> Tensor:
        """The result in the pattern's layout; a leading axis that the pattern does not know stays in front."""
        extra = tensor.shape[: tensor.dim() - len(self.split)] if tensor.dim() > len(self.split) else ()
        lead = len(extra)
        out = tensor if tuple(tensor.shape[lead:]) == self.split else tensor.reshape(*extra, *self.split)
        out = out.permute((*range(lead), *(lead + n for n in self.order)))
        return out if tuple(out.shape[lead:]) == self.shape else out.reshape(*extra, *self.shape)
