"""One step of a model: the work of all its attention layers, for a whole prompt or for its last tokens.

Knows how to ask every layer once. Refuses to count what is not attention: MLPs, experts, embeddings and the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import SpecError
from .cache import check_source
from .description import Model
from .flops import layer_work
from .format import Format, to_format
from .layer import Layer
from .units import to_count
from .work import Convention, LatentForm, Work, to_convention, to_form


@dataclass(frozen=True, slots=True)
class ModelWork:
    """The work of all layers of a model for one step; ``layers`` in their order."""

    model: str
    keys: int
    queries: int
    batch: int
    convention: Convention
    latent: LatentForm
    dtype: str
    layers: tuple[Work, ...]

    def _sum(self, what: Callable[[Work], int]) -> int:
        return sum(what(work) for work in self.layers)

    @property
    def flops(self) -> int:
        """All operations of all layers."""
        return self._sum(lambda work: work.flops)

    @property
    def bytes(self) -> int:
        """All bytes moved by all layers."""
        return self._sum(lambda work: work.bytes)

    @property
    def backward_flops(self) -> int:
        """Operations of the gradients, scores made again."""
        return self._sum(lambda work: work.backward_flops())

    @property
    def parts(self) -> dict[str, int]:
        """Operations by part, over all layers."""
        found: dict[str, int] = {}
        for work in self.layers:
            for part in work.parts:
                found[part.name] = found.get(part.name, 0) + part.flops
        return found

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is not counted, each once."""
        return tuple(dict.fromkeys(work.left_out for work in self.layers if work.left_out))


def flops(
    model: Model,
    context: int | str,
    *,
    queries: int | str | None = None,
    batch: int | str = 1,
    convention: Convention | str = "exact",
    latent: LatentForm | str | None = None,
    dtype: str | Format = "bf16",
    source: int | str = 0,
) -> ModelWork:
    """The work of every attention layer of ``model``: a whole prompt of ``context`` tokens, or its last ``queries``.

    ``latent`` is ``"expanded"`` for more than one new token and ``"absorbed"`` for one, where nothing is given. MLPs,
    experts, embeddings and the head are not attention and not counted. Raises ``SpecError`` for more queries than
    tokens, and for a source length that is needed and missing.

    >>> import qkv
    >>> llama = qkv.size.model("llama-3-8b")
    >>> qkv.size.flops(llama, 8192).flops, qkv.size.flops(llama, 8192, queries=1).parts["scores"]
    (39756385746944, 2147483648)
    """
    keys = to_count(context, "context")
    new = keys if queries is None else to_count(queries, "queries")
    if new > keys:
        raise SpecError(f"queries={new} of a context of {keys}.\n  New tokens are part of the context.")
    number = to_count(batch, "batch")
    form = to_form(latent if latent is not None else LatentForm.ABSORBED if new == 1 else LatentForm.EXPANDED)
    rule, element = to_convention(convention), to_format(dtype)
    length = to_count(source, "source", least=0)
    check_source(model, length)
    memo: dict[Layer, Work] = {}
    done: list[Work] = []
    for layer in model.layers:
        like = replace(layer, number=0, shares=0)  # equal layers do equal work
        if like not in memo:
            memo[like] = layer_work(
                like, model.hidden_size, keys, new, batch=number, convention=rule, latent=form, dtype=element,
                source=length,
            )  # fmt: skip
        done.append(memo[like])
    return ModelWork(model.name, keys, new, number, rule, form, element.name, tuple(done))
