"""Attention is recognised however it is spelled, and is what a hand-written float64 computation gives."""

from __future__ import annotations

import math

import pytest
import torch

import qkv

HEAD = (
    "fn f[q, k, d, e](Q: [float; ..b, q, d], K: [float; ..b, k, d], V: [float; ..b, k, e]{more}) -> "
    "[float; ..b, q, e] {{\n"
)
SCORES = "    let s[..b, q, k] = sum[d](Q[..b, q, d] * K[..b, k, d]) / d ** 0.5;\n"
OUT = "    sum[k](softmax[k]({s}) * V[..b, k, e])\n}}\n"


def text(score: str, more: str = "", before: str = SCORES) -> str:
    """A definition of attention with these scores."""
    return HEAD.format(more=more) + before + OUT.format(s=score)


I, J = torch.arange(9)[:, None], torch.arange(9)[None, :]  # noqa: E741


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, change=lambda s: s, keep: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention in float64, written out."""
    s = change(q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1]))
    if keep is not None:
        s = s.masked_fill(~keep, -math.inf)
    return s.softmax(-1) @ v.double()


PLAIN: dict[str, tuple[str, object, object]] = {
    "scale behind": (text("s[..b, q, k]"), lambda s: s, None),
    "scale before": (
        text(
            "s",
            before=(
                "    let P[..b, q, d] = Q[..b, q, d] / size[d] ** 0.5;\n    let s[..b, q, k] = "
                "sum[d](P[..b, q, d] * K[..b, k, d]);\n"
            ),
        ),
        lambda s: s,
        None,
    ),
    "scale inside": (
        text("s", before="    let s[..b, q, k] = sum[d](Q[..b, q, d] * K[..b, k, d] * size[d] ** -0.5);\n"),
        lambda s: s,
        None,
    ),
    "scale inside as quotient": (
        text("s", before="    let s[..b, q, k] = sum[d](Q[..b, q, d] / sqrt(size[d]) * K[..b, k, d]);\n"),
        lambda s: s,
        None,
    ),
    "causal by if": (text("if k <= q { s[..b, q, k] } else { -inf }"), lambda s: s, J <= I),
    "causal by where": (text("s[..b, q, k] where k <= q"), lambda s: s, J <= I),
    "causal by adding": (text("s[..b, q, k] + if k <= q { 0.0 } else { -inf }"), lambda s: s, J <= I),
    "causal turned around": (text("if q < k { -inf } else { s[..b, q, k] }"), lambda s: s, J <= I),
    "sliding": (text("if k <= q && q - k < 4 { s[..b, q, k] } else { -inf }"), lambda s: s, (J <= I) & (I - J < 4)),
    "window on both sides": (text("s where abs(q - k) <= 2"), lambda s: s, (I - J).abs() <= 2),
    "BigBird-like": (
        text("s where floor(q / 2) == floor(k / 2) || q < 1 || k < 1 || (q * 7 + k * 3) % 5 == 0"),
        lambda s: s,
        (I // 2 == J // 2) | (I < 1) | (J < 1) | ((I * 7 + J * 3) % 5 == 0),
    ),
    "softcap": (text("20.0 * tanh(s[..b, q, k] / 20.0)"), lambda s: 20 * torch.tanh(s / 20), None),
    "softcap under a mask": (
        text("if k <= q { 5 * tanh(s[..b, q, k] / 5) } else { -inf }"),
        lambda s: 5 * torch.tanh(s / 5),
        J <= I,
    ),
    "distance": (text("s[..b, q, k] - 0.25 * abs(q - k)"), lambda s: s - 0.25 * (I - J).abs(), None),
    "nothing named": (
        HEAD.format(more="")
        + "    sum[k](softmax[k](sum[d](Q[..b, q, d] * K[..b, k, d]) * (1 / d ** 0.5)) * V[..b, k, e])\n}\n",
        lambda s: s,
        None,
    ),
    "many lets": (
        HEAD.format(more="")
        + "    let p[..b, q, k, d] = Q[..b, q, d] * K[..b, k, d];\n    let r[..b, q, k] = sum[d](p[..b, q, k, d]);\n"
        + "    let s[..b, q, k] = r[..b, q, k] * d ** -0.5;\n    let m[q, k] = if k <= q { 0.0 } else { -inf };\n"
        + "    let t[..b, q, k] = s[..b, q, k] + m[q, k];\n    let w[..b, q, k] = softmax[k](t[..b, q, k]);\n"
        + "    let o[..b, q, k, e] = w[..b, q, k] * V[..b, k, e];\n    sum[k](o[..b, q, k, e])\n}\n",
        lambda s: s,
        J <= I,
    ),
    "softmax spelled out": (
        HEAD.format(more="")
        + SCORES
        + "    let m[..b, q] = max[k](s[..b, q, k]);\n    let x[..b, q, k] = exp(s[..b, q, k] - m[..b, q]);\n"
        + "    sum[k](x[..b, q, k] / sum[k](x[..b, q, k]) * V[..b, k, e])\n}\n",
        lambda s: s,
        None,
    ),
    "divided at the end": (
        HEAD.format(more="")
        + SCORES
        + "    let x[..b, q, k] = exp(s[..b, q, k] - max[k](s[..b, q, k]));\n"
        + "    sum[k](x[..b, q, k] * V[..b, k, e]) / sum[k](x[..b, q, k])\n}\n",
        lambda s: s,
        None,
    ),
    "in a function called by another": (
        "fn weights[q, k](s: [float; ..b, q, k]) -> [float; ..b, q, k] { softmax[k](s where k <= q) }\n"
        "fn mix[q, k, e](w: [float; ..b, q, k], V: [float; ..b, k, e]) -> [float; ..b, q, e] { "
        "sum[k](w[..b, q, k] * V[..b, k, e]) }\n"
        + HEAD.format(more="")
        + SCORES
        + "    mix[q, k, e](weights[q, k](s), V)\n}\n",
        lambda s: s,
        J <= I,
    ),
    "values scaled": (text("s").replace("V[..b, k, e])\n}", "(2 * V[..b, k, e])) / 2\n}"), lambda s: s, None),
}


def tensors(*lead: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Queries, keys and values of nine positions, with gradients."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*lead, 9, n, generator=generator, dtype=dtype).requires_grad_() for n in (4, 4, 5)]


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("name", PLAIN)
def test_a_spelling_is_fused_and_right(name: str, lead: tuple[int, ...]) -> None:
    written, change, keep = PLAIN[name]
    f = qkv.ein.source(written).f
    q, k, v = tensors(*lead, dtype=torch.float64)
    plans = f.plan(q, k, v)
    assert len(plans) == 1, f"{len(plans)} attentions were recognised"
    assert plans[0].strategy != "reference"
    out = f(q, k, v)
    expected = attend(q, k, v, change, keep)  # type: ignore[arg-type]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(out, (q, k, v), g), torch.autograd.grad(expected, (q, k, v), g), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    with qkv.strategy("reference"):
        torch.testing.assert_close(f(q, k, v), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_form_agrees(name: str) -> None:
    written = PLAIN[name][0].replace("fn f[", "#[strategy(reference)]\nfn f[")
    f = qkv.ein.source(written).f
    q, k, v = tensors(2, dtype=torch.float64)
    assert f.plan(q, k, v) == []
    torch.testing.assert_close(f(q, k, v), qkv.ein.source(PLAIN[name][0]).f(q, k, v), rtol=1e-10, atol=1e-10)


TENSORS = {
    "bias": ("s[..b, q, k] + B[q, k]", ", B: [float; q, k]", (9, 9), lambda s, b: s + b),
    "table by distance": (
        "s[..b, q, k] + B[max(-3, min(3, k - q)) + 3]",
        ", B: [float; r]",
        (7,),
        lambda s, b: s + b[(J - I).clamp(-3, 3) + 3],
    ),
    "temperature": ("s[..b, q, k] * B", ", B: float", (), lambda s, b: s * b),
    "bias that is computed": ("s[..b, q, k] + sum[r](B[r, q] * B[r, k as q] )", ", B: [float; r, q]", (3, 9), None),
}


@pytest.mark.parametrize("name", ["bias", "table by distance", "temperature"])
def test_learned_tensors_in_scores(name: str) -> None:
    score, more, shape, change = TENSORS[name]
    written = text(score, more)
    if "r]" in more:
        written = written.replace("fn f[q, k, d, e]", "fn f[q, k, d, e, r]")
    f = qkv.ein.source(written).f
    q, k, v = tensors(2, dtype=torch.float64)
    b = torch.randn(shape, dtype=torch.float64).requires_grad_()
    assert len(f.plan(q, k, v, b)) == 1
    out, expected = f(q, k, v, b), attend(q, k, v, lambda s: change(s, b))  # type: ignore[misc]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(out)
    for mine, theirs in zip(
        torch.autograd.grad(out, (q, k, v, b), g), torch.autograd.grad(expected, (q, k, v, b), g), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_documents() -> None:
    f = qkv.ein.source(text("s where D[..b, q] == E[..b, k] && k <= q", ", D: [i64; ..b, q], E: [i64; ..b, k]")).f
    q, k, v = tensors(2, dtype=torch.float64)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 2]])
    assert len(f.plan(q, k, v, ids, ids)) == 1
    keep = (ids[:, :, None] == ids[:, None, :]) & (J <= I)
    torch.testing.assert_close(f(q, k, v, ids, ids), attend(q, k, v, keep=keep), rtol=1e-10, atol=1e-10)


def test_groups_by_an_omitted_coordinate_and_merged_heads() -> None:
    apart = """fn f[h, g, q, k, d](
            Q: [float; ..b, h, g, q, d],
            K: [float; ..b, h, k, d],
            V: [float; ..b, h, k, d],
            ) -> [float; ..b, h, g, q, d] {
        sum[k](softmax[k](sum[d](Q[..b, h, g, q, d] * K[..b, h, k, d]) / d ** 0.5) * V[..b, h, k, d])
    }"""
    merged = """fn f[h, g, q, k, d](
            Q: [float; ..b, q, (h, g, d)],
            K: [float; ..b, k, (h, d)],
            V: [float; ..b, k, (h, d)],
            ) -> [float; ..b, q, (h, g, d)] {
        sum[k](softmax[k](sum[d](Q[..b, q, (h, g, d)] * K[..b, k, (h, d)]) / d ** 0.5) * V[..b, k, (h, d)])
    }"""
    q, k, v = torch.randn(2, 3, 2, 6, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    expected = attend(q, k.unsqueeze(2), v.unsqueeze(2))
    f = qkv.ein.source(apart).f
    assert len(f.plan(q, k, v)) == 1
    torch.testing.assert_close(f(q, k, v), expected.float(), rtol=1e-5, atol=1e-5)
    flat = [x.movedim(-2, 1).flatten(2) for x in (q, k, v)]
    f = qkv.ein.source(merged).f
    assert len(f.plan(*flat, h=3, g=2)) == 1
    torch.testing.assert_close(f(*flat, h=3, g=2), expected.float().movedim(-2, 1).flatten(2), rtol=1e-5, atol=1e-5)


GROUPED = {
    "h g q d": ("..b, h, g, q, d", "where k <= q"),
    "g before h": ("..b, g, h, q, d", ""),
    "q before the heads": ("..b, q, h, g, d", "where k <= q"),
    "no mask": ("..b, h, g, q, d", ""),
}


@pytest.mark.parametrize("strategy", ["sdpa", "cpu", "chunked", "reference"])
@pytest.mark.parametrize("name", GROUPED)
def test_heads_and_groups_on_axes_of_their_own_run_as_grouped_heads(name: str, strategy: str) -> None:
    axes, mask = GROUPED[name]
    f = qkv.ein.source(
        f"""fn f[h, g, q, k, d](
            Q: [float; {axes}], K: [float; ..b, h, k, d], V: [float; ..b, h, k, d]) -> [float; {axes}] {{
        let s[..b, h, g, q, k] = sum[d](Q[{axes}] * K[..b, h, k, d]) / d ** 0.5;
        sum[k](softmax[k](s[..b, h, g, q, k] {mask}) * V[..b, h, k, d])
    }}"""
    ).f
    sizes = {"..b": 2, "h": 3, "g": 4, "q": 9, "d": 8}
    names = axes.split(", ")
    q = torch.randn([sizes[n] for n in names], dtype=torch.float64).requires_grad_()
    k, v = (torch.randn(2, 3, 9, 8, dtype=torch.float64).requires_grad_() for _ in range(2))
    order = [names.index(n) for n in ("..b", "h", "g", "q", "d")]
    expected = attend(q.permute(order), k.unsqueeze(2), v.unsqueeze(2), keep=J <= I if mask else None)
    with qkv.strategy(strategy):
        assert [p.strategy for p in f.plan(q, k, v)] == [strategy]
        out = f(q, k, v)
    torch.testing.assert_close(out.permute(order), expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(out)
    for mine, theirs in zip(
        torch.autograd.grad(out, (q, k, v), g),
        torch.autograd.grad(expected, (q, k, v), g.permute(order)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_two_sequences_of_queries_are_no_group() -> None:
    f = qkv.ein.source(
        """fn f[h, x, y, k, d](Q: [f64; h, x, y, d], K: [f64; h, k, d]) -> [f64; h, x, y, d] {
            sum[k](softmax[k](sum[d](Q[h, x, y, d] * K[h, k, d]) where k <= x && k <= y) * K[h, k, d])
        }"""
    ).f
    q, k = torch.randn(2, 5, 6, 4, dtype=torch.float64), torch.randn(2, 9, 4, dtype=torch.float64)
    keep = (torch.arange(9) <= torch.arange(5)[:, None, None]) & (torch.arange(9) <= torch.arange(6)[:, None])
    s = torch.einsum("hxyd,hkd->hxyk", q, k).masked_fill(~keep, -math.inf)
    torch.testing.assert_close(f(q, k), torch.einsum("hxyk,hkd->hxyd", s.softmax(-1), k))


def test_linear_attention_is_recognised_as_linear() -> None:
    f = qkv.ein.source(
        """fn phi[c](x: [float; ..a, c]) -> [float; ..a, c] { if x > 0 { x + 1 } else { exp(x) } }
        fn f[q, k, d, e](Q: [float; ..b, q, d], K: [float; ..b, k, d], V: [float; ..b, k, e]) -> [float; ..b, q, e] {
            let w[..b, q, k] = sum[d](phi[d](Q) * phi[d](K));
            let m[..b, q, k] = if k <= q { w[..b, q, k] } else { 0.0 };
            sum[k](m[..b, q, k] * V[..b, k, e]) / sum[k](m[..b, q, k])
        }"""
    ).f
    q, k, v = (torch.randn(2, 300, n) for n in (4, 4, 5))
    assert [p.strategy for p in f.plan(q, k, v)] == ["linear"]
    expected = qkv.attention(q, k, v, "b i d, b j d, b j e -> b i e", keep=qkv.causal(), weights=qkv.linear())
    torch.testing.assert_close(f(q, k, v), expected, rtol=1e-4, atol=1e-5)


ASSOCIATED = """fn phi[c](x: [float; ..a, c]) -> [float; ..a, c] { if x > 0 { x + 1 } else { exp(x) } }
fn f[q, k, d, e](
    Q: [float; ..b, q, d],
    K: [float; ..b, k, d],
    V: [float; ..b, k, e],
    M: [bool; k],
) -> [float; ..b, q, e] {
    let p[..b, q, d] = phi[d](Q);
    let r[..b, k, d] = phi[d](K);
    let S[..b, d, e] = sum[k](STATE);
    let z[..b, d] = sum[k](TOTAL);
    sum[d](p[..b, q, d] * S[..b, d, e]) / sum[d](p[..b, q, d] * z[..b, d])
}"""
"""phi(Q) (phi(K)^T V), the keys summed first."""


@pytest.mark.parametrize("mask", ["", " where M[k]"])
def test_linear_attention_whose_keys_are_summed_first_is_recognised(mask: str) -> None:
    program = ASSOCIATED.replace("STATE", f"V[..b, k, e] * r[..b, k, d]{mask}").replace("TOTAL", f"r[..b, k, d]{mask}")
    f = qkv.ein.source(program).f
    q, k, v = (torch.randn(2, 30, n, requires_grad=True) for n in (4, 4, 5))
    keep = torch.arange(30) % 3 != 1
    assert [p.strategy for p in f.plan(q, k, v, keep)] == ["linear"]
    weights = (torch.nn.functional.elu(q.double()) + 1) @ (torch.nn.functional.elu(k.double()) + 1).transpose(1, 2)
    weights = weights * keep if mask else weights
    expected = ((weights / weights.sum(-1, keepdim=True)) @ v.double()).float()
    found = f(q, k, v, keep)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(x.sin().sum(), (q, k, v)) for x in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "total"),
    [
        ("V[..b, k, e] * r[..b, k, d] where M[k]", "r[..b, k, d]"),
        ("V[..b, k, e] * r[..b, k, d]", "exp(r[..b, k, d])"),
        ("r[..b, k, d] + V[..b, k, e]", "r[..b, k, d]"),
    ],
    ids=["another mask", "another map", "no product"],
)
def test_what_only_looks_like_it_is_not(state: str, total: str) -> None:
    f = qkv.ein.source(ASSOCIATED.replace("STATE", state).replace("TOTAL", total)).f
    q, k, v = (torch.randn(2, 6, n) for n in (4, 4, 5))
    assert f.plan(q, k, v, torch.ones(6).bool()) == []


def test_differential_attention_is_two_fused_ones() -> None:
    f = qkv.ein.source(
        """fn f[q, k, d, e](
            Q1: [float; ..b, q, d],
            Q2: [float; ..b, q, d],
            K1: [float; ..b, k, d],
            K2: [float; ..b, k, d],
            V: [float; ..b, k, e],
            lam: float,
            ) -> [float; ..b, q, e] {
            let a[..b, q, k] = softmax[k](sum[d](Q1[..b, q, d] * K1[..b, k, d]) / d ** 0.5);
            let c[..b, q, k] = softmax[k](sum[d](Q2[..b, q, d] * K2[..b, k, d]) / d ** 0.5);
            sum[k]((a[..b, q, k] - lam * c[..b, q, k]) * V[..b, k, e])
        }"""
    ).f
    q1, k1, v = tensors(2, dtype=torch.float64)
    q2, k2 = q1.flip(0), k1.flip(0)
    assert len(f.plan(q1, q2, k1, k2, v, 0.3)) == 2
    torch.testing.assert_close(
        f(q1, q2, k1, k2, v, 0.3), attend(q1, k1, v) - 0.3 * attend(q2, k2, v), rtol=1e-10, atol=1e-10
    )


CLAMPED = """fn f[h, q, k, m, d, e](
    Q: [float; ..b, h, q, m, d],
    K: [float; ..b, h, k, m, d],
    V: [float; ..b, h, k, e],
    lam: [float; h],
) -> [float; ..b, h, q, e] {
    let w[..b, m, h, q, k] = softmax[k](sum[d](Q[..b, h, q, m, d] * K[..b, h, k, m, d]) / d ** 0.5 where k <= q);
    let c[..b, h, q, k] = POSITIVE;
    let z[..b, h, q] = sum[k](c[..b, h, q, k]);
    sum[k](c[..b, h, q, k] * V[..b, h, k, e]) / if z[..b, h, q] > 0 { z[..b, h, q] } else { 1.0 }
}"""
SUBTRACTED = "w[..b, 0, h, q, k] - lam[h] * w[..b, 1, h, q, k]"


def clamped_arguments(maps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = (2, 3, 9, maps, 4), (2, 3, 9, maps, 4), (2, 3, 9, 5), (3,)
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def clamped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """The clamped difference of the first two maps, in plain torch."""
    s = torch.einsum("bhqmd,bhkmd->bmhqk", q, k) / 2
    w = s.masked_fill(I < J, -math.inf).softmax(-1)
    c = torch.relu(w[:, 0] - lam[:, None, None] * w[:, 1])
    total = c.sum(-1, keepdim=True)
    return torch.where(total > 0, c @ v / torch.where(total > 0, total, 1), 0)


@pytest.mark.parametrize("positive", [f"relu({SUBTRACTED})", f"max({SUBTRACTED}, 0.0)", f"max(0, {SUBTRACTED})"])
def test_the_clamped_difference_of_two_maps_is_one_fused_attention(positive: str) -> None:
    f = qkv.ein.source(CLAMPED.replace("POSITIVE", positive)).f
    args = clamped_arguments(2)
    with torch.no_grad():
        args[3][0] = 40.0  # no weight is positive in most rows of this head
    plans = f.plan(*args)
    assert [p.strategy for p in plans] == ["chunked"]
    out, expected = f(*args), clamped(*args)
    assert bool((out[:, 0] == 0).any())
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(out)
    for mine, theirs in zip(torch.autograd.grad(out, args, g), torch.autograd.grad(expected, args, g), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "to", "maps"),
    [
        ("", "", 3),
        ("else { 1.0 }", "else { 0.0 }", 2),
        ("z[..b, h, q] > 0", "z[..b, h, q] > 1", 2),
        ("w[..b, 0, h", "w[..b, 1, h", 2),
        ("lam[h] * w[..b, 1, h, q, k]", "lam[h] * w[..b, 0, h, q, k]", 2),
    ],
    ids=["three maps", "divided by nothing", "another bound", "the second from itself", "the first from itself"],
)
def test_what_only_looks_like_the_clamped_difference_is_not(change: str, to: str, maps: int) -> None:
    program = CLAMPED.replace("POSITIVE", f"relu({SUBTRACTED})").replace(change, to)
    f = qkv.ein.source(program).f
    args = clamped_arguments(maps)
    assert f.plan(*args) == []
    if maps == 3:
        torch.testing.assert_close(f(*args), clamped(*args), rtol=1e-10, atol=1e-10)


def test_a_recurrence_is_linear_attention_step_by_step() -> None:
    f = qkv.ein.source(
        """fn f[T, d, e](Q: [float; ..b, T, d], K: [float; ..b, T, d], V: [float; ..b, T, e]) -> [float; ..b, T, e] {
            let S[0, ..b, d, e] = K[..b, 0, d] * V[..b, 0, e];
            let S[t in 1..T, ..b, d, e] = S[t - 1, ..b, d, e] + K[..b, t, d] * V[..b, t, e];
            sum[d](Q[..b, T, d] * S[T, ..b, d, e])
        }"""
    )
    q, k, v = tensors(2, dtype=torch.float64)
    expected = (q @ k.transpose(-1, -2)).tril() @ v
    torch.testing.assert_close(f.f(q, k, v), expected, rtol=1e-10, atol=1e-10)


def test_a_row_that_keeps_nothing_is_zero() -> None:
    q, k, v = tensors(2)
    out = qkv.ein.source(text("s where k < q")).f(q, k, v)
    assert bool((out[:, 0] == 0).all()) and bool(torch.isfinite(out).all())
