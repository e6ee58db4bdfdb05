"""Sizes as people write them: 128k tokens, 24GiB, 1.5 ms. Figures are never printed without a unit.

Knows suffixes and rounding of what is shown; refuses to round what is computed. ``k`` after a number of tokens is 1024,
as in the names of models' contexts; bytes have both: ``GB`` is 10**9, ``GiB`` is 2**30.
"""

from __future__ import annotations

import re

from .. import limits
from ..errors import LimitError, SpecError

_TOKENS = {"": 1, "k": 1024, "ki": 1024, "m": 1024**2, "mi": 1024**2}
_BYTES = {
    **{f"{p}b": 1000**n for n, p in enumerate(("", "k", "m", "g", "t", "p"))},
    **{f"{p}ib": 1024**n for n, p in enumerate(("", "k", "m", "g", "t", "p")) if p},
    "": 1,
}
_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?\s*([a-z]*)")


def to_count(value: int | str, what: str, *, least: int = 1) -> int:
    """A count such as 4096, ``"4096"`` or ``"128k"`` (k is 1024) as an integer.

    Raises ``SpecError`` for what is not one, ``LimitError`` beyond ``limits.SIZE_COUNT``.

    >>> to_count("128k", "context")
    131072
    """
    return _read(value, what, _TOKENS, least, "4096, 128k or 1m")


def to_bytes(value: int | str, what: str = "memory", *, least: int = 1) -> int:
    """Bytes such as ``"24GiB"``, ``"80GB"`` or 1024 as an integer.

    >>> to_bytes("24GiB"), to_bytes("80GB")
    (25769803776, 80000000000)
    """
    return _read(value, what, _BYTES, least, "24GiB, 80GB or 1073741824")


def _read(value: object, what: str, suffixes: dict[str, int], least: int, examples: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        text = str(value).strip().lower().replace(",", "").replace("_", "") if isinstance(value, str) else ""
        found = _NUMBER.fullmatch(text[:64])
        if found is None or found[3] not in suffixes:
            raise SpecError(f"{what}={str(value)[:40]!r} is no size.\n  Write it as {examples}.")
        digits, fraction = found[1], found[2] or ""
        scaled = int(digits + fraction) * suffixes[found[3]]
        number, rest = divmod(scaled, 10 ** len(fraction))
        if rest:
            raise SpecError(f"{what}={str(value)[:40]!r} is not a whole number.\n  Write it as {examples}.")
    if number < least:
        raise SpecError(f"{what}={number} is too small.\n  It is at least {least}.")
    if number > limits.SIZE_COUNT:
        raise LimitError(f"{what}={str(value)[:40]} is beyond {limits.SIZE_COUNT}, the largest size that is counted.")
    return number


def show_bytes(number: int) -> str:
    """Bytes with a unit: exact where they are few or a whole number of the unit.

    >>> show_bytes(1073741824), show_bytes(70272), show_bytes(4836556800)
    ('1 GiB', '68.62 KiB', '4.504 GiB')
    """
    for power, unit in ((5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            size = number / 1024**power
            return f"{size:.4g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
    return f"{number} B"


def show_count(number: int) -> str:
    """A number of tokens, by thousands of 1024 where it is a multiple.

    >>> show_count(131072), show_count(5000)
    ('128k', '5,000')
    """
    return f"{number // 1024}k" if number and number % 1024 == 0 else f"{number:,}"


def show_flops(number: int) -> str:
    """Floating-point operations with a unit.

    >>> show_flops(343597383680)
    '343.6 GFLOP'
    """
    return f"{_decimal(number)}FLOP"


def show_rate(number: float, unit: str) -> str:
    """A rate with a unit, by thousands.

    >>> show_rate(3.35e12, "B/s")
    '3.35 TB/s'
    """
    return f"{_decimal(number)}{unit}"


def _decimal(number: float) -> str:
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.4g} {unit}"
    return f"{number:.4g} "


def show_seconds(seconds: float) -> str:
    """A time with a unit.

    >>> show_seconds(0.00123)
    '1.23 ms'
    """
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
