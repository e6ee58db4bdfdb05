"""qkv inside Hugging Face transformers: register it, use it for a loaded model, load a model and generate with it.

>>> import qkv.transformers
>>> qkv.transformers.register()  # from now on: from_pretrained(..., attn_implementation="qkv")
"""

from __future__ import annotations

from .extra import MissingExtra as MissingExtra
from .extra import require

require()

from .attention import qkv_attention as qkv_attention  # noqa: E402 # only once transformers is known to be there
from .caches import Cache as Cache  # noqa: E402
from .check import Agreement as Agreement  # noqa: E402
from .check import compare as compare  # noqa: E402
from .generation import Generation as Generation  # noqa: E402
from .generation import generate as generate  # noqa: E402
from .load import Loaded as Loaded  # noqa: E402
from .load import load_model as load_model  # noqa: E402
from .mask import SymbolicMask as SymbolicMask  # noqa: E402
from .mask import qkv_mask as qkv_mask  # noqa: E402
from .registry import register as register  # noqa: E402
from .registry import use as use  # noqa: E402

__all__ = [
    "Agreement",
    "Cache",
    "Generation",
    "Loaded",
    "MissingExtra",
    "SymbolicMask",
    "compare",
    "generate",
    "load_model",
    "qkv_attention",
    "qkv_mask",
    "register",
    "use",
]
