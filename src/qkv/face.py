"""Every public name, from the room that defines it. ``qkv`` itself loads this module when a name is first asked for."""

from . import cache as cache
from . import mechanisms as mechanisms
from . import size as size
from .coords import Pattern as Pattern
from .coords.concat import concat as concat
from .coords.functions import all as all
from .coords.functions import any as any
from .coords.functions import argmax as argmax
from .coords.functions import argmin as argmin
from .coords.functions import cumsum as cumsum
from .coords.functions import dot as dot
from .coords.functions import log_softmax as log_softmax
from .coords.functions import logsumexp as logsumexp
from .coords.functions import max as max
from .coords.functions import mean as mean
from .coords.functions import min as min
from .coords.functions import prod as prod
from .coords.functions import relu as relu
from .coords.functions import sum as sum
from .coords.named import Named as Named
from .coords.typed import T as T
from .core import compiler as compiler
from .core import cpu_features as cpu_features
from .core import cpu_target as cpu_target
from .ein.python import fn as fn
from .errors import CacheError as CacheError
from .errors import CoordinateError as CoordinateError
from .errors import DeviceError as DeviceError
from .errors import DtypeError as DtypeError
from .errors import EinError as EinError
from .errors import InternalError as InternalError
from .errors import LimitError as LimitError
from .errors import ModelError as ModelError
from .errors import PatternError as PatternError
from .errors import PositionError as PositionError
from .errors import QkvError as QkvError
from .errors import Refused as Refused
from .errors import ShapeError as ShapeError
from .errors import SizeMismatch as SizeMismatch
from .errors import SpecError as SpecError
from .errors import TargetError as TargetError
from .errors import TraceError as TraceError
from .plan import Plan as Plan
from .plan import strategies as strategies
from .plan import strategy as strategy
from .run import LinearState as LinearState
from .run import Result as Result
from .run import attention as attention
from .run import linear_step as linear_step
from .run import merge as merge
from .spec import DEFAULT_PATTERN as DEFAULT_PATTERN
from .spec import Spec as Spec
from .terms import scaling as scaling
from .terms.bigbird import bigbird as bigbird
from .terms.keep import Keep as Keep
from .terms.keep import keep as keep
from .terms.masks import blocks as blocks
from .terms.masks import causal as causal
from .terms.masks import dilated as dilated
from .terms.masks import documents as documents
from .terms.masks import first as first
from .terms.masks import padding as padding
from .terms.masks import prefix as prefix
from .terms.masks import tree as tree
from .terms.masks import window as window
from .terms.position import Rope as Rope
from .terms.position import permute_pairing as permute_pairing
from .terms.position import rope as rope
from .terms.score import ScoreTerm as ScoreTerm
from .terms.score import alibi as alibi
from .terms.score import alibi_slopes as alibi_slopes
from .terms.score import bias as bias
from .terms.score import relative_bias as relative_bias
from .terms.score import score as score
from .terms.score import shaw as shaw
from .terms.score import softcap as softcap
from .terms.symbol import index as index
from .terms.symbol import size_of as size_of
from .terms.weights import Weights as Weights
from .terms.weights import differential as differential
from .terms.weights import differential_lambda as differential_lambda
from .terms.weights import linear as linear
from .words import abs as abs
from .words import cos as cos
from .words import erf as erf
from .words import exp as exp
from .words import floor as floor
from .words import log as log
from .words import maximum as maximum
from .words import minimum as minimum
from .words import sigmoid as sigmoid
from .words import sin as sin
from .words import softmax as softmax
from .words import sqrt as sqrt
from .words import tanh as tanh
from .words import where as where

__all__ = [
    "DEFAULT_PATTERN",
    "CacheError",
    "CoordinateError",
    "DeviceError",
    "DtypeError",
    "EinError",
    "InternalError",
    "Keep",
    "LimitError",
    "LinearState",
    "ModelError",
    "Named",
    "Pattern",
    "PatternError",
    "Plan",
    "PositionError",
    "QkvError",
    "Refused",
    "Result",
    "Rope",
    "ScoreTerm",
    "ShapeError",
    "SizeMismatch",
    "Spec",
    "SpecError",
    "T",
    "TargetError",
    "TraceError",
    "Weights",
    "abs",
    "alibi",
    "alibi_slopes",
    "all",
    "any",
    "argmax",
    "argmin",
    "attention",
    "bias",
    "bigbird",
    "blocks",
    "cache",
    "causal",
    "compiler",
    "concat",
    "cos",
    "cpu_features",
    "cpu_target",
    "cumsum",
    "differential",
    "differential_lambda",
    "dilated",
    "documents",
    "dot",
    "erf",
    "exp",
    "first",
    "floor",
    "fn",
    "index",
    "keep",
    "linear",
    "linear_step",
    "log",
    "log_softmax",
    "logsumexp",
    "max",
    "maximum",
    "mean",
    "mechanisms",
    "merge",
    "min",
    "minimum",
    "padding",
    "permute_pairing",
    "prefix",
    "prod",
    "relative_bias",
    "relu",
    "rope",
    "scaling",
    "score",
    "shaw",
    "sigmoid",
    "sin",
    "size",
    "size_of",
    "softcap",
    "softmax",
    "sqrt",
    "strategies",
    "strategy",
    "sum",
    "tanh",
    "tree",
    "where",
    "window",
]
