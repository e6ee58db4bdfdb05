"""Where every byte of a cache comes from: one function, so that a test can make any allocation fail.

It knows nothing of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. Made outside inference mode, whose tensors nobody could write into later."""
    import torch

    with torch.inference_mode(False):
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
