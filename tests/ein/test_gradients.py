"""``qkv.ein.gradients``: what it writes checks, runs, and is what autograd and finite differences give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import qkv
from qkv.ein.door import library_files
from qkv.ein.elems import is_real
from qkv.ein.sample import arguments
from tests.ein.test_generated import SIZES, programs
from tests.ein.test_generated import arguments as numbers

VALID = (Path(__file__).with_name("golden") / "valid.txt").read_text(encoding="utf-8").strip().split("\n\n----\n")
VALID = [re.sub(r"\b(f16|bf16|f32|float)\b", "f64", text) for text in VALID]


def real(slot: Any) -> bool:
    return is_real(slot.elem)


def listed(made: Any) -> list[torch.Tensor]:
    return list(made) if isinstance(made, tuple) else [made]


def prepared(f: Any, sizes: dict[str, int], seed: int) -> tuple[list[Any], dict[str, int]]:
    """Arguments in float64, those that are real with gradients; scalars as tensors."""
    args, extra = arguments(f.definition, sizes, seed)
    for n, slot in enumerate(f.definition.parameters):
        if real(slot):
            args[n] = torch.as_tensor(args[n], dtype=torch.float64).requires_grad_()
    return args, extra


def shown(f: Any) -> str:
    return "\n".join(qkv.ein.gradients(f))


def agree(f: Any, sizes: dict[str, int] | None = None, args: list[Any] | None = None, **extra: int) -> str:
    """The written gradients against autograd, and against finite differences in a random direction."""
    if args is None:
        args, extra = prepared(f, sizes or {}, 3)
    text = shown(f)
    assert not [d for d in qkv.ein.check(text) if d["code"] != "unused"], f"{text}\n{qkv.ein.report(text)}"
    assert qkv.ein.fmt(text).rstrip("\n") == text
    back = qkv.ein.source(text)[f"{f.definition.name}_gradients"]
    out = listed(f(*args, **extra))
    asked = [o for o, slot in zip(out, f.definition.results, strict=True) if real(slot)]
    wanted = [a for a, slot in zip(args, f.definition.parameters, strict=True) if real(slot)]
    generator = torch.Generator().manual_seed(5)
    # what is -inf has no slope, and is asked for none
    cotangents = [torch.randn(o.shape, generator=generator, dtype=torch.float64) * o.isfinite() for o in asked]
    flowing = [(o, g) for o, g in zip(asked, cotangents, strict=True) if o.requires_grad]
    zero = [torch.zeros_like(a) for a in wanted]
    expected = zero
    if flowing:
        found = torch.autograd.grad([o for o, _ in flowing], wanted, [g for _, g in flowing], allow_unused=True)
        expected = [z if e is None else e for e, z in zip(found, zero, strict=True)]
    known = {name: size for name, size in extra.items() if name in back.definition.formals}
    mine = listed(back(*[a.detach() if hasattr(a, "detach") else a for a in args], *cotangents, **known))
    for name, one, other in zip([s.name for s in f.definition.parameters if real(s)], mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}\n{text}")
    differences(f, args, extra, wanted, cotangents, mine)
    return text


def differences(
    f: Any, args: list[Any], extra: dict[str, int], wanted: list[Any], cotangents: list[Any], mine: list[Any]
) -> None:
    """Central differences along one random direction."""
    generator = torch.Generator().manual_seed(6)
    ways = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in wanted]
    sides = []
    step = 1e-5
    for sign in (1, -1):
        moved = iter([(w + sign * step * v).detach() for w, v in zip(wanted, ways, strict=True)])
        given = [next(moved) if real(slot) else a for a, slot in zip(args, f.definition.parameters, strict=True)]
        out = [o for o, slot in zip(listed(f(*given, **extra)), f.definition.results, strict=True) if real(slot)]
        pairs = zip(out, cotangents, strict=True)
        sides.append(sum(torch.where(g.isfinite() & o.isfinite(), o * g, 0).sum() for o, g in pairs))
    slope = (sides[0] - sides[1]) / (2 * step)
    told = sum((m * v).sum() for m, v in zip(mine, ways, strict=True))
    torch.testing.assert_close(told, slope, rtol=2e-5, atol=2e-6)


def has_gradients(f: Any) -> bool:
    return any(map(real, f.definition.parameters)) and any(map(real, f.definition.results))


@pytest.mark.parametrize("number", range(len(VALID)))
def test_every_valid_program_has_the_gradients_of_autograd(number: int) -> None:
    module = qkv.ein.source(VALID[number])
    f = module[list(module)[-1]]
    if not has_gradients(f):
        with pytest.raises(qkv.EinError, match="has no gradients"):
            qkv.ein.gradients(f)
        return
    agree(f, {"m": 64})


@settings(max_examples=25, deadline=None)
@given(programs())
def test_a_generated_program_has_them(made: tuple[str, tuple[str, ...]]) -> None:
    f = qkv.ein.source(made[0]).f
    given_ = {n: x.requires_grad_() for n, x in numbers(SIZES).items()}
    back = qkv.ein.source(shown(f)).f_gradients
    out = f(**given_)
    g = torch.ones_like(out)
    found = torch.autograd.grad(out, list(given_.values()), g, allow_unused=True) if out.requires_grad else [None] * 4
    expected = [torch.zeros_like(x) if e is None else e for e, x in zip(found, given_.values(), strict=True)]
    for mine, theirs in zip(back(*(x.detach() for x in given_.values()), g), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9, equal_nan=True, msg=lambda m: f"{m}\n{made[0]}")


LIBRARY = [(file, name) for file in library_files() for name in qkv.ein.std(file)]


@pytest.mark.parametrize(("file", "name"), LIBRARY)
def test_every_definition_of_the_library_has_them(file: str, name: str) -> None:
    f = qkv.ein.std(file)[name]
    sizes = dict.fromkeys(f.definition.formals, 3) | {"two": 2, "half": 2, "r": 5 if name != "latent" else 3}
    agree(f, sizes)


RECURRENCES = {
    "a number, a product": """fn f[T](A: [f64; T]) -> [f64; T] {
    let h[0] = 1.0;
    let h[t in 1..T] = h[t - 1] * A[t] + t;
    h[T]
}""",
    "two steps back": """fn f[T, c](A: [f64; T, c], s: f64) -> [f64; T, c] {
    let h[0, c] = A[0, c];
    let h[1, c] = A[1, c] * s;
    let h[t in 2..T, c] = tanh(h[t - 1, c]) * s + h[t - 2, c] * A[t, c];
    h[T, c] ** 2
}""",
    "two bases, one step back": """fn f[T](A: [f64; T]) -> [f64; T] {
    let h[0] = A[0];
    let h[1] = A[0] * A[1];
    let h[t in 2..T] = h[t - 1] * A[t];
    h[T]
}""",
    "two steps back alone": """fn f[T](A: [f64; T]) -> [f64; T] {
    let h[0] = A[0];
    let h[1] = 2.0 * A[1];
    let h[t in 2..T] = sin(h[t - 2]) * A[t];
    h[T]
}""",
    "a table at every step": """fn f[T, n](x: [f64; T], I: [i64; T], E: [f64; n]) -> [f64; T] {
    let h[0] = E[I[0]];
    let h[t in 1..T] = 0.5 * h[t - 1] * E[I[t]] + x[t];
    h[T]
}""",
    "a sum over what was made before": """fn f[T, c](A: [f64; T, c], W: [f64; c]) -> [f64; T, c] {
    let h[0, c] = A[0, c];
    let h[t in 1..T, c] = A[t, c] * sum[c](h[t - 1, c] * W[c]) + h[t - 1, c];
    h[T, c]
}""",
    "a softmax at every step": """fn f[T, c](A: [f64; T, c]) -> [f64; T, c] {
    let h[0, c] = A[0, c];
    let h[t in 1..T, c] = softmax[c](h[t - 1, c] * A[t, c]) + A[t, c];
    h[T, c]
}""",
    "the last step alone": """fn f[T, c](A: [f64; T, c]) -> [f64; c] {
    let h[0, c] = A[0, c];
    let h[t in 1..T, c] = exp(-h[t - 1, c] * h[t - 1, c]) + A[t, c];
    h[size[T] - 1, c]
}""",
    "a gate": """fn f[T, c](A: [f64; ..b, T, c], G: [f64; ..b, T]) -> [f64; ..b, T, c] {
    let h[0, ..b, c] = A[..b, 0, c];
    let h[t in 1..T, ..b, c] = sigmoid(G[..b, t]) * h[t - 1, ..b, c] + (1 - sigmoid(G[..b, t])) * A[..b, t, c];
    h[T, ..b, c]
}""",
    "nothing made before": """fn f[T](A: [f64; T]) -> [f64; T] {
    let h[0] = A[0] * A[0];
    let h[t in 1..T] = A[t] * A[t - 1];
    h[T]
}""",
    "conditions on the step": """fn f[T](A: [f64; T]) -> [f64; T] {
    let h[0] = A[0];
    let h[t in 1..T] = if t % 2 == 0 { h[t - 1] * A[t] } else { h[t - 1] / (1 + A[t] ** 2) };
    h[T]
}""",
}


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("steps", [2, 3, 6])
def test_recurrences_are_swept_backwards(name: str, steps: int) -> None:
    agree(qkv.ein.source(RECURRENCES[name]).f, {"T": steps, "c": 3, "n": 2})


OTHERS = {
    "prod with zeros": "fn f[q, c](A: [f64; q, c]) -> [f64; q] { prod[c](floor(A[q, c]) * A[q, c]) }",
    "prod over two, masked": "fn f[q, c](A: [f64; q, c], b: f64) -> f64 { b * prod[q, c](A[q, c] where c <= q) }",
    "largest of equals": "fn f[q, c](A: [f64; q, c]) -> [f64; q] { max[c](max(A[q, c], 0) * 0.0 + A[q, c] * A[q, c]) }",
    "a mean under a mask over another axis": (
        "fn f[q, c](A: [f64; ..b, q, c]) -> [f64; ..b] { mean[q, c](A[..b, q, c] where q % 2 == 0) }"
    ),
    "a mean over a rest": "fn f[q](A: [f64; ..b, q]) -> [f64; q] { mean[..b](A[..b, q] ** 2) }",
    "a mean over a rest under a mask": (
        "fn f[q](A: [f64; ..b, q], M: [bool; ..b]) -> [f64; q] { mean[..b](A[..b, q] ** 2 where M[..b]) }"
    ),
    "a sum alone": "fn f[q, c](A: [f64; ..b, q, c]) -> f64 { sum[..b, q, c](A[..b, q, c]) }",
    "a sum of what it lacks": "fn f[q, k](A: [f64; q], B: [f64; k]) -> [f64; q] { sum[k](A[q] + B[k]) }",
    "logsumexp with a dead row": (
        "fn f[q, c](A: [f64; q, c]) -> [f64; q] { let l[q] = logsumexp[c](A[q, c] where c < q);\n"
        "    if l[q] > -inf { l[q] } else { 0.0 } }"
    ),
    "powers": "fn f[q](A: [f64; q], b: f64) -> [f64; q] { (A[q] ** 2 + 1) ** b + 2 ** A[q] + A[q] ** 1 + A[q] ** 0 }",
    "remainders": "fn f[q](A: [f64; q], b: f64) -> [f64; q] { A[q] % 0.7 + (A[q] + 3) % (b + 1) }",
    "a type between": "fn f[q](A: [f64; q]) -> [f64; q] { (A[q] as f32) as f64 * 0.0 + A[q] ** 3 }",
    "the diagonal": "fn f[q, c](A: [f64; q, c], I: [i64; q]) -> [f64; q] { A[q, I[q]] * A[q, 0] }",
    "rows and columns": (
        "fn f[q, c](A: [f64; q, c], I: [i64; c]) -> [f64; c] { if c > 0 { A[I[c], c - 1] ** 2 } else { A[0, 0] } }"
    ),
    "a split, a merge": (
        "fn f[m, h, d, q](X: [f64; q, m], W: [f64; (h, d)]) -> [f64; q] { sum[m](X[q, m] * W[(h, d) as m]) * "
        "sum[h, d](X[q, m as (h, d)] * h) }"
    ),
    "joined under one name": (
        "fn f[q, k, c](A: [f64; q, c]) -> [f64; k, c] {\n    let B[q, c] = A[q, c] ** 2;\n"
        "    concat[k](A[q as k, c], B[q as k, c])\n}"
    ),
    "a size of one": "fn f[q, c](A: [f64; q, c]) -> [f64; q] { only[c](A[q, c]) * 3 }",
    "several results": (
        "fn f[q, c](A: [f64; q, c], n: i64) -> ([f64; q], i64, [f64; q, c], [bool; q]) {\n"
        "    let s[q] = sum[c](A[q, c] ** 2);\n    (s[q], n + 1, A[q, c] * s[q], s[q] > 1)\n}"
    ),
    "a result that is a parameter": "fn f[q](A: [f64; q], B: [f64; q]) -> ([f64; q], [f64; q]) { (A, A[q] * B[q]) }",
    "names that are taken": (
        "fn f[q, k](d_out: [f64; q], v1: [f64; k], d_v1: f64) -> [f64; q, k] { let q_2[q, k] = exp(d_out[q] * v1[k]);\n"
        "    q_2[q, k] * q_2[q, k] * d_v1 }"
    ),
    "a call with itself": (
        "fn g[q, k, c](A: [float; ..b, q, c], B: [float; ..b, k, c]) -> [float; ..b, q, k] "
        "{ sum[c](A[..b, q, c] * B[..b, k, c]) }\n"
        "fn f[s, t, c](X: [f64; ..b, s, c]) -> [f64; ..b, s, t] { g[s, s as t, c](X, X) ** 2 }"
    ),
    "softmax over the query as given": (
        "fn f[q, k, d](Q: [f64; q, d], K: [f64; k, d]) -> [f64; q, d] "
        "{ sum[k](softmax[q] as given(sum[d](Q[q, d] * K[k, d])) * K[k, d]) }"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_golden_programs_do_not_say(name: str) -> None:
    module = qkv.ein.source(OTHERS[name])
    sizes = {"q": 4, "c": 1 if "size of one" in name else 3, "k": 5, "h": 2, "d": 2, "m": 4, "s": 3, "t": 3}
    agree(module[list(module)[-1]], sizes)


def test_ties_share_as_in_torch() -> None:
    f = qkv.ein.source("fn f[q, c](A: [f64; q, c]) -> [f64; q] { max[c](A[q, c]) }").f
    back = qkv.ein.source(shown(f)).f_gradients
    a = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(back(a.detach(), g), torch.autograd.grad(f(a), a, g)[0])


def test_a_zero_in_a_product_has_the_product_of_the_others() -> None:
    f = qkv.ein.source("fn f[c](A: [f64; c]) -> f64 { prod[c](A[c]) }").f
    back = qkv.ein.source(shown(f)).f_gradients
    found = back(torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    assert found.tolist() == [0.0, 10.0, 0.0]


def test_gradients_of_attention_are_those_of_the_fused_run() -> None:
    f = qkv.ein.std("attention").causal
    q, k, v = (torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert [p.strategy for p in f.plan(q, k, v)] == ["cpu"]
    g = torch.randn(2, 7, 4, dtype=torch.float64)
    expected = torch.autograd.grad(f(q, k, v), (q, k, v), g)
    found = qkv.ein.source(shown(f)).causal_gradients(q.detach(), k.detach(), v.detach(), g)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fn f[q](A: [f64; ..b, q]) -> [f64; q] { prod[..b](A[..b, q]) }", "prod over a rest needs its indices"),
        (
            "fn turn[i, j](x: [f64; i]) -> [f64; j] { x[i as j] * 2 }\n"
            "fn f[T, c, e](A: [f64; T, c]) -> [f64; T, c] {\n    let h[0, c] = A[0, c];\n"
            "    let h[t in 1..T, c] = A[t, c] + sum[e](turn[c, e](h[t - 1, c]));\n    h[T, c]\n}",
            "a rename of what a recurrence made before has no step backwards",
        ),
        ("fn f[q](A: [i64; q]) -> [i64; q] { A[q] + 1 }", "no parameter of it holds real numbers"),
        ("fn f[q, c](A: [f64; q, c]) -> [i64; q] { argmax[c](A[q, c]) }", "no result of it holds real numbers"),
    ],
)
def test_what_cannot_be_said_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(qkv.EinError) as raised:
        qkv.ein.gradients(qkv.ein.source(text).f)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 3
