"""What a cache hands to a model in place of keys and values, and how the attention function knows it again.

A layer of ``Cache`` returns tensors that carry a note: which layer they came from. Models that pass them on to
attention untouched pass the note on with them, for it belongs to the object; what any operation makes of them has
none. Latents become keys and values of each head on the way, so their layer waits for the module that asked. This
module knows notes; it refuses to know what is computed.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .layers import LatentLayer, Layer

_NOTE = "_qkv_layer"


def note(tensor: Tensor, layer: Layer) -> Tensor:
    """The same tensor, which says from now on that it came from ``layer``."""
    setattr(tensor, _NOTE, layer)
    return tensor


def layer_of(key: Tensor, value: Tensor) -> Layer | None:
    """The layer that handed out both tensors; None for any others."""
    layer: Any = getattr(key, _NOTE, None)
    return layer if layer is not None and getattr(value, _NOTE, None) is layer else None


_waiting: weakref.WeakKeyDictionary[nn.Module, LatentLayer] = weakref.WeakKeyDictionary()


def wait(module: nn.Module, layer: LatentLayer) -> None:
    """Notes that the next attention call of ``module`` is about the latents of ``layer``."""
    _waiting[module] = layer


def waiting(module: nn.Module) -> LatentLayer | None:
    """The layer whose latents a module has just asked for; asked once."""
    return _waiting.pop(module, None) if _waiting else None
