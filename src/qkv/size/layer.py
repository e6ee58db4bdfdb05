"""What a layer keeps from token to token: its kind, and the integers that settle its cache and its work.

Knows the kinds and what each holds for a token or a sequence. Refuses to know where the integers come from
(``config``), and how an allocator rounds them (``policy``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a layer keeps: the reason why one formula cannot fit every model."""

    FULL = "full"
    """Keys and values of every token."""
    WINDOW = "window"
    """Keys and values of the last ``span`` tokens, the query's own included."""
    CHUNK = "chunk"
    """Keys and values of the current chunk of ``span`` positions (chunked-local attention, Llama 4)."""
    CROSS = "cross"
    """Keys and values of a source sequence, made once."""
    LATENT = "latent"
    """One latent vector and one rotary key of every token, for all heads (MLA)."""
    SHARED = "shared"
    """Nothing of its own: it reads the keys and values of the layer ``shares``."""
    STATE = "state"
    """A state of constant size: linear attention, a state-space model, a convolution."""
    NONE = "none"
    """Nothing: an encoder's self-attention, or a layer without attention (``num_heads`` 0)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One attention (or what stands in its place) of a model; sizes are counts of numbers, never bytes.

    ``number`` is the block of the model that it stands in; a block may hold two, such as self- and cross-attention.
    ``key_size`` and ``value_size`` are the features of one head. Latent layers: ``latent_size`` numbers and
    ``rotary_size`` numbers for a token, ``content_size`` features of a head that are not rotated,
    ``query_latent_size`` of the compressed query (0 where it is not). ``index_size`` numbers of a token's indexer key,
    ``index_heads`` query heads of the indexer, which chooses ``index_topk`` keys for each query. States: ``state_size``
    numbers of the recurrent state, and a convolution over ``conv_channels`` with ``conv_kernel`` taps.
    ``maps`` are the linear maps of a state layer, each (name, features in, features out). ``gate_size`` is the features
    of a head that a gate on the result of attention has, 0 without one.
    ``source_tokens`` is a source length that the model fixes, 0 where the call says it.
    """

    kind: Kind
    number: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    key_size: int = 0
    value_size: int = 0
    span: int = 0
    shares: int = 0
    latent_size: int = 0
    rotary_size: int = 0
    content_size: int = 0
    query_latent_size: int = 0
    index_size: int = 0
    index_heads: int = 0
    index_topk: int = 0
    state_size: int = 0
    state_heads: int = 0
    conv_channels: int = 0
    conv_kernel: int = 0
    maps: tuple[tuple[str, int, int], ...] = ()
    gate_size: int = 0
    source_tokens: int = 0

    @property
    def has_tokens(self) -> bool:
        """Whether what it keeps is counted in tokens."""
        return self.kind in (Kind.FULL, Kind.WINDOW, Kind.CHUNK, Kind.CROSS, Kind.LATENT)

    def held(self, tokens: int, source: int = 0) -> int:
        """How many tokens it must hold of a sequence of ``tokens``, at the most demanding moment of getting there.

        A chunked-local layer starts anew at each multiple of its span, so that the most it holds is one whole chunk.

        >>> Layer(Kind.WINDOW, span=4096).held(8192), Layer(Kind.FULL).held(8192), Layer(Kind.STATE).held(8192)
        (4096, 8192, 0)
        """
        if self.kind in (Kind.FULL, Kind.LATENT):
            return tokens
        if self.kind in (Kind.WINDOW, Kind.CHUNK):
            return min(tokens, self.span)
        if self.kind is Kind.CROSS:
            return self.source_tokens or source
        return 0

    @property
    def query_size(self) -> int:
        """Features of a query head: those of a key, or of a rebuilt latent key."""
        return self.content_size + self.rotary_size if self.latent_size else self.key_size
