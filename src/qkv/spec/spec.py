"""The spec: a pattern and the four places where attention can be changed, as frozen data, checked when it is made.

It says what is computed and nothing of how. Calling it, running it and planning it go through the door that the ``run``
room hangs in here; a spec itself knows no tensor but the captured ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

from .. import limits
from ..coords.pattern import Pattern, parse
from ..coords.roles import Roles, roles
from ..errors import InternalError, LimitError, QkvError, SpecError
from ..terms.expr import Opening
from ..terms.keep import Keep
from ..terms.position import Rope
from ..terms.score import ScoreTerm, Shaw
from ..terms.trace import name_of
from ..terms.weights import Differential, Linear, Softmax, Weights
from ..terms.worded import Worded
from .lowered import Lowered, lower

if TYPE_CHECKING:
    from torch import Tensor

    from ..coords.named import Named

DEFAULT_PATTERN = "b h i d, b h j d, b h j e -> b h i e"
"""The layout of torch's SDPA."""

WANTS = ("lse", "max_logit", "entropy", "argmax", "weights")
"""What ``run(want=...)`` can return beside the output."""


class Door(Protocol):
    """What the run room provides: running a spec and planning it."""

    def run(self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Any: ...

    def output(self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Any: ...

    def filled(self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any], given: tuple[Any, ...]) -> Any: ...

    def plan(self, spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]) -> Any: ...

    def forced(self, name: str) -> AbstractContextManager[None]: ...


_doors: list[Door] = []


def hang(door: Door) -> None:
    """Makes ``door`` the one through which specs run; the run room calls this once."""
    _doors[:] = [door]


def door() -> Door:
    """The door that was hung. Raises ``InternalError`` when the package was taken apart."""
    if not _doors and "qkv" in sys.modules:
        # A room that was loaded on its own: asking the package for a name of its face loads the rooms that run specs.
        getattr(sys.modules["qkv"], "Spec", None)
    if not _doors:
        raise InternalError("nothing runs specs: import qkv, not a part of it")
    return _doors[0]


@dataclass(frozen=True)
class Spec(Worded):
    """What is computed: a pattern and the parts ``position``, ``score``, ``keep``, ``weights``, with a ``scale``.

    ``pattern``: the coordinates of q, k, v and the output (DESIGN: roles follow from where a coordinate stands).
    ``score``: one term or several, applied in order. ``scale``: a finite number, or None for 1/sqrt(size of the feature
    coordinate). Specs compare and hash by what they say; captured tensors by identity. Raises ``PatternError``,
    ``CoordinateError``, ``PositionError`` or ``SpecError`` on construction, for parts that make no sense alone or
    together.

    >>> import qkv
    >>> qkv.Spec("b (h g) i d, b h j d, b h j e -> b (h g) i e", keep=qkv.causal() & qkv.window(4096))
    Spec("b (h g) i d, b h j d, b h j e -> b (h g) i e", keep=causal() & window(4096))
    """

    pattern: str = DEFAULT_PATTERN
    _: KW_ONLY
    position: Rope | None = None
    score: tuple[ScoreTerm, ...] = ()
    keep: Keep | None = None
    weights: Weights = field(default_factory=Softmax)
    scale: float | None = None
    tables: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)
    """The captured tensors."""
    openings: tuple[Opening, ...] = field(init=False, repr=False, compare=False)
    """The places for tensors that each call brings, in the order in which ``Door.filled`` takes them."""
    captures: bool = field(init=False, repr=False, compare=False)
    """Whether some part mentions a tensor of the caller's."""

    def __init__(
        self,
        pattern: str = DEFAULT_PATTERN,
        *,
        position: Rope | None = None,
        score: ScoreTerm | Iterable[ScoreTerm] | None = None,
        keep: Keep | None = None,
        weights: Weights | None = None,
        scale: float | None = None,
    ) -> None:
        terms = () if score is None else (score,) if isinstance(score, ScoreTerm) else _terms(score)
        chosen = Softmax() if weights is None else weights
        for name, value in (
            ("pattern", pattern),
            ("position", position),
            ("score", terms),
            ("keep", keep),
            ("weights", chosen),
        ):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "scale", scale if scale is None else _scale(scale))
        _check_types(self)
        _check_together(self)
        object.__setattr__(self, "_lowered", {})
        first = self._first()
        every = dict.fromkeys((*first.captured, *first.projections))
        object.__setattr__(self, "tables", tuple(t.tensor for t in every if not isinstance(t, Opening)))
        object.__setattr__(self, "openings", tuple(t for t in every if isinstance(t, Opening)))
        object.__setattr__(self, "captures", any(not table.movable for table in first.captured))

    @cached_property
    def parsed(self) -> Pattern:
        """The pattern as data."""
        return parse(self.pattern)

    @property
    def learned(self) -> list[Tensor]:
        """The captured tensors that need gradients, in the order in which the parts mention them."""
        return [tensor for tensor in self.tables if tensor.requires_grad]

    @cached_property
    def roles(self) -> Roles:
        """The role of each coordinate; a rest appears as ``..b``."""
        return roles(self.parsed)

    def _first(self) -> Lowered:
        """The parts as graphs for the first number of coordinates in each rest that they fit; without rests the only
        one. Raises what the terms raise when none fits.
        """
        rests = dict.fromkeys(name for tensor in self.parsed.tensors.values() for name in tensor.rests)
        if not rests:
            return self.lowered({})
        found: QkvError | None = None
        for count in (1, 2, 0, 3, 4):  # a captured tensor says by its axes how many a rest has
            try:
                return self.lowered(dict.fromkeys(rests, count))
            except QkvError as error:
                found = found or error
        raise found or InternalError("no number of coordinates was tried; please report this")

    def lowered(self, counts: Mapping[str, int]) -> Lowered:
        """The parts as graphs, for ``counts[rest]`` coordinates in each rest."""
        known = cast("dict[tuple[tuple[str, int], ...], Lowered]", self.__dict__["_lowered"])
        key = tuple(sorted(counts.items()))
        if key not in known:
            known[key] = lower(self, self.parsed.expand(counts) if counts else self.parsed)
        return known[key]

    def __call__(
        self, q: Tensor | Named, k: Tensor | Named | None = None, v: Tensor | Named | None = None, **options: Any
    ) -> Any:
        """The output tensor (a ``Named`` when the inputs are). Options as of ``run``, without ``want``."""
        if options.get("want"):
            raise SpecError(
                f"want={options['want']!r} is given where only the output is returned.\n"
                "  Call spec.run(q, k, v, want=...), which returns a Result."
            )
        return door().output(self, q, k, v, options)

    def run(
        self,
        q: Tensor | Named,
        k: Tensor | Named | None = None,
        v: Tensor | Named | None = None,
        *,
        want: Iterable[str] = (),
        **options: Any,
    ) -> Any:
        """A ``Result`` with the output, the plan and what is wanted of ``lse``, ``max_logit``, ``entropy``, ``argmax``,
        ``weights``.

        ``positions``: where elements stand, by coordinate: the first one's position, a tensor with one position for
        each, or ``(tensor, "b i")``. ``align``: ``"start"`` or ``"end"``, when queries and keys differ in number.
        ``dropout``: the probability that a weight is dropped; ``seed`` fixes which. ``sizes``: sizes that shapes leave
        open. ``cache``: one of ``qkv.cache``, to which k and v are appended before q attends to all that it holds; the
        queries stand where the new tokens stand, or, without k and v, where the last ones do. ``lengths``: how many of
        the new tokens each sequence has, for a paged cache. ``invariant``: the same bits wherever a cache keeps its
        pages.
        """
        return door().run(self, q, k, v, {**options, "want": want})

    def plan(
        self, q: Tensor | Named, k: Tensor | Named | None = None, v: Tensor | Named | None = None, **options: Any
    ) -> Any:
        """The ``Plan`` for such a call: the strategy, why, what was refused and why, and what it costs. Nothing is
        computed. Options as of ``run``.
        """
        return door().plan(self, q, k, v, options)

    def __repr__(self) -> str:
        parts = [f'"{self.pattern}"']
        parts += [f"position={self.position!r}"] if self.position is not None else []
        parts += [f"score={self.score[0]!r}" if len(self.score) == 1 else f"score={self.score!r}"] if self.score else []
        parts += [f"keep={self.keep!r}"] if self.keep is not None else []
        parts += [f"weights={self.weights!r}"] if self.weights != Softmax() else []
        parts += [f"scale={self.scale:g}"] if self.scale is not None else []
        return f"Spec({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # What is remembered (hash, plans, graphs) belongs to this process.
        return _remade, (self.pattern, self.position, self.score, self.keep, self.weights, self.scale)

    def __hash__(self) -> int:
        cached = self.__dict__.get("_hash")
        if cached is None:
            cached = hash((self.pattern, self.position, self.score, self.keep, self.weights, self.scale))
            object.__setattr__(self, "_hash", cached)
        return cached


def _remade(
    pattern: str,
    position: Rope | None,
    score: tuple[ScoreTerm, ...],
    keep: Keep | None,
    weights: Weights,
    scale: float | None,
) -> Spec:
    return Spec(pattern, position=position, score=score, keep=keep, weights=weights, scale=scale)


def _terms(score: Any) -> tuple[ScoreTerm, ...]:
    if isinstance(score, Iterable) and not hasattr(cast("object", score), "shape"):
        return tuple(cast("Iterable[ScoreTerm]", score))
    raise SpecError(f"score is {_shown(score)}, not a score term.\n  Give {_instead('score', score) or _SCORES}.")


def _scale(scale: object) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise SpecError(
            f"scale={scale!r} must be a finite number, or None for 1/sqrt(size of the feature coordinate).\n"
            "  A learned temperature is a score term: qkv.score(lambda score, h: score * temperature[h])."
        )
    return float(scale)


_EXPECTED: dict[str, tuple[type, str]] = {
    "position": (Rope, "qkv.rope(...)"),
    "keep": (Keep, "qkv.causal(), qkv.keep(lambda i, j: ...) or qkv.padding(mask, 'b j')"),
    "weights": (Weights, "qkv.softmax(), qkv.sigmoid(), qkv.differential(...) or qkv.linear()"),
}


_SCORES = "qkv.softcap(c), qkv.alibi(), qkv.bias(tensor, 'h i j') or qkv.score(lambda score, i, j: ...)"


def _shown(value: Any) -> str:
    """A value that is no term, with its type; of a tensor the shape alone, of a function the name."""
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if callable(value):
        return name_of(value)
    return f"{value!r:.200} ({type(value).__name__})"


def _instead(name: str, value: Any) -> str | None:
    """How a function or a tensor is made a term, where that is what was meant."""
    if hasattr(value, "shape"):
        return {
            "keep": "qkv.padding(mask, 'b j'), the names being those of its axes; True means kept",
            "score": "qkv.bias(tensor, 'h i j'), the names being those of its axes",
        }.get(name)
    return f"qkv.{name}(function)" if callable(value) and name in ("keep", "score") else None


def _check_types(spec: Spec) -> None:
    if not isinstance(spec.pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(
            f"pattern={spec.pattern!r} must be a text.\n"
            f"  Write the coordinates of q, k, v and the output: {DEFAULT_PATTERN!r}."
        )
    for name, (kind, instead) in _EXPECTED.items():
        value = getattr(spec, name)
        if value is not None and not isinstance(value, kind):
            raise SpecError(
                f"{name} is {_shown(value)}, not a {name} term.\n  Give {_instead(name, value) or instead}."
            )
    for number, term in enumerate(spec.score, 1):
        if not isinstance(term, ScoreTerm):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(
                f"score term {number} is {_shown(term)}, not a score term.\n"
                f"  Give {_instead('score', term) or _SCORES}."
            )
    if len(spec.score) > limits.SCORE_TERMS:
        raise LimitError(
            f"{len(spec.score)} score terms are more than {limits.SCORE_TERMS}.\n"
            "  Combine them in one function: qkv.score(lambda score, i, j: ...)."
        )


def _check_together(spec: Spec) -> None:
    """Combinations that have no meaning, each with its reason."""
    shaws = [term for term in spec.score if isinstance(term, Shaw)]
    if isinstance(spec.weights, Linear):
        if spec.score:
            raise SpecError(
                f"linear weights have no score before a softmax that {spec.score[0]!r} could change: they are "
                "products of feature maps.\n"
                "  Use softmax weights, or put the change into the feature map; distances can decay: linear(decay=0.9)."
            )
        if spec.scale is not None:
            raise SpecError(
                "linear weights take no scale: inside phi it would be a change of q, and a factor of phi(q) . phi(k) "
                "cancels where rows are divided by their sum.\n  Scale q before the call, or leave scale out."
            )
    if isinstance(spec.weights, Differential) and shaws:
        raise SpecError(
            "shaw's tables have vectors of the whole feature, and differential weights split the feature in two.\n"
            "  Use relative_bias, which adds numbers, with differential weights."
        )
    if len(shaws) > 1:
        raise SpecError(
            "two shaw terms are given, and relative vectors are added to keys once.\n  Add the tables, or use one."
        )
