"""Attention as torch modules: projections around a spec, whose parts are the arguments.

>>> import qkv.nn
>>> layer = qkv.nn.Attention(64, 8, kv_heads=2, position=qkv.rope(), keep=qkv.causal())
>>> layer(torch.randn(3, 10, 64)).shape
torch.Size([3, 10, 64])
"""

from __future__ import annotations

from .attention import Attention as Attention
from .attention import CrossAttention as CrossAttention
from .checkpoints import LAYOUTS as LAYOUTS
from .checkpoints import Layout as Layout
from .checkpoints import from_checkpoint as from_checkpoint
from .checkpoints import load_checkpoint as load_checkpoint
from .convert import Conversion as Conversion
from .convert import to_grouped as to_grouped
from .convert import to_latent as to_latent
from .counts import num_attention_parameters as num_attention_parameters
from .counts import num_differential_parameters as num_differential_parameters
from .counts import num_latent_parameters as num_latent_parameters
from .differential import DifferentialAttention as DifferentialAttention
from .latent import LatentAttention as LatentAttention
from .linear import LinearAttention as LinearAttention
from .linear import LinearMemory as LinearMemory

__all__ = [
    "LAYOUTS",
    "Attention",
    "Conversion",
    "CrossAttention",
    "DifferentialAttention",
    "LatentAttention",
    "Layout",
    "LinearAttention",
    "LinearMemory",
    "from_checkpoint",
    "load_checkpoint",
    "num_attention_parameters",
    "num_differential_parameters",
    "num_latent_parameters",
    "to_grouped",
    "to_latent",
]
