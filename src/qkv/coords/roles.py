"""The role of each coordinate, derived from the tensors in which it stands.

Knows the set rules: feature, key, value feature, shared, query-only, and which query-only coordinates are head groups.
It does not know sizes, positions or terms; it reads names only, so equal sizes can never hide a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from qkv.coords.axes import Pattern
from qkv.coords.pattern import EXAMPLE
from qkv.coords.text import listed, point, quoted
from qkv.errors import PatternError

_FEATURE: Final = frozenset("QK")
_KEY: Final = frozenset("KV")
_VALUE_FEATURE: Final = frozenset("VO")
_SHARED: Final = frozenset("QKVO")
_QUERY_ONLY: Final = frozenset("QO")
_ROLES: Final = (_FEATURE, _KEY, _VALUE_FEATURE, _SHARED, _QUERY_ONLY)
_SPOKEN: Final = {"Q": "Q", "K": "K", "V": "V", "O": "the output"}

# What to write instead, for each combination of tensors that is no role.
_ADVICE: Final = {
    "Q": "Add {n} to K to contract over it, or to the output to keep it.",
    "K": "Add {n} to V if it is a key coordinate, or to Q if scores contract over it.",
    "V": "Add {n} to K if it is a key coordinate, or to the output if values carry it.",
    "O": "No input carries {n}, so the output cannot: add it to Q or to V, or take it out of the output.",
    "QV": "Scores contract Q with K: take {n} out of V and add it to K, or name it in all four tensors.",
    "KO": "A key coordinate is summed and never returned: take {n} out of the output and add it to V, or name it in "
    "all four tensors.",
    "QKV": "Nothing that all inputs share is summed unless that is said: add {n} to the output, or take it out of V "
    "to contract over it, or out of Q if it is the key coordinate.",
    "QKO": "Add {n} to V as well, so that all four share it, or take it out of K if only queries have it.",
    "QVO": "Add {n} to K as well, so that all four share it, or take it out of V if only queries have it.",
    "KVO": "A key coordinate is summed and never returned: take {n} out of the output, or add it to Q so that all four "
    "share it.",
}


@dataclass(frozen=True, slots=True)
class Roles:
    """What each coordinate of one call does; a rest ``b`` appears as ``..b``.

    ``feature``, ``shared`` and ``query_only`` are in the order of Q, ``key`` in that of K, ``value_feature`` in that of
    V. ``tied`` says that one letter, last in all four tensors, is both feature and value feature.
    ``query_candidates`` are the query-only coordinates that may be a sequence, which those merged with a shared one
    are not; ``grouped`` pairs each shared coordinate with the query-only ones merged with it, in Q or in the output.
    """

    feature: tuple[str, ...]
    key: tuple[str, ...]
    value_feature: tuple[str, ...]
    shared: tuple[str, ...]
    query_only: tuple[str, ...]
    tied: bool
    query_candidates: tuple[str, ...]
    grouped: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def key_candidates(self) -> tuple[str, ...]:
        """The coordinates that may be the key sequence: every key coordinate."""
        return self.key

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """For each shared coordinate, the query-only ones that stand in parentheses with it."""
        return dict(self.grouped)


def _sets(pattern: Pattern) -> str:
    tensors = zip(("Q", "K", "V", "output"), pattern.tensors.values(), strict=True)
    return "\n".join(f"    {name + ':':<8}{' '.join(tensor.coordinates)}" for name, tensor in tensors)


def _error(pattern: Pattern, headline: str, tensor: str, coordinate: str, advice: str) -> PatternError:
    carets = point(pattern.text, *pattern.place(tensor, coordinate))
    return PatternError(f"{headline}\n{carets}\n{_sets(pattern)}\n  {advice}")


def _fits_nothing(pattern: Pattern, stands: Mapping[str, frozenset[str]], names: list[str]) -> PatternError:
    """The error for coordinates whose tensors are no role: the first is pointed at, the others are listed."""
    name = names[0]
    where = [letter for letter in "QKVO" if letter in stands[name]]
    only = "only " if len(where) == 1 else ""
    missing = [_SPOKEN[letter] for letter in "QKVO" if letter not in stands[name]]
    headline = f'"{name}" stands {only}in {listed([_SPOKEN[letter] for letter in where])}, which is no role'
    headline += f": {listed(missing)} lack{'s' if len(missing) == 1 else ''} it."
    advice = _ADVICE["".join(where)].format(n=f'"{name}"')
    if len(names) > 1:
        verb = "has" if len(names) == 2 else "have"
        advice += f"\n  The same is asked of {quoted(names[1:])}, which {verb} no role either."
    keys = _with(stands, _KEY)
    if stands[name] == frozenset("QKO") and keys and not _with(stands, _QUERY_ONLY):
        headline = f"{quoted([name, keys[0]])} both stand in K, so nothing tells queries from keys."
    tensor = {"Q": "q", "K": "k", "V": "v", "O": "output"}["K" if "K" in where else where[0]]
    return _error(pattern, headline, tensor, name, advice)


def _with(stands: Mapping[str, frozenset[str]], role: frozenset[str]) -> list[str]:
    return [name for name, tensors in stands.items() if tensors == role]


def _fresh(pattern: Pattern, wanted: str, otherwise: str) -> str:
    taken = pattern.coordinates
    return next(name for name in (wanted, otherwise, *(f"{otherwise}{n}" for n in range(2, 99))) if name not in taken)


def _no_key(pattern: Pattern, found: Roles) -> PatternError:
    """The error for a pattern without a key: one letter for both sequences, or none for the keys."""
    candidates = [name for name in found.shared if not name.startswith("..")]
    if found.query_only or not candidates:
        advice = f"Give K and V a coordinate that Q and the output lack: {EXAMPLE}"
        headline = "no coordinate stands in K and V alone, so there are no keys to choose among."
        return PatternError(f"{headline}\n{point(pattern.text, 0, len(pattern.text))}\n{_sets(pattern)}\n  {advice}")
    sequence = next((name for name in reversed(candidates) if name == "i" or "seq" in name.lower()), candidates[-1])
    key = f"{sequence[:-2]}_k" if sequence.endswith("_q") else "j" if sequence == "i" else f"{sequence}_k"
    key = _fresh(pattern, key, f"{sequence}_k")
    if found.tied:
        feature = found.feature[0]
        value_feature = _fresh(pattern, "e" if feature == "d" else f"{feature}_v", f"{feature}_v")
        value = pattern.value.rename({sequence: key, feature: value_feature})
        output = pattern.output.rename({feature: value_feature})
    else:
        value, output = pattern.value.rename({sequence: key}), pattern.output
    instead = f"{pattern.query}, {pattern.key.rename({sequence: key})}, {value} -> {output}"
    return PatternError(
        f'"{sequence}" stands in both Q and K, so nothing tells queries from keys.\n'
        f"{point(pattern.text, *pattern.place('k', sequence))}\n"
        f"  Self-attention still has two coordinates: {instead}"
    )


def _check_each_role(pattern: Pattern, found: Roles) -> None:
    if not found.key:
        raise _no_key(pattern, found)
    if not found.feature:
        headline = "no coordinate stands in Q and K alone, so scores contract over nothing."
        advice = f"Give Q and K a feature that V and the output lack, or let all four end in one: {EXAMPLE}"
    elif not found.value_feature:
        headline = "no coordinate stands in V and the output alone, so the values carry nothing."
        advice = f"Give V and the output a coordinate that Q and K lack, even of size 1: {EXAMPLE}"
    else:
        return
    raise PatternError(f"{headline}\n{point(pattern.text, 0, len(pattern.text))}\n{_sets(pattern)}\n  {advice}")


def _derive(pattern: Pattern) -> Roles:
    q, k, v, o = (tensor.coordinates for tensor in pattern.tensors.values())
    members = (("Q", frozenset(q)), ("K", frozenset(k)), ("V", frozenset(v)), ("O", frozenset(o)))
    stands = {name: frozenset(letter for letter, names in members if name in names) for name in pattern.coordinates}
    unfit = [name for name, tensors in stands.items() if tensors not in _ROLES]
    if unfit:
        raise _fits_nothing(pattern, stands, unfit)
    feature, value_feature = _with(stands, _FEATURE), [name for name in v if stands[name] == _VALUE_FEATURE]
    shared = _with(stands, _SHARED)
    last = q[-1]
    tied = not feature and last == k[-1] == v[-1] == o[-1] and not last.startswith("..")
    if tied:
        shared.remove(last)
        feature.append(last)
        value_feature = [name for name in v if name in (last, *value_feature)]
    query_only = _with(stands, _QUERY_ONLY)
    together = [axis for tensor in (pattern.query, pattern.output) for axis in tensor.merged]
    groups = {
        name: tuple(other for other in query_only if any(name in axis and other in axis for axis in together))
        for name in shared
    }
    in_a_group = {other for others in groups.values() for other in others}
    return Roles(
        feature=tuple(feature),
        key=tuple(name for name in k if stands[name] == _KEY),
        value_feature=tuple(value_feature),
        shared=tuple(shared),
        query_only=tuple(query_only),
        tied=tied,
        query_candidates=tuple(name for name in query_only if name not in in_a_group),
        grouped=tuple((name, others) for name, others in groups.items() if others),
    )


@lru_cache(maxsize=4096)
def roles(pattern: Pattern) -> Roles:
    """The role of every coordinate of a pattern, by these rules; anything else raises PatternError.

    ============== =============================== ============================
    role           stands in                       absent from
    ============== =============================== ============================
    feature        Q and K                         V, the output
    key            K and V                         Q, the output
    value feature  V and the output                Q, K
    shared         Q, K, V and the output          nothing
    query-only     Q and the output                K, V
    ============== =============================== ============================

    One convention beside the rules: when no coordinate is a feature and one stands last in all four tensors, that one
    is the feature, contracted in Q·K and carried from V to the output (``tied``). At least one feature, key and value
    feature are needed; a pattern without a query-only coordinate is one query. A query-only coordinate in parentheses
    with a shared one is a head group, not a sequence. Rests take one role each, as ``..b``.

    >>> from qkv.coords.pattern import parse
    >>> roles(parse("b (h g) i d, b h j d, b h j e -> b (h g) i e")).query_candidates
    ('i',)
    """
    found = _derive(pattern)
    _check_each_role(pattern, found)
    return found
