"""Caches: keys and values of the tokens so far, for decoding, under one protocol."""

from .dense import Dense as Dense
from .dense import Quantized as Quantized
from .paged import Paged as Paged
from .pool import PagePool as PagePool
from .protocol import Cache as Cache
from .ring import Ring as Ring
from .stored import Stored as Stored
