"""Choosing a strategy: every one is asked, the cheapest of those that can is taken, and the reasons of the others are
kept.

Strategies register themselves here when the run room is imported. A forced strategy runs or raises; nothing falls back.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from contextvars import ContextVar, Token

from ..errors import InternalError, Refused, SpecError
from .capability import Strategy, refusals
from .plan import Plan
from .request import Request

_strategies: dict[str, Strategy] = {}
_forced: ContextVar[str | None] = ContextVar("qkv_strategy", default=None)

BY_REQUEST_ONLY = frozenset({"reference"})
"""Strategies that are taken only when nothing else can run the call, or when asked for."""


def register(strategy: Strategy) -> None:
    """Makes a strategy known to the planner."""
    _strategies[strategy.name] = strategy


def strategies() -> tuple[str, ...]:
    """The names of all strategies, in the order in which plans list them.

    >>> import qkv
    >>> qkv.strategies()
    ('reference', 'chunked', 'cpu', 'sdpa', 'linear', 'absorbed')
    """
    return tuple(_strategies)


def find(name: str) -> Strategy:
    """The strategy called ``name``."""
    return _strategies[name]


def forced() -> str | None:
    """The strategy that the surrounding ``with qkv.strategy(...)`` asks for."""
    return _forced.get()


class Forced(ContextDecorator):
    """A block in which every call runs by one strategy; what was asked for around it holds again after it."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.tokens: list[Token[str | None]] = []

    def __enter__(self) -> None:
        self.tokens.append(_forced.set(self.name))

    def __exit__(self, *raised: object) -> None:
        _forced.reset(self.tokens.pop())

    def _recreate_cm(self) -> Forced:
        return Forced(self.name)  # each call of a decorated function has its own block, in whatever thread


def strategy(name: str) -> Forced:
    """Inside the block every call runs by the named strategy, or raises ``Refused`` with the reasons; it never falls
    back. Decorates functions too.

    Raises ``SpecError`` for a name that no strategy has. Safe in threads and async tasks, each of which has its own.

    >>> import qkv, torch
    >>> q = k = v = torch.randn(1, 2, 4, 8)
    >>> with qkv.strategy("reference"):
    ...     out = qkv.attention(q, k, v)
    """
    if not isinstance(name, str) or name not in _strategies:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f'strategy "{name}" is not known.\n  Known: {", ".join(_strategies)}.')
    return Forced(name)


def unforced() -> Forced:
    """Inside the block the planner chooses, whatever the caller asked for: how a strategy runs a part of its work."""
    return Forced(None)


def choose(request: Request, name: str | None) -> Plan:
    """The plan for ``request`` with the strategy called ``name``, or with the cheapest that can run it.

    Raises ``Refused`` when the named one cannot, or when none can.
    """
    if name is not None:
        reasons = tuple(refusals(request, _strategies[name].capability))
        if reasons:
            raise Refused(
                f'strategy "{name}" cannot run this spec.\n'
                + "\n".join(f"    {r}" for r in reasons)
                + f"\n  {_advice(request, name)}",
                strategy=name,
                reasons=reasons,
            )
        return _plan(request, name, f'asked for by strategy("{name}")', {})
    refused: dict[str, str] = {}
    able: list[tuple[float, str]] = []
    for candidate, strategy_ in _strategies.items():
        reason = "; ".join(refusals(request, strategy_.capability))
        if reason:
            refused[candidate] = reason
        elif candidate not in BY_REQUEST_ONLY:
            able.append((strategy_.cost(request).seconds, candidate))
    able.sort()
    if able:
        chosen = able[0][1]
        for seconds, other in able[1:]:
            refused[other] = f"estimated {seconds / max(able[0][0], 1e-12):.3g} x the time of {chosen}"
        reason = "the only one that runs this call" if len(able) == 1 else "the lowest estimated time"
        refused.update(
            {n: "the definition, run when asked for" for n in BY_REQUEST_ONLY if n in _strategies and n not in refused}
        )
        return _plan(request, chosen, reason, refused)
    for candidate in BY_REQUEST_ONLY:
        if candidate in _strategies and candidate not in refused:
            return _plan(request, candidate, "the only one that runs this call", refused)
    lines = "\n".join(f"    {n}: {r}" for n, r in refused.items())
    raise Refused(
        f"no strategy can run this call.\n{lines}\n  Change what the reasons name.",
        strategy="",
        reasons=tuple(refused.values()),
    )


def _plan(request: Request, name: str, reason: str, refused: dict[str, str]) -> Plan:
    cost = _strategies[name].cost(request)
    needs_finite = _strategies[name].capability.leaks_dropped and request.lowered.keep is not None
    return Plan(name, reason, refused, cost.flops, cost.bytes, cost.scratch_bytes, needs_finite)


def _advice(request: Request, name: str) -> str:
    for other, strategy_ in _strategies.items():
        if (
            other != name
            and other not in BY_REQUEST_ONLY
            and not any(True for _ in refusals(request, strategy_.capability))
        ):
            return f'Use strategy "{other}", or leave it to the planner.'
    if "reference" not in _strategies:
        raise InternalError("no strategy is registered: import qkv, not a part of it")
    return 'Use strategy "reference", or change what the reasons name.'
