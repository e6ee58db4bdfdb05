"""One named mechanism or model as data: its layers, each a function that makes a spec, and sizes to try it with.

An entry reads its formula, source and cache from the docstrings of its functions, so that they are said once. It
refuses to know how a spec is run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import SpecError
from ..spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

Group = Literal["mechanism", "stack"]
Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A spec with random tensors that fit it: ``example.spec(*example.tensors, **example.options)``."""

    spec: Spec
    tensors: tuple[Tensor, Tensor, Tensor]
    options: Mapping[str, Any]
    learned: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of layer: the function that makes its spec, its coordinates' sizes, and the shapes of what it learns.

    ``learned`` maps each tensor parameter of ``make`` to the sizes of its axes, given the coordinates' sizes.
    """

    name: str
    make: Callable[..., Spec]
    sizes: Sizes
    learned: Callable[[Sizes], Mapping[str, tuple[int, ...]]] = field(default=lambda sizes: {})
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    known: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """What the layer is: the docstring of its function."""
        return inspect.getdoc(self.make) or ""

    @property
    def formula(self) -> str:
        """The definition in one formula."""
        found = re.search(r"^ {4}(?!>>>)(\S.*)$", self.about, re.MULTILINE)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """Who defined it, where."""
        return self._line("Source")

    @property
    def cache(self) -> str:
        """The numbers that a cache of keys and values holds for each token."""
        return self._line("Cache per token")

    def _line(self, word: str) -> str:
        found = re.search(rf"^{word}: (.+)$", self.about, re.MULTILINE)
        return found[1] if found else ""

    def spec(self, **parameters: Any) -> Spec:
        """The layer's spec. Parameters as of its function."""
        return self.make(**{**self.fixed, **parameters})

    def example(self, *, length: int = 8, seed: int = 0, dtype: Any = None) -> Example:
        """The spec with random tensors of the layer's sizes; a sequence without a size there is ``length`` long."""
        import torch

        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype or torch.float32)

        learned = {name: draw(*shape) for name, shape in self.learned(self.sizes).items()}
        spec = self.spec(**learned)
        sizes = {**dict.fromkeys((*spec.roles.query_candidates, *spec.roles.key), length), **self.sizes}
        q, k, v = (
            draw(*(_product(sizes, axis.names) for axis in spec.parsed.tensors[name].axes)) for name in ("q", "k", "v")
        )
        options = {"sizes": {name: sizes[name] for name in self.known}} if self.known else {}
        return Example(spec, (q, k, v), options, learned)


def _product(sizes: Sizes, names: tuple[str, ...]) -> int:
    size = 1
    for name in names:
        size *= sizes[name]
    return size


@dataclass(frozen=True, slots=True)
class Entry:
    """A named mechanism, or the attention of a model; ``order`` says how a stack's layers alternate, if they do."""

    name: str
    title: str
    group: Group
    layers: tuple[Layer, ...]
    order: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """What it is: the docstrings of its layers, one after the other."""
        return "\n\n".join(dict.fromkeys(layer.about for layer in self.layers))

    def layer(self, name: str | None = None) -> Layer:
        """The layer called ``name``; the first one without a name. Raises ``SpecError`` for a name that it lacks."""
        for layer in self.layers:
            if name is None or layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers) or "one layer, without a name"
        raise SpecError(f'{self.name} has no layer "{name}".\n  It has: {known}.')

    def layer_at(self, number: int) -> Layer:
        """The layer that stands at ``number`` of the stack, counted from 0.

        >>> import qkv
        >>> [qkv.mechanisms.get("gemma-3").layer_at(n).name for n in range(6)]
        ['local', 'local', 'local', 'local', 'local', 'global']
        """
        return self.layer(self.order[number % len(self.order)] if self.order else None)

    def spec(self, layer: str | None = None, /, **parameters: Any) -> Spec:
        """The spec of a layer (the first one without a name). Parameters as of the layer's function."""
        return self.layer(layer).spec(**parameters)

    def example(self, layer: str | None = None, *, length: int = 8, seed: int = 0, dtype: Any = None) -> Example:
        """A layer's spec with random tensors that fit it.

        >>> import qkv
        >>> example = qkv.mechanisms.get("multi-query").example(length=5)
        >>> example.spec(*example.tensors, **example.options).shape
        torch.Size([1, 4, 5, 8])
        """
        return self.layer(layer).example(length=length, seed=seed, dtype=dtype)
