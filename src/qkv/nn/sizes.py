"""The sizes of an attention module, checked once: the model, heads, heads of keys and values, features of a head.

It knows how sizes fit together and the pattern that they make. It refuses to know tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkv import SizeMismatch, SpecError


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """``d_model``, query ``heads``, ``kv_heads`` that they share, ``head_dim`` features of each."""

    d_model: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.kv_heads

    @property
    def pattern(self) -> str:
        """The coordinates of q, k, v and the output: heads stand before features, as projections make them."""
        heads = "h" if self.kv_heads == self.heads else "(h g)"
        return f"b i {heads} d, b j h d, b j h e -> b i {heads} e"

    def __str__(self) -> str:
        group = "" if self.kv_heads == self.heads else f" g={self.group}"
        return f"model={self.d_model} h={self.kv_heads}{group} d={self.head_dim} e={self.head_dim}"


def head_sizes(owner: str, d_model: int, heads: int, kv_heads: int | None, head_dim: int | None) -> HeadSizes:
    """The sizes, with ``kv_heads`` = ``heads`` and ``head_dim`` = ``d_model / heads`` where they are None.

    Raises ``SpecError`` for what is no whole number above 0, ``SizeMismatch`` for heads that do not divide.
    """
    whole(owner, d_model=d_model, heads=heads)
    shared = heads if kv_heads is None else kv_heads
    whole(owner, kv_heads=shared)
    if heads % shared:
        raise SizeMismatch(
            f"{owner}: heads={heads} cannot be shared by kv_heads={shared}.\n"
            "  Each key head serves the same number of query heads: kv_heads divides heads."
        )
    if head_dim is None and d_model % heads:
        raise SizeMismatch(
            f"{owner}: d_model={d_model} is not divided by heads={heads}, and head_dim is not given.\n"
            "  Choose heads that divide d_model, or give head_dim."
        )
    features = d_model // heads if head_dim is None else head_dim
    whole(owner, head_dim=features)
    return HeadSizes(d_model, heads, shared, features)


def whole(owner: str, **numbers: object) -> None:
    """``SpecError`` for a number that is not whole or not above 0, which names it."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(
                f"{owner}: {name}={value!r} must be a whole number of at least 1.\n  It is a size or a count."
            )


def share(owner: str, dropout: object) -> float:
    """``dropout`` as a float in [0, 1); ``SpecError`` otherwise."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise SpecError(
            f"{owner}: dropout={dropout!r} must be a probability in [0, 1).\n"
            "  It is the share of weights that are dropped while the module trains."
        )
    return float(dropout)


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """The sizes of latent attention, under the names of DeepSeek's configurations."""

    d_model: int
    heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None

    def checked(self, owner: str) -> LatentSizes:
        """These sizes. Raises ``SpecError`` for one that is no size."""
        whole(owner, d_model=self.d_model, heads=self.heads, kv_lora_rank=self.kv_lora_rank, v_head_dim=self.v_head_dim)
        if self.q_lora_rank is not None:
            whole(owner, q_lora_rank=self.q_lora_rank)
        parts = {"qk_nope_head_dim": self.qk_nope_head_dim, "qk_rope_head_dim": self.qk_rope_head_dim}
        whole(owner, **{name: value for name, value in parts.items() if value != 0})
        if self.qk_rope_head_dim % 2 or not any(parts.values()):
            raise SpecError(
                f"{owner}: qk_rope_head_dim={self.qk_rope_head_dim} beside qk_nope_head_dim={self.qk_nope_head_dim}.\n"
                "  Features are turned in pairs, and one of the two parts is there; DeepSeek-V2 has 64 beside 128."
            )
        return self

    def __str__(self) -> str:
        queries = "" if self.q_lora_rank is None else f" q_latent={self.q_lora_rank}"
        return (
            f"model={self.d_model} h={self.heads} d={self.qk_rope_head_dim}+{self.qk_nope_head_dim} "
            f"e={self.v_head_dim} latent={self.kv_lora_rank}{queries}"
        )
