"""What tests of the quick ways share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import qkv
from qkv.run import call


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[qkv.Spec]]:
    """The specs of the calls that took the general way, in ``cpu``."""
    taken: list[qkv.Spec] = []
    ready = call._ready

    def counted(spec: qkv.Spec, *given: object) -> object:
        taken.append(spec)
        return ready(spec, *given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(call, "_ready", counted)
    with qkv.strategy("cpu"):
        yield taken
