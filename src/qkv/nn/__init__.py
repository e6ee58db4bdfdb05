"""Attention as torch modules: projections around a spec, whose parts are the arguments.

>>> import qkv.nn
>>> layer = qkv.nn.Attention(64, 8, kv_heads=2, position=qkv.rope(), keep=qkv.causal())
>>> layer(torch.randn(3, 10, 64)).shape
torch.Size([3, 10, 64])
"""

from __future__ import annotations

from .attention import Attention as Attention
from .attention import CrossAttention as CrossAttention

__all__ = ["Attention", "CrossAttention"]
