"""Sizes of attention: bytes, FLOPs and time by kind of layer, and what follows for a choice.

Integers in, integers out, without torch and without a network: a model's configuration becomes a list of layers, each of
a kind, and every figure carries the policy or the convention that it was computed by.

>>> import qkv
>>> print(qkv.size.cache_size(qkv.size.model("gemma-3-27b"), "128k"))
10.41 GiB (11,173,625,856 bytes), policy math, bf16
"""

from .cache import CacheSize as CacheSize
from .cache import Group as Group
from .cache import cache_size as cache_size
from .cache import token_bytes as token_bytes
from .format import Format as Format
from .format import formats as formats
from .known import model as model
from .known import models as models
from .layer import Kind as Kind
from .layer import Layer as Layer
from .model import Model as Model
from .policy import Policy as Policy
from .policy import llama_cpp as llama_cpp
from .policy import paged as paged
from .policy import policies as policies
