"""Caches: keys and values of the tokens so far, for decoding, under one protocol."""

from .dense import Dense as Dense
from .dense import Quantized as Quantized
from .files import load as load
from .latent import Latent as Latent
from .paged import Paged as Paged
from .pool import PagePool as PagePool
from .protocol import Cache as Cache
from .recurrent import Recurrent as Recurrent
from .ring import Ring as Ring
from .stored import Stored as Stored
