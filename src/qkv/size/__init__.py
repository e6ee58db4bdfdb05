"""Sizes of attention: bytes, FLOPs and time by kind of layer, and what follows for a choice.

Integers in, integers out, without torch and without a network: a model's configuration becomes a list of layers, each
of a kind, and every figure carries the policy or the convention that it was computed by.

>>> import qkv
>>> print(qkv.size.cache_size(qkv.size.model("gemma-3-27b"), "128k"))
10.41 GiB (11,173,625,856 bytes), policy math, bf16
"""

from .cache import CacheSize as CacheSize
from .cache import Group as Group
from .cache import cache_size as cache_size
from .cache import token_bytes as token_bytes
from .curve import Curve as Curve
from .curve import curves as curves
from .curve import stack_curves as stack_curves
from .curve import write_curves as write_curves
from .description import Model as Model
from .fit import Fit as Fit
from .fit import fit as fit
from .flops import layer_work as layer_work
from .flops import linear_layer as linear_layer
from .flops import multi_head_layer as multi_head_layer
from .format import Format as Format
from .format import formats as formats
from .hardware import HARDWARE as HARDWARE
from .hardware import Hardware as Hardware
from .hardware import hardware as hardware
from .known import KNOWN as KNOWN
from .known import model as model
from .known import models as models
from .known import sources as sources
from .layer import Kind as Kind
from .layer import Layer as Layer
from .pairs import bigbird_pairs as bigbird_pairs
from .pairs import causal_pairs as causal_pairs
from .pairs import chunk_pairs as chunk_pairs
from .pairs import full_pairs as full_pairs
from .pairs import prefix_pairs as prefix_pairs
from .pairs import visible_pairs as visible_pairs
from .pairs import window_pairs as window_pairs
from .policy import Policy as Policy
from .policy import llama_cpp as llama_cpp
from .policy import paged as paged
from .policy import policies as policies
from .probe import probe as probe
from .recommend import RULES as RULES
from .recommend import Reason as Reason
from .recommend import Recommendation as Recommendation
from .recommend import recommend as recommend
from .roofline import Roof as Roof
from .roofline import Times as Times
from .roofline import roof as roof
from .roofline import times as times
from .scenario import Scenario as Scenario
from .scenario import Use as Use
from .step import ModelWork as ModelWork
from .step import flops as flops
from .units import show_bytes as show_bytes
from .units import show_count as show_count
from .units import show_flops as show_flops
from .units import show_rate as show_rate
from .units import show_seconds as show_seconds
from .work import Convention as Convention
from .work import LatentForm as LatentForm
from .work import Part as Part
from .work import Work as Work
