"""Rooflines, machines, the probe, units and pictures."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import LimitError, SpecError
from qkv.size import (
    HARDWARE,
    Curve,
    curves,
    flops,
    hardware,
    layer_work,
    model,
    multi_head_layer,
    probe,
    recommend,
    roof,
    show_bytes,
    show_count,
    show_flops,
    show_rate,
    show_seconds,
    stack_curves,
    times,
    write_curves,
)
from qkv.size.units import to_bytes, to_count


def test_the_larger_term_of_each_layer() -> None:
    work = layer_work(multi_head_layer(4096, 32, 8), 4096, 8192, 1)
    found = roof(work, "h100")
    assert found.compute_s == work.flops / 989.5e12
    assert found.memory_s == work.bytes / 3.35e12
    assert (found.seconds, found.bound) == (found.memory_s, "memory")
    whole = flops(model("gemma-3-27b"), 4096)
    summed = roof(whole, "h100")
    assert summed.seconds == pytest.approx(sum(roof(layer, "h100").seconds for layer in whole.layers), rel=1e-12)
    assert max(summed.compute_s, summed.memory_s) <= summed.seconds * (1 + 1e-12)


@pytest.mark.parametrize("name", HARDWARE)
def test_every_machine(name: str) -> None:
    one = hardware(name)
    assert one.source
    assert one.memory_bytes > 0
    found = times(model("llama-3-8b"), 4096, one)
    assert found.prefill.seconds > found.decode.seconds > 0
    assert found.decode.bound == "memory"


def test_faster_machines_take_less() -> None:
    order = ["l4", "a100-80gb", "h100", "h200", "b200"]
    decode = [times(model("llama-3-8b"), 8192, name).decode.seconds for name in order]
    assert decode == sorted(decode, reverse=True)


def test_a_rate_that_was_not_published() -> None:
    assert hardware("h100").rate("int4") == hardware("h100").rate("bf16")
    with pytest.raises(SpecError) as caught:
        hardware("b200").rate("f32")
    assert str(caught.value) == "b200 has no published rate of f32 products.\n  It has: bf16, f16, fp8."


def test_this_machine() -> None:
    one = probe()
    assert one.measured
    assert 1e8 < one.rate("f32") < 1e15
    assert 1e8 < one.bytes_per_s < 1e13
    assert hardware("this") is one


@pytest.mark.parametrize("built", [True, False])
def test_the_source_says_who_measured(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("qkv.size.probe")
    monkeypatch.setattr(module.core, "is_built", lambda: built)
    monkeypatch.setattr(module.core, "probe_fma_flops", lambda threads, dtype: {"float32": 2e9}.get(dtype, 1e9))
    monkeypatch.setattr(module.core, "probe_read_bandwidth", lambda threads, size: 5e9)
    found = module._probe.__wrapped__(2)
    assert ("the compiled core" if built else "torch") in found.source
    if built:
        assert (dict(found.flops_per_s), found.bytes_per_s) == ({"f32": 2e9, "bf16": 1e9}, 5e9)


@pytest.mark.parametrize(
    ("text", "number"),
    [("128k", 131072), ("128K", 131072), ("1m", 1 << 20), ("4096", 4096), ("1.5k", 1536), ("1_000", 1000), (7, 7)],
)
def test_counts(text: Any, number: int) -> None:
    assert to_count(text, "context") == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("24GiB", 24 << 30), ("80GB", 80 * 10**9), ("1.5 MiB", 3 << 19), ("10", 10), ("3 tb", 3 * 10**12)],
)
def test_bytes(text: Any, number: int) -> None:
    assert to_bytes(text) == number


@pytest.mark.parametrize("text", ["", "k", "12q", "1.3", "-5", "1e9", "0x10", "128kk", None, True, 1.5, "9" * 100])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises((SpecError, LimitError)):
        to_count(text, "context")


def test_units_are_always_shown() -> None:
    assert [show_bytes(n) for n in (0, 999, 1024, 70272, 1 << 30, 1023 << 30, 10**18)] == [
        "0 B", "999 B", "1 KiB", "68.62 KiB", "1 GiB", "1,023 GiB", "888.2 PiB",
    ]  # fmt: skip
    assert [show_count(n) for n in (0, 1000, 131072)] == ["0", "1,000", "128k"]
    assert [show_flops(n) for n in (12, 1234567, 10**15)] == ["12 FLOP", "1.235 MFLOP", "1 PFLOP"]
    assert [show_seconds(s) for s in (2.5, 0.0123, 4.5e-6, 3e-9)] == ["2.5 s", "12.3 ms", "4.5 µs", "3 ns"]
    assert show_rate(1.008e12, "B/s") == "1.008 TB/s"


@given(st.integers(1, 1 << 50))
def test_counts_can_be_read_again(number: int) -> None:
    assert to_count(show_count(number), "context") == number


LINES = [model(name) for name in ("llama-3-8b", "mistral-7b-v0.1", "deepseek-v3", "bert-base")]


def test_curves_are_the_sizes() -> None:
    found = curves(LINES, "32k")
    assert [one.label for one in found] == ["llama-3-8b", "mistral-7b-v0.1", "deepseek-v3", "bert-base"]
    assert found[0].points[0] == (256, 256 * 131072)
    assert found[0].points[-1] == (32768, 32768 * 131072)
    assert found[1].points[-1] == (32768, 4096 * 131072)
    both = curves(LINES[:1], "32k", policies=("math", "paged"))
    assert [one.label for one in both] == ["llama-3-8b, math", "llama-3-8b, paged"]


def test_a_png(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "curves.png"
    write_curves(curves(LINES, "32k"), path, title="Bytes")
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1140, 640))
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    for line in ((31, 78, 121), (192, 80, 77), (46, 125, 50)):
        assert line in colours


def test_an_svg(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    write_curves([*curves(LINES[:2], "32k"), Curve("<&>", ((256, 1 << 20), (512, 1 << 21)))], path, title='A "b" <c>')
    tree = ElementTree.parse(path)
    lines = tree.findall("{http://www.w3.org/2000/svg}polyline")
    texts = [item.text for item in tree.findall("{http://www.w3.org/2000/svg}text")]
    assert len(lines) == 3
    assert {"llama-3-8b", "mistral-7b-v0.1", "<&>", 'A "b" <c>', "32k", "context (tokens)"} <= set(texts)
    heights = [float(point.split(",")[1]) for point in lines[1].get("points", "").split()]
    assert heights[-1] == heights[-2] == min(heights)  # a full window is level


def test_curves_of_a_recommendation() -> None:
    found = recommend("generation", width=512, heads=8, layers=6)
    lines = stack_curves(found)
    assert [line.label.removeprefix("> ") for line in lines] == [item.name for item in found.figures]
    assert [line.label for line in lines if line.label.startswith("> ")] == [f"> {found.chosen.name}"]
    assert [line.points[-1][1] for line in lines] == [item.cache_bytes for item in found.figures]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curves(LINES, 100), "context=100: a curve begins at 256 tokens.\n  Give at least 512."),
        (lambda: curves([]), "0 lines: from 1 to 10 can be told apart."),
        (
            lambda: write_curves(curves(LINES), "x.gif", title=""),
            "the picture 'x.gif' ends in '.gif'.\n  Name it .png or .svg.",
        ),
        (
            lambda: write_curves(curves(LINES[3:]), "x.png", title=""),
            "nothing to draw: no cache holds a byte.\n  Give models that keep keys, values or a state.",
        ),
    ],
)
def test_messages(call: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        call()
    assert str(caught.value) == message
