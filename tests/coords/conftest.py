"""Reading messages: a test gives the call that must fail, and gets the message line by line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qkv.errors import QkvError

Message = Callable[[type[QkvError], Callable[[], object]], list[str]]


def read_message(kind: type[QkvError], call: Callable[[], object]) -> list[str]:
    """The lines of the error that ``call`` raises, which must be of exactly this class."""
    with pytest.raises(QkvError) as caught:
        call()
    assert type(caught.value) is kind, f"{type(caught.value).__name__}, not {kind.__name__}: {caught.value}"
    lines = str(caught.value).split("\n")
    assert all(lines), f"an empty line in {lines}"
    assert not lines[0].startswith(" ")
    assert len(lines) > 1, f"nothing says what to do: {lines}"
    assert all(line.startswith("  ") for line in lines[1:]), lines
    return lines


@pytest.fixture
def message() -> Message:
    return read_message
