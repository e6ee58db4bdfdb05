"""Latent attention: absorbed and rebuilt keys say the same, and the planner takes the cheaper."""

from __future__ import annotations

import pytest
import torch

import qkv
from qkv.cache import Latent
from qkv.mechanisms.latent import latent as mechanism

SMALL = {"batch": 2, "heads": 4, "content": 6, "rotary": 4, "latent": 10, "value": 5}


def problem(
    count: int, *, seed: int = 0, rotary: str = "first", sizes: dict[str, int] = SMALL
) -> dict[str, torch.Tensor]:
    """Queries, latents, rotary keys, up-projections, and the keys and values that they make."""
    made = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    up_k = draw(sizes["heads"], sizes["content"], sizes["latent"]) / sizes["latent"] ** 0.5
    up_v = draw(sizes["heads"], sizes["value"], sizes["latent"]) / sizes["latent"] ** 0.5
    q = draw(sizes["batch"], sizes["heads"], count, sizes["content"] + sizes["rotary"])
    latents, rotary_keys = draw(sizes["batch"], count, sizes["latent"]), draw(sizes["batch"], count, sizes["rotary"])
    content = torch.einsum("bjc,hnc->bhjn", latents, up_k)
    shared = rotary_keys.unsqueeze(1).expand(-1, sizes["heads"], -1, -1)
    keys = torch.cat((shared, content) if rotary == "first" else (content, shared), -1)
    values = torch.einsum("bjc,hec->bhje", latents, up_v)
    return {"q": q, "c": latents, "r": rotary_keys, "up_k": up_k, "up_v": up_v, "k": keys, "v": values}


SPECS = {
    "plain": qkv.Spec(keep=qkv.causal()),
    "turned": mechanism(rotary_size=4, content_size=6, keep=qkv.causal()),
    "changed": qkv.Spec(keep=qkv.causal() & qkv.window(5), score=(qkv.softcap(20.0), qkv.alibi()), scale=0.3),
    "sink": qkv.Spec(keep=qkv.causal(), weights=qkv.softmax(sink=torch.linspace(-1, 1, 4, dtype=torch.float64))),
    "sigmoid": qkv.Spec(keep=qkv.causal(), weights=qkv.sigmoid(bias=-1.0)),
}


@pytest.mark.parametrize("strategy", ["absorbed", "chunked", "reference", None])
@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("rotary", ["first", "last"])
def test_absorbed_is_rebuilt(name: str, rotary: str, strategy: str | None) -> None:
    if name == "turned" and rotary == "last":
        with pytest.raises(qkv.SpecError, match="the rotary part of the cache is the last 4"):
            _run(SPECS[name], problem(6, rotary=rotary), rotary, strategy)
        return
    given = problem(9, rotary=rotary)
    spec = SPECS[name]
    want = ("lse",) if name != "sigmoid" else ()
    with qkv.strategy("reference"):
        whole = spec.run(given["q"], given["k"], given["v"], want=want)
    output, last = _run(spec, given, rotary, strategy, want)
    torch.testing.assert_close(output, whole.output, atol=1e-12, rtol=0.0)
    if want:
        torch.testing.assert_close(last.lse, whole.lse[:, :, -1:], atol=1e-12, rtol=0.0)
    if strategy is not None:
        assert last.plan.strategy == strategy


def _run(
    spec: qkv.Spec, given: dict[str, torch.Tensor], rotary: str, strategy: str | None, want: tuple[str, ...] = ()
) -> tuple[torch.Tensor, qkv.Result]:
    cache = Latent(given["up_k"], given["up_v"], rotary=rotary)
    made = []
    count = given["c"].shape[1]
    for a, b in ((0, 4), (4, count - 1), (count - 1, count)):
        new = (given["q"][:, :, a:b], given["c"][:, a:b], given["r"][:, a:b])
        if strategy is None:
            made.append(spec.run(*new, cache=cache, want=want))
        else:
            with qkv.strategy(strategy):
                made.append(spec.run(*new, cache=cache, want=want))
    return torch.cat([each.output for each in made], 2), made[-1]


def test_deepseek_shapes_agree_within_the_promise() -> None:
    sizes = {"batch": 1, "heads": 128, "content": 128, "rotary": 64, "latent": 512, "value": 128}
    given = problem(33, sizes=sizes)
    spec = mechanism(rotary_size=64, content_size=128, keep=qkv.causal())
    cache = Latent(given["up_k"], given["up_v"])
    spec(given["q"][:, :, :32], given["c"][:, :32], given["r"][:, :32], cache=cache)
    assert cache.nbytes // cache.length == (512 + 64) * 8
    new = (given["q"][:, :, 32:], given["c"][:, 32:], given["r"][:, 32:])
    twin = cache.fork()
    with qkv.strategy("absorbed"):
        absorbed = spec(*new, cache=cache)
    with qkv.strategy("reference"):
        rebuilt = spec(*new, cache=twin)
    assert float((absorbed - rebuilt).abs().max()) < 1e-10


def test_the_planner_switches_by_cost() -> None:
    sizes = {"batch": 1, "heads": 128, "content": 128, "rotary": 64, "latent": 512, "value": 128}
    spec = qkv.Spec(keep=qkv.causal())
    up = torch.empty(128, 128, 512)
    cache = Latent(up, up)
    cache.append(torch.zeros(1, 2000, 512), torch.zeros(1, 2000, 64))
    one = spec.plan(torch.zeros(1, 128, 1, 192), torch.zeros(1, 1, 512), torch.zeros(1, 1, 64), cache=cache)
    assert one.strategy == "absorbed"
    assert one.reason == "the lowest estimated time"
    assert any(text.endswith("the time of absorbed, on rebuilt keys") for text in one.refused.values())
    q = torch.zeros(1).expand(1, 128, 2000, 192)
    many = spec.plan(q, torch.zeros(1, 2000, 512), torch.zeros(1, 2000, 64), cache=Latent(up, up))
    assert many.strategy == "cpu"
    assert many.refused["absorbed"].endswith("x the time of cpu on rebuilt keys")
    assert sizes["heads"] == up.shape[0]
    assert spec.plan(*(torch.zeros(1, 2, 3, 8),) * 3).refused["absorbed"] == (
        "it reads a latent cache, and k and v are tensors"
    )


def test_it_is_truncated_forked_reordered_and_released() -> None:
    given, spec = problem(8), SPECS["turned"]
    cache = Latent(given["up_k"], given["up_v"])
    spec(given["q"][:, :, :6], given["c"][:, :6], given["r"][:, :6], cache=cache)
    twin = cache.fork()
    twin.truncate(3)
    out = spec(given["q"][:, :, 3:], given["c"][:, 3:], given["r"][:, 3:], cache=twin)
    whole = spec(given["q"], given["k"], given["v"])
    torch.testing.assert_close(out, whole[:, :, 3:], atol=1e-12, rtol=0.0)
    assert cache.length == 6
    cache.reorder([1])
    out = spec(given["q"][1:, :, 6:], given["c"][1:, 6:], given["r"][1:, 6:], cache=cache)
    torch.testing.assert_close(out, whole[1:, :, 6:], atol=1e-12, rtol=0.0)
    again = spec(given["q"][1:, :, -1:], cache=cache)
    torch.testing.assert_close(again, whole[1:, :, -1:], atol=1e-12, rtol=0.0)
    cache.release()
    assert (cache.length, cache.nbytes) == (0, 0)


def test_up_projections_learn_through_both_ways() -> None:
    given, spec = problem(4), SPECS["plain"]
    grads = []
    for strategy in ("absorbed", "chunked"):
        up_k, up_v = (given[n].clone().requires_grad_() for n in ("up_k", "up_v"))
        cache = Latent(up_k, up_v)
        with qkv.strategy(strategy):
            spec(given["q"], given["c"], given["r"], cache=cache).sum().backward()
        grads.append((up_k.grad, up_v.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0.0)


def test_half_precision_computes_in_float32() -> None:
    given = {n: x.to(torch.bfloat16) for n, x in problem(9, seed=3).items()}
    exact = {n: x.double() for n, x in given.items()}
    keys = torch.cat(
        (
            exact["r"].unsqueeze(1).expand(-1, 4, -1, -1),
            torch.einsum("bjc,hnc->bhjn", exact["c"], exact["up_k"]),
        ),
        -1,
    )
    values = torch.einsum("bjc,hec->bhje", exact["c"], exact["up_v"])
    want = SPECS["plain"](exact["q"], keys, values)
    for strategy in ("absorbed", "chunked", "cpu"):
        with qkv.strategy(strategy):
            out = SPECS["plain"](given["q"], given["c"], given["r"], cache=Latent(given["up_k"], given["up_v"]))
        assert out.dtype == torch.bfloat16
        assert float((out.double() - want).abs().max()) < 2.0**-7 * float(want.abs().max())


@pytest.mark.parametrize(
    ("args", "kind", "text"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3, 4)), qkv.ShapeError, "Latent: up_k is torch.Size([2, 3])."),
        (
            (torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)),
            qkv.SizeMismatch,
            "Latent: up_k has the shape (2, 3, 4) and up_v (2, 3, 5).",
        ),
    ],
)
def test_up_projections_must_fit(args: tuple[torch.Tensor, ...], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        Latent(*args)
    assert str(error.value).startswith(text)


def test_messages() -> None:
    given, spec = problem(3), SPECS["plain"]
    with pytest.raises(qkv.SpecError, match=r'Latent: rotary = .middle.\.\n  Known: "first", "last"\.'):
        Latent(given["up_k"], given["up_v"], rotary="middle")
    cache = Latent(given["up_k"], given["up_v"])
    with pytest.raises(qkv.ShapeError) as error:
        spec(given["q"], given["k"], given["v"][..., :2, :], cache=cache)
    assert str(error.value).startswith(
        "a latent cache takes latents [b, j, 10] in place of k and rotary keys [b, j, rotary] in place of v."
    )
    with pytest.raises(qkv.SizeMismatch, match="latents have 7 features, and up_k takes 10"):
        cache.append(given["c"][..., :7], given["r"])
    with pytest.raises(qkv.DtypeError, match=r"latents are torch.float32, and up_k is torch.float64"):
        cache.append(given["c"].float(), given["r"].float())
    with pytest.raises(qkv.Refused, match="dropout is not supported"), qkv.strategy("absorbed"):
        spec(given["q"], given["c"], given["r"], cache=cache, dropout=0.5)
    assert cache.length == 0
    with pytest.raises(qkv.CacheError, match="the latent cache is empty"):
        spec(given["q"], cache=cache)
