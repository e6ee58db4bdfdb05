"""One five-token example through the fifteen mechanisms, each row for "cat" beside the published one.

The data file gives keys, values and the query of "cat"; the other queries were never published. Here the query of
another token is twice its key, so that each token looks for its like. The decoder's queries are the encoder's plus
[1, 0, 1, 1], which is what turns the one for "cat" into its published one. This module knows how each mechanism is
given that data; it refuses to know the strategy, which the caller chooses around it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Refused
from ..spec import Spec
from ..terms.png import Panel, heat_png
from ..terms.shade import heat_lines
from .alibi import alibi
from .bigbird import bigbird
from .causal import causal
from .cross import cross
from .differential import differential_clamped
from .flash import flash
from .grouped_query import grouped_query
from .latent import latent, latent_keys_values
from .linear import linear
from .multi_head import multi_head
from .multi_query import multi_query
from .registry import get
from .relative_position_bias import relative_position_bias
from .rope import rope
from .scaled_dot_product import scaled_dot_product
from .sliding_window import sliding_window

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = "cat"
DECIMALS = 4
BIGBIRD_SEED = 20
"""A seed whose random key for "cat" lies in its window, as the published row wants, and those of others do not all."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One mechanism on the tokens: ``output`` [token, feature], ``maps`` [head, token, key], and what was published."""

    name: str
    tokens: tuple[str, ...]
    output: Matrix
    maps: Matrix
    published: tuple[float, ...]

    @property
    def title(self) -> str:
        """The mechanism's name for readers."""
        return get(self.name).title

    @property
    def met(self) -> bool:
        """Whether the published row is met to four decimals."""
        return written(self.output[self.tokens.index(PUBLISHED)].tolist()) == written(self.published)

    def heat(self, head: int = 0, *, colour: bool, width: int = 5) -> list[str]:
        """The weights of a head as lines of text: a heading, then a line for each token."""
        return heat_lines(self.maps[head], self.tokens, self.tokens, colour=colour, width=width)


def written(values: Sequence[float]) -> tuple[str, ...]:
    """Numbers with the decimals of the publication; a zero has no sign."""
    return tuple(f"{round(value, DECIMALS) + 0.0:.{DECIMALS}f}" for value in values)


@dataclass(frozen=True, slots=True)
class _Given:
    """The data as tensors: queries, the decoder's queries, keys and values, each [1, token, feature]."""

    q: Tensor
    decoder: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True)
class _Call:
    """A spec with its tensors. ``num_heads`` heads share the feature axis of v, or stand on an axis of their own."""

    spec: Spec
    q: Tensor
    k: Tensor
    v: Tensor
    merged_heads: int = 0

    def run(self, v: Tensor) -> Tensor:
        """The output for values ``v``."""
        return self.spec(self.q, self.k, v, sizes={"h": self.merged_heads} if self.merged_heads else None)

    def output(self) -> Matrix:
        """[token, feature], heads one after the other."""
        out = self.run(self.v)
        if out.dim() == 4:
            out = out.transpose(1, 2).flatten(2)
        return out[0].numpy()

    def maps(self) -> Matrix:
        """[head, token, key]: what the strategy makes of values that tell the keys apart is its weights."""
        import torch

        unit = torch.eye(self.v.shape[-2], dtype=self.v.dtype)
        out = self.run(unit.repeat(1, max(1, self.merged_heads)).expand(*self.v.shape[:-1], -1))
        if self.merged_heads:
            out = out.reshape(*out.shape[:-1], self.merged_heads, -1).transpose(1, 2)
        return out.reshape(-1, *out.shape[-2:]).numpy()


def _one_head(spec: Spec) -> Callable[[_Given], _Call]:
    """The whole feature axis as one head of a pattern with heads."""
    return lambda x: _Call(spec, x.q[:, None], x.k[:, None], x.v[:, None])


def _two_heads(spec: Spec, num_key_heads: int) -> Callable[[_Given], _Call]:
    """Heads of size 2, slices of the feature axis; the first ``num_key_heads`` of them for keys and values."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], 2, 2).transpose(1, 2)

    def call(x: _Given) -> _Call:
        k, v = split(x.k), split(x.v)
        return _Call(spec, split(x.q), k if num_key_heads == 2 else k[:, 0], v if num_key_heads == 2 else v[:, 0])

    return call


def _multi_head(x: _Given) -> _Call:
    return _Call(multi_head(), x.q, x.k, x.v, merged_heads=2)


def _cross(x: _Given) -> _Call:
    return _Call(cross(), x.decoder[:, None], x.k[:, None], x.v[:, None])


def _relative(x: _Given) -> _Call:
    import torch

    distances = torch.arange(-4, 5, dtype=torch.float64).abs()
    return _one_head(relative_position_bias(-0.5 * distances))(x)


def _latent(x: _Given) -> _Call:
    import torch

    down = 0.7 * torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.float64)
    up = 0.7 * torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.float64)
    keys, values = latent_keys_values(x.k, down.T, up.T, up.T, num_heads=1)
    return _Call(latent(), x.q[:, None], keys, values)


FIFTEEN: Mapping[str, Callable[[_Given], _Call]] = {
    "scaled_dot_product": lambda x: _Call(scaled_dot_product(), x.q, x.k, x.v),
    "multi_head": _multi_head,
    "causal": _one_head(causal()),
    "cross": _cross,
    "multi_query": _two_heads(multi_query(), 1),
    "grouped_query": _two_heads(grouped_query(), 2),
    "relative_position_bias": _relative,
    "rope": _one_head(rope()),
    "alibi": _one_head(alibi(1.0)),
    "linear": _one_head(linear()),
    "sliding_window": _one_head(sliding_window()),
    "bigbird": _one_head(bigbird(seed=BIGBIRD_SEED)),
    "flash": lambda x: _Call(flash(), x.q, x.k, x.v),
    "differential": _one_head(differential_clamped(0.5)),
    "latent": _latent,
}


@lru_cache(maxsize=1)
def data() -> Mapping[str, Any]:
    """The data file: tokens, keys, values, the query of "cat", settings in words, and the published rows."""
    return json.loads(resources.files("qkv.mechanisms").joinpath("fifteen.json").read_text(encoding="utf-8"))


def fifteen() -> tuple[Row, ...]:
    """Return the five-token example computed by each of the fifteen mechanisms, in float64, one ``Row`` each.

    The strategy is the one around the call: ``with qkv.strategy("chunked")``. Weights are what the strategy makes of
    unit values, so that they are its own too. Raises ``Refused`` when the strategy cannot run one of the fifteen.

    >>> import qkv
    >>> all(row.met for row in qkv.mechanisms.fifteen())
    True
    """
    import torch

    file = data()
    tokens = tuple(file["tokens"])

    def tensor(rows: Any) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)[None]

    keys = tensor(file["key"])
    queries = 2 * keys
    queries[0, tokens.index(PUBLISHED)] = tensor(file["query_cat"])
    given = _Given(queries, queries + tensor([[1, 0, 1, 1]]), keys, tensor(file["value"]))
    rows: list[Row] = []
    for name, make in FIFTEEN.items():
        call = make(given)
        try:
            rows.append(Row(name, tokens, call.output(), call.maps(), tuple(file["expected"][name])))
        except Refused as error:
            raise Refused(f"{get(name).title}: {error}", strategy=error.strategy, reasons=error.reasons) from error
    return tuple(rows)


def draw(rows: Sequence[Row], path: str | PathLike[str]) -> None:
    """Write the weights of ``rows`` as one PNG at ``path``, a heat map for each head, six side by side."""
    panels = [
        Panel(row.title + (f", head {head + 1}" if len(row.maps) > 1 else ""), row.maps[head], row.tokens, row.tokens)
        for row in rows
        for head in range(len(row.maps))
    ]
    heat_png(panels, path, per_row=6)
