"""All named mechanisms and model stacks, by name.

The fifteen mechanisms stand here with the sizes of their examples; stacks come from ``stacks``. Knows names; what a
mechanism is stands in its own file.
"""

from __future__ import annotations

import difflib
from typing import Any

from ..errors import SpecError
from .alibi import alibi
from .bigbird import bigbird
from .causal import causal
from .cross import cross
from .differential import differential, differential_clamped
from .entry import Entry, Group, Layer, Sizes
from .flash import flash
from .grouped_query import grouped_query
from .latent import latent, latent_absorbed
from .linear import linear
from .multi_head import multi_head
from .multi_query import multi_query
from .relative_position_bias import relative_position_bias
from .rope import rope
from .scaled_dot_product import scaled_dot_product
from .sliding_window import sliding_window
from .stacks import STACKS

SIZES: Sizes = {"b": 1, "h": 4, "g": 2, "d": 8, "e": 8}
"""What examples of the fifteen have where nothing else is said."""


def _mechanism(name: str, title: str, *layers: Layer) -> Entry:
    return Entry(name, title, "mechanism", layers)


def _layer(make: Any, name: str = "", **fixed: Any) -> Layer:
    return Layer(name, make, SIZES, fixed=fixed)


MECHANISMS = (
    _mechanism("scaled-dot-product", "scaled dot product", _layer(scaled_dot_product)),
    _mechanism("multi-head", "multi-head", Layer("", multi_head, SIZES, known=("h",))),
    _mechanism("causal", "causal", _layer(causal)),
    _mechanism("cross", "cross", Layer("", cross, {**SIZES, "t": 5})),
    _mechanism("multi-query", "multi-query", _layer(multi_query)),
    _mechanism("grouped-query", "grouped-query", _layer(grouped_query)),
    _mechanism(
        "relative-position-bias",
        "relative position bias",
        Layer("", relative_position_bias, SIZES, lambda sizes: {"table": (9, sizes["h"])}),
    ),
    _mechanism("rope", "RoPE", _layer(rope)),
    _mechanism("alibi", "ALiBi", _layer(alibi)),
    _mechanism("linear", "linear", _layer(linear)),
    _mechanism("sliding-window", "sliding window", _layer(sliding_window)),
    _mechanism("bigbird", "BigBird", _layer(bigbird)),
    _mechanism("flash", "flash", _layer(flash)),
    _mechanism(
        "differential",
        "differential",
        Layer("paper", differential, SIZES, lambda sizes: {"lam": (sizes["h"],)}, {"lambda_init": 0.2}),
        Layer("clamped", differential_clamped, SIZES, fixed={"lam": 0.5}),
    ),
    _mechanism(
        "latent",
        "multi-head latent",
        Layer("rebuilt", latent, {**SIZES, "d": 12}, fixed={"rotary_size": 4, "content_size": 8}),
        Layer(
            "absorbed",
            latent_absorbed,
            {**SIZES, "d": 20, "e": 16},
            fixed={"rotary_size": 4, "latent_size": 16, "scale": 12**-0.5},
        ),
    ),
)

_ENTRIES = {entry.name: entry for entry in (*MECHANISMS, *STACKS)}


def names(group: Group | None = None) -> tuple[str, ...]:
    """Return the names of all entries, or of a group: ``"mechanism"`` (the fifteen) or ``"stack"`` (models).

    >>> import qkv
    >>> qkv.mechanisms.names("mechanism")[:3]
    ('scaled-dot-product', 'multi-head', 'causal')
    """
    if group not in (None, "mechanism", "stack"):
        raise SpecError(f'group="{group}" is not known.\n  Known: "mechanism", "stack", or None for all.')
    return tuple(name for name, entry in _ENTRIES.items() if group in (None, entry.group))


def get(name: str) -> Entry:
    """Return the mechanism or stack called ``name``; case does not matter, nor whether words are joined by - or _.

    Raises ``SpecError`` for a name that nothing has.

    >>> import qkv
    >>> qkv.mechanisms.get("Grouped_Query").spec(keep=qkv.causal())
    Spec("b (h g) i d, b h j d, b h j e -> b (h g) i e", keep=causal())
    """
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    if plain in _ENTRIES:
        return _ENTRIES[plain]
    near = difflib.get_close_matches(plain, _ENTRIES, n=3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(_ENTRIES)}."
    raise SpecError(f'no mechanism is called "{name:.80}".\n  {hint}')
