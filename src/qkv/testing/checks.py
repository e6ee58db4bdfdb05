"""What a check is, how somebody's function is called, and the checks that are invariants.

Knows that a check has a name, needs options, runs and may have smaller versions of itself. Refuses to know the order of
a run and how findings are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from qkv.testing.invariants import INVARIANTS, Attention, invariant
from qkv.testing.report import Finding

#: what a function may lack: each is an argument, or a shape that its inputs may have
OPTIONS: dict[str, str] = {
    "causal": "the argument causal=True",
    "mask": "the argument mask, bool, True is kept",
    "scale": "the argument scale",
    "gqa": "fewer key heads than query heads",
    "value_size": "values of another size than queries",
    "backward": "gradients",
}

T = TypeVar("T")


class Check(Protocol):
    """One thing that is tried on a function."""

    @property
    def name(self) -> str:
        """The check in words."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """The options that the function must have."""
        ...

    def run(self, fn: Attention) -> Iterator[Finding]:
        """What the function breaks."""
        ...

    def smaller(self) -> Iterator[Check]:
        """Simpler checks that may show the same fault, the simplest first."""
        ...


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of the function under test: its type's name and the first line of its message."""

    type: str
    message: str


def attempt(call: Callable[[], T]) -> T | Raised:
    """What ``call`` returns, or what it raised: an exception of a stranger's function is a finding, not the end."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  the function is a stranger's, so that any class may come
        return Raised(type(error).__name__, (str(error).strip().splitlines() or [""])[0][:200])


@dataclass(frozen=True, slots=True)
class InvariantCheck:
    """One invariant at one dtype."""

    invariant: str
    dtype: torch.dtype
    needs: frozenset[str]
    supports: frozenset[str]
    seed: int

    @property
    def name(self) -> str:
        """The invariant in words."""
        return f"{self.invariant.replace('_', ' ')}, dtype {str(self.dtype).removeprefix('torch.')}"

    def run(self, fn: Attention) -> Iterator[Finding]:
        """What the function breaks."""
        words = self.invariant.replace("_", " ")
        ratio = attempt(lambda: invariant(self.invariant, fn, self.dtype, supports=self.supports, seed=self.seed))
        if isinstance(ratio, Raised):
            yield self._finding(f"{words} raises {ratio.type}", torch.inf, ratio.message)
        elif not ratio <= 1:
            promise = next(check.__doc__ or "" for check in INVARIANTS if check.__name__ == self.invariant)
            yield self._finding(words, ratio, f"broken: {promise}")

    def smaller(self) -> Iterator[Check]:
        """Nothing: invariants are small already."""
        return iter(())

    def _finding(self, kind: str, ratio: float, detail: str) -> Finding:
        options = sorted(self.supports & {"gqa", "mask"})
        supports = f", supports=frozenset({options})" if options else ""
        code = (
            "import torch\nfrom qkv.testing import invariant\n\n"
            f'invariant("{self.invariant}", fn, {self.dtype}{supports}, seed={self.seed})  # at most 1 is right'
        )
        return Finding(kind, self.name, ratio, detail, code)
