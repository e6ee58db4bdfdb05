"""Saved caches come back bit for bit; damaged files are errors that say what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import qkv
from qkv.cache import Latent, Paged, PagePool, load
from tests.cache.kinds import EVERY, KINDS, PATTERN, tokens


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("name", list(EVERY))
def test_a_cache_comes_back(name: str, count: int, tmp_path: Path) -> None:
    kind, path = EVERY[name], tmp_path / "cache.safetensors"
    cache = kind.make()
    q, k, v = tokens(count + 2, 1)
    if count:
        kind.spec(q[:, :, :count], k[:, :, :count], v[:, :, :count], cache=cache)
    cache.save(path)
    twin = load(path)
    assert type(twin) is type(cache)
    assert (twin.length, twin.positions.tolist()) == (cache.length, cache.positions.tolist())
    for each in range(count, count + 2):
        new = tuple(x[:, :, each : each + 1] for x in (q, k, v))
        assert torch.equal(kind.spec(*new, cache=twin), kind.spec(*new, cache=cache))


def test_a_latent_cache_needs_its_up_projections(tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    up_k, up_v = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    cache = Latent(up_k, up_v)
    cache.append(torch.randn(1, 5, 8), torch.randn(1, 5, 2))
    cache.save(path)
    with pytest.raises(qkv.CacheError, match="a latent cache needs its up-projections"):
        load(path)
    twin = load(path, up_k=up_k, up_v=up_v)
    q = torch.randn(1, 2, 1, 5)
    assert torch.equal(qkv.Spec()(q, cache=twin), qkv.Spec()(q, cache=cache))
    with pytest.raises(qkv.CacheError, match=r"its latents are 8 features of torch.float32, and up_k takes 7"):
        load(path, up_k=up_k[..., :7], up_v=up_v[..., :7])


def test_lengths_and_positions_and_a_pool_of_its_own(tmp_path: Path) -> None:
    path, pool = tmp_path / "cache.safetensors", PagePool(2)
    cache = Paged(PagePool(3))
    _, k, v = tokens(7, 2)
    cache.append(k, v, lengths=[7, 3])
    cache.save(path)
    twin = load(path, pool=pool)
    assert twin.lengths.tolist() == [7, 3]
    assert pool.num_used == 6
    dense = qkv.cache.Dense()
    dense.append(k, v, positions=torch.tensor([[0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]]))
    dense.save(path)
    assert load(path).positions.tolist() == dense.positions.tolist()
    with pytest.raises(qkv.CacheError, match=r"the file has bits = None, and the pool 8"):
        cache.save(path)
        load(path, pool=PagePool(2, bits=8))


def test_the_rotation_must_be_the_same(tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache = qkv.cache.Dense()
    KINDS["dense"].spec(*tokens(3, 3), cache=cache)
    cache.save(path)
    twin = load(path)
    with pytest.raises(qkv.CacheError, match="was saved with keys turned by"):
        qkv.Spec(PATTERN, keep=qkv.causal(), position=qkv.rope(5.0))(*tokens(1, 4), cache=twin)
    KINDS["dense"].spec(*tokens(1, 4), cache=twin)


def saved(tmp_path: Path, name: str = "int8") -> Path:
    path = tmp_path / f"{name}.safetensors"
    cache = EVERY[name].make()
    EVERY[name].spec(*tokens(4, 5), cache=cache)
    cache.save(path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["qkv"])
        tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 - no mapping
    change(about, tensors)
    save_file(tensors, path, {"qkv": json.dumps(about)})


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = {
    "kind": ("int8", lambda a, t: a.update(kind="hat"), "its kind is 'hat'"),
    "format": ("int8", lambda a, t: a.update(format="qkv cache 0"), "not written by qkv, or by another version"),
    "settings": ("int8", lambda a, t: a.update(settings=3), "settings = 3"),
    "count": ("int8", lambda a, t: a.update(count=5), '"keys" is torch.int8 of shape'),
    "count kind": ("int8", lambda a, t: a.update(count="5"), "count = '5' is no whole number"),
    "bits": ("int8", lambda a, t: a["settings"].update(bits=3), "bits = 3"),
    "no bits": ("int8", lambda a, t: a["settings"].update(bits=None), "bits = None in a quantized cache"),
    "capacity": ("int8", lambda a, t: a["settings"].update(capacity=2), "holds 4 tokens and has a capacity of 2"),
    "room": ("int8", lambda a, t: a["settings"].update(capacity=1 << 47), "what it asks for cannot be allocated"),
    "dtype": ("dense", lambda a, t: a.update(dtype="float8"), "dtype = 'float8'"),
    "shared": ("dense", lambda a, t: a.update(shared=[2]), "of shape (2, 1, 4, 4), and should be"),
    "shared kind": ("dense", lambda a, t: a.update(shared="2"), "shared = '2'"),
    "negative": ("dense", lambda a, t: a.update(shared=[-2, 1]), "shared = -2 is no whole number"),
    "lacking": ("dense", lambda a, t: t.pop("values"), 'it lacks "values"'),
    "beside": ("dense", lambda a, t: t.update(more=torch.zeros(1)), "it holds more beside what its kind has"),
    "type": ("dense", lambda a, t: t.update(keys=t["keys"].float()), '"keys" is torch.float32'),
    "code": ("int8", lambda a, t: t["keys"].fill_(-128), "codes or scales out of bounds"),
    "nibble": ("int4", lambda a, t: t["keys"].fill_(0x81 - 1), "codes or scales out of bounds"),
    "scale": ("int8", lambda a, t: t["keys.scale"].fill_(-1.0), "codes or scales out of bounds"),
    "inf": ("int8", lambda a, t: t["values.scale"].fill_(torch.inf), "codes or scales out of bounds"),
    "recent": (
        "recent8",
        lambda a, t: a["settings"].update(recent=1 << 40),
        "recent = 1099511627776 is no whole number",
    ),
    "fewer": ("recent8", lambda a, t: a["settings"].update(newest=4), "newest = 4 is no whole number from 0 to 3"),
    "newest": ("recent8", lambda a, t: a["settings"].update(newest=2), '"keys.newest" is torch.float64 of shape'),
    "no newest": ("recent4", lambda a, t: t.pop("values.newest"), 'it lacks "values.newest"'),
    "features": ("dense", lambda a, t: a.update(features={"q": []}), "features = {'q': []}"),
    "features kind": ("dense", lambda a, t: a.update(features=[1]), "features = [1]"),
    "turned": ("dense", lambda a, t: a.update(turned=3), "turned = 3 is no text"),
    "positions": ("dense", lambda a, t: t.update(positions=torch.zeros(3).long()), '"positions" is torch.int64'),
    "window": ("ring", lambda a, t: a["settings"].update(window=0), "window = 0 is no whole number from 1"),
    "seen": ("ring", lambda a, t: a["settings"].update(seen=2), "count = 4 is no whole number from 0 to 2"),
    "lengths": ("paged", lambda a, t: a["settings"].update(lengths=[4]), "it has 1 lengths for 2 sequences"),
    "lengths kind": ("paged", lambda a, t: a["settings"].update(lengths=4), "lengths = 4"),
    "fades": ("recurrent", lambda a, t: a["settings"].update(fades=1), "fades = 1"),
    "memory": ("recurrent", lambda a, t: t.update(memory=torch.zeros(2, 1)), '"memory" has the shape (2, 1)'),
    "total": ("recurrent", lambda a, t: t.update(total=torch.zeros(2, 1)), '"total" is torch.float32 of shape (2, 1)'),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_file_that_does_not_fit_what_it_says(name: str, tmp_path: Path) -> None:
    kind, change, text = CHANGES[name]
    path = saved(tmp_path, kind)
    rewritten(path, lambda about, tensors: (change(about, tensors), None)[1])
    with pytest.raises(qkv.CacheError) as error:
        load(path)
    assert str(error.value).startswith(f"load: {path} is no cache that can be used: ")
    assert text in str(error.value)
    assert str(error.value).endswith("\n  Save it again.")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["int8", "paged"])
def test_damaged_bytes_are_an_error_or_another_cache(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = saved(tmp_path_factory.mktemp("fuzz"), name)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path.write_bytes(bytes(whole[:cut]))
    try:
        cache = load(path)
    except qkv.CacheError as error:
        assert str(error).startswith("load: ")
        return
    q, _, _ = tokens(1, 6)
    if cache.length and cache.rows is not None and cache.rows.shared == (2, 1):
        qkv.Spec(PATTERN)(q, cache=cache)


def test_no_file_and_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(qkv.CacheError, match="is no cache that can be used: FileNotFoundError"):
        load(tmp_path / "none")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(qkv.CacheError) as error:
        qkv.cache.Dense().save(tmp_path / "cache")
    assert str(error.value) == (
        "saving and loading caches needs the package safetensors.\n  Install it: pip install safetensors."
    )
