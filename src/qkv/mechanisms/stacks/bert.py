"""Attention of BERT: every token sees every token; positions are added to the input, not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec import Spec
from ...terms import masks
from ..entry import Entry, Layer

if TYPE_CHECKING:
    from torch import Tensor


def bert(*, padding: Tensor | None = None) -> Spec:
    """Return attention of BERT: in both directions, over the tokens that are there.

        out[h, i] = Σ_j softmax_j(q[h, i] · k[h, j] / √d) v[h, j]

    Coordinates: b batch, h heads, i queries, j keys, d = e features. ``padding``: a bool tensor [b, j], True where
    there is a token.
    Cache per token: none, an encoder runs once
    Source: Devlin et al. 2019, BERT (arXiv 1810.04805), section 3
    """
    return Spec(keep=None if padding is None else masks.padding(padding, "b j"))


BERT = Entry("bert", "BERT base", "stack", (Layer("", bert, {"b": 1, "h": 12, "d": 64, "e": 64}),))
