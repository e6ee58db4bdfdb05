"""The modules against attention written out in float64, their gradients, graphs, states, and every message."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
import qkv.nn
from tests.nn import plain

LENGTH, MODEL = 7, 32
X = torch.randn(2, LENGTH, MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
PLACES = torch.arange(LENGTH)
KEPT = plain.causal(LENGTH)
F64: dict[str, Any] = {"dtype": torch.float64}
LATENT: dict[str, Any] = {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}

MODULES: dict[str, Callable[..., nn.Module]] = {
    "attention": lambda **o: qkv.nn.Attention(
        MODEL, 4, 2, position=qkv.rope(), keep=qkv.causal(), bias=True, qk_norm=True, **o
    ),
    "latent": lambda **o: qkv.nn.LatentAttention(MODEL, 4, **LATENT, q_lora_rank=10, keep=qkv.causal(), **o),
    "differential": lambda **o: qkv.nn.DifferentialAttention(
        MODEL, 4, 2, layer=2, position=qkv.rope(), keep=qkv.causal(), **o
    ),
    "linear": lambda **o: qkv.nn.LinearAttention(MODEL, 4, 2, position=qkv.rope(), decay=0.9, **o),
}


def _disturbed(module: nn.Module) -> Any:
    """The module with every parameter drawn, so that no norm is 1 and no bias 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.4)
    return module


def _attention(m: Any) -> Tensor:
    q, k, v = (
        plain.heads(plain.linear(layer, X), n) for layer, n in ((m.q_proj, 4), (m.k_proj, 2), (m.v_proj, 2))
    )  # fmt: skip
    q, k = plain.rms(q, m.q_norm.weight, 1e-6), plain.rms(k, m.k_norm.weight, 1e-6)
    q, k = (plain.turn(x, PLACES, interleaved=False) for x in (q, k))
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return plain.linear(m.o_proj, plain.joined(plain.softmax(q, k, kept=KEPT) @ v))


def _latent(m: Any) -> Tensor:
    q = plain.heads(plain.linear(m.q_b_proj, plain.rms(plain.linear(m.q_a_proj, X), m.q_a_layernorm.weight, 1e-6)), 4)
    made = plain.linear(m.kv_a_proj_with_mqa, X)
    latent, shared = plain.rms(made[..., :12], m.kv_a_layernorm.weight, 1e-6), made[..., 12:].unsqueeze(1)
    rebuilt = plain.heads(plain.linear(m.kv_b_proj, latent), 4)
    turned = plain.turn(shared, PLACES, interleaved=True).expand(-1, 4, -1, -1)
    k = torch.cat((rebuilt[..., :6], turned), -1)
    q = torch.cat((q[..., :6], plain.turn(q[..., 6:], PLACES, interleaved=True)), -1)
    return plain.linear(m.o_proj, plain.joined(plain.softmax(q, k, kept=KEPT) @ rebuilt[..., 6:]))


def _differential(m: Any) -> Tensor:
    q, k, v = (
        plain.heads(plain.linear(layer, X), n) for layer, n in ((m.q_proj, 4), (m.k_proj, 2), (m.v_proj, 2))
    )  # fmt: skip
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    first, second = (
        plain.softmax(*(plain.turn(x[..., half], PLACES, interleaved=False) for x in (q, k)), kept=KEPT)
        for half in (slice(0, 4), slice(4, 8))
    )
    start = 0.8 - 0.6 * torch.tensor(-0.3, dtype=torch.float64).exp()
    lam = (m.lambda_q1 @ m.lambda_k1).exp() - (m.lambda_q2 @ m.lambda_k2).exp() + start
    return plain.linear(
        m.o_proj, plain.joined(plain.rms((first - lam * second) @ v, m.subln.weight, 1e-5) * (1 - start))
    )  # fmt: skip


def _linear(m: Any) -> Tensor:
    q, k, v = (
        plain.heads(plain.linear(layer, X), n) for layer, n in ((m.q_proj, 4), (m.k_proj, 2), (m.v_proj, 2))
    )  # fmt: skip
    q, k = (nn.functional.elu(plain.turn(x, PLACES, interleaved=False)) + 1 for x in (q, k))
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    weights = q @ k.transpose(-1, -2) * 0.9 ** (PLACES[:, None] - PLACES).abs().double() * KEPT
    return plain.linear(m.o_proj, plain.joined(weights / weights.sum(-1, keepdim=True) @ v))


WRITTEN = {"attention": _attention, "latent": _latent, "differential": _differential, "linear": _linear}


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_the_output_is_what_is_written_out(name: str) -> None:
    module = _disturbed(MODULES[name](**F64))
    torch.testing.assert_close(module(X), WRITTEN[name](module), rtol=1e-10, atol=1e-10)
    for key in ("o_proj.weight", "q_b_proj.weight" if name == "latent" else "q_proj.weight"):
        other = copy.deepcopy(module)
        other.get_parameter(key)[0] += 1
        assert (module(X)[:, 1:] - WRITTEN[name](other)[:, 1:]).abs().max() > 1e-3, "the comparison can fail"


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_batch_axes_and_places(name: str) -> None:
    module = MODULES[name](**F64)
    expected = module(X)
    assert module(X.reshape(2, 1, LENGTH, MODEL)).equal(expected.reshape(2, 1, LENGTH, MODEL))
    torch.testing.assert_close(module(X[0]), expected[0])
    assert module(X[:0]).shape == (0, LENGTH, MODEL)
    # differences alone count, but for feature maps of turned queries
    first = 0 if name == "linear" else 5
    for places in (first, PLACES + first, (PLACES + first).expand(2, -1), {"i": first, "j": first}):
        torch.testing.assert_close(module(X, positions=places), expected, rtol=1e-9, atol=1e-9)
    stretched = module(X, positions=torch.stack((PLACES, 3 * PLACES)))
    torch.testing.assert_close(stretched[0], expected[0])
    assert (stretched[1, 1:] - expected[1, 1:]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["attention", "latent", "differential"])
@torch.no_grad()
def test_a_mask_of_one_call_is_added(name: str) -> None:
    module = MODULES[name](**F64)
    there = torch.tensor([[True] * LENGTH, [False] * 2 + [True] * (LENGTH - 2)])
    masked = module(X, keep=qkv.padding(there, "b j"))
    torch.testing.assert_close(masked[0], module(X)[0])
    torch.testing.assert_close(masked[1, 2:], module(X[1:, 2:], positions=2)[0])


@pytest.mark.parametrize("name", MODULES)
def test_gradcheck(name: str) -> None:
    module = _disturbed(MODULES[name](**F64))
    x = X[:1, :3].clone().requires_grad_()
    names, tensors = zip(*module.named_parameters(), strict=True)
    small = [n for n, p in zip(names, tensors, strict=True) if p.dim() == 1]
    chosen = [module.get_parameter(n) for n in small]

    def called(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(small, values, strict=True)), (x,))

    with qkv.strategy("chunked" if name != "linear" else "linear"):
        assert torch.autograd.gradcheck(called, (x, *chosen), fast_mode=True)


@pytest.mark.parametrize("name", MODULES)
def test_a_graph_equals_the_module(name: str) -> None:
    torch.compiler.reset()
    module = MODULES[name]()
    found: list[list[Tensor]] = []
    for function in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        module.zero_grad()
        x = X.float().requires_grad_()
        output = function(x)
        output.square().sum().backward()
        found.append([output.detach(), x.grad, *(p.grad for p in module.parameters())])
    for compiled, eager in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
def test_inductor() -> None:
    torch.compiler.reset()
    module, x = MODULES["attention"](), X.float()
    torch.testing.assert_close(torch.compile(module, fullgraph=True)(x), module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_states_copies_and_conversions(name: str) -> None:
    module, other = _disturbed(MODULES[name](**F64)), MODULES[name](**F64)
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert other(X).equal(module(X))
    twin = copy.deepcopy(module)
    assert twin(X).equal(module(X))
    assert twin.float()(X.float()).dtype == torch.float32
    assert module.to(torch.bfloat16)(X.bfloat16()).dtype == torch.bfloat16


def test_learned_terms_belong_to_the_module() -> None:
    table = nn.Parameter(torch.randn(4))
    layer = qkv.nn.Attention(MODEL, 4, score=qkv.score(lambda score, h, i, j: score - table[h] * (i - j)))
    assert layer.state_dict()["terms.0"].equal(table)
    layer(X.float()).sum().backward()
    assert table.grad is not None and table.grad.abs().sum() > 0
    eager, table.grad = table.grad, None
    torch.compiler.reset()
    torch.compile(layer, fullgraph=True, backend="aot_eager")(X.float()).sum().backward()
    torch.testing.assert_close(table.grad, eager)
    twin = copy.deepcopy(layer).double()
    assert twin.terms[0] is twin.spec.tables[0] and twin.terms[0] is not table
    before = twin(X)
    twin.load_state_dict({**twin.state_dict(), "terms.0": torch.zeros(4)})
    assert (twin(X) - before).abs().max() > 1e-3
    with pytest.raises(qkv.SpecError, match="makes new parameters, and the spec's terms hold the old ones"):
        layer.to_empty(device="meta")


@pytest.mark.parametrize("name", MODULES)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    """Copy the token before: a task that needs attention."""
    module, readout = MODULES[name](), nn.Linear(MODEL, MODEL)
    x = torch.randn(8, LENGTH, MODEL)
    places = torch.randn(LENGTH, MODEL)
    optimiser = torch.optim.Adam([*module.parameters(), *readout.parameters()], 3e-3)
    losses: list[float] = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (readout(module(x + places))[:, 1:] - x[:, :-1]).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_dropout_only_while_training() -> None:
    for name in ("attention", "latent", "differential"):
        module, x = MODULES[name](dropout=0.5), X.float()
        assert not module.train()(x).equal(module(x)), name
        assert module.eval()(x).equal(module(x)), name
        torch.manual_seed(3)
        first = module.train()(x)
        torch.manual_seed(3)
        assert module(x).equal(first), name


def test_xavier() -> None:
    layer = qkv.nn.Attention(64, 8, 2, bias=True)
    for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj):
        bound = (6 / sum(projection.weight.shape)) ** 0.5
        assert 0.95 * bound < projection.weight.abs().max() <= bound
        assert projection.bias.abs().sum() == 0
    before = layer.q_proj.weight.clone()
    layer.reset_parameters()
    assert not layer.q_proj.weight.equal(before)


def test_cross_attention() -> None:
    layer = _disturbed(qkv.nn.CrossAttention(MODEL, 4, 2, d_memory=20, bias="qkv", **F64))
    memory = torch.randn(2, 5, 20, dtype=torch.float64)
    q, k, v = (
        plain.heads(plain.linear(proj, x), n)
        for proj, x, n in ((layer.q_proj, X, 4), (layer.k_proj, memory, 2), (layer.v_proj, memory, 2))
    )
    expected = plain.joined(plain.softmax(q, k.repeat_interleave(2, 1)) @ v.repeat_interleave(2, 1))
    torch.testing.assert_close(layer(X, memory), plain.linear(layer.o_proj, expected))
    projected = layer.project_memory(memory)
    torch.testing.assert_close(layer.attend(X, *projected), layer(X, memory))
    there = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    masked = layer(X, memory, keep=qkv.padding(there, "b j"))
    torch.testing.assert_close(masked[1], layer(X[1:], memory[1:, :3])[0])
    with pytest.raises(qkv.SizeMismatch, match=r"x has the batch axes \(2,\), the memory \(1,\)"):
        layer(X, memory[:1])
    with pytest.raises(qkv.SizeMismatch, match="the memory has 19 features in its last axis"):
        layer(X, memory[..., :19])


@torch.no_grad()
def test_the_latent_forms_are_equal() -> None:
    module = _disturbed(MODULES["latent"](**F64))
    torch.testing.assert_close(module(X, absorbed=True), module(X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("decay", [None, 0.9, torch.tensor([0.8, 0.9, 0.95, 1.0], dtype=torch.float64)])
@pytest.mark.parametrize("normalize", [True, False])
@torch.no_grad()
def test_linear_attention_step_by_step(decay: Any, normalize: bool) -> None:
    module = _disturbed(
        qkv.nn.LinearAttention(MODEL, 4, 2, decay=decay, normalize=normalize, position=qkv.rope(), **F64)
    )
    outputs, memory = [], None
    for place in range(LENGTH):
        output, memory = module.step(X[:, place : place + 1], memory)
        outputs.append(output)
    assert memory is not None and memory.length == LENGTH
    torch.testing.assert_close(torch.cat(outputs, 1), module(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kv_heads", "head_dim", "bias", "qk_norm", "out_proj"),
    [(None, None, False, False, True), (2, 16, True, True, True), (1, None, "qkv", False, False)],
)
def test_counts(kv_heads: Any, head_dim: Any, bias: Any, qk_norm: bool, out_proj: bool) -> None:
    options: dict[str, Any] = {"bias": bias, "qk_norm": qk_norm, "out_proj": out_proj}
    layer = qkv.nn.Attention(MODEL, 4, kv_heads, head_dim, **options)
    count = sum(p.numel() for p in layer.parameters())
    assert count == qkv.nn.num_attention_parameters(MODEL, 4, kv_heads, head_dim, **options)
    cross = qkv.nn.CrossAttention(MODEL, 4, kv_heads, head_dim, d_memory=20, **options)
    count = sum(p.numel() for p in cross.parameters())
    assert count == qkv.nn.num_attention_parameters(MODEL, 4, kv_heads, head_dim, d_memory=20, **options)


def test_counts_by_formula() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(qkv.nn.Attention(MODEL, 4)) == 4 * MODEL**2
    assert count(qkv.nn.Attention(MODEL, 4, 2)) == 2 * MODEL * 8 * (4 + 2)
    for options in ({}, {"q_lora_rank": 10}, {"q_lora_rank": 10, "bias": True}, {"latent_norm": False}):
        made = qkv.nn.LatentAttention(MODEL, 4, **LATENT, **options)
        assert count(made) == qkv.nn.num_latent_parameters(MODEL, 4, **LATENT, **options), options
    assert count(qkv.nn.LatentAttention(MODEL, 4, **LATENT)) == 32 * 40 + 32 * 16 + 12 * 44 + 20 * 32 + 12
    differential = qkv.nn.DifferentialAttention(MODEL, 4, 2, 6)
    assert count(differential) == qkv.nn.num_differential_parameters(MODEL, 4, 2, 6)


def test_the_representation_names_coordinates() -> None:
    layer = qkv.nn.Attention(64, 8, 2, position=qkv.rope(), keep=qkv.causal(), dropout=0.1)
    assert layer.extra_repr().splitlines() == [
        '"..b i model" -> "..b i model", model=64 h=2 g=4 d=8 e=8, dropout=0.1',
        'Spec("b i (h g) d, b j h d, b j h e -> b i (h g) e", position=rope(), keep=causal())',
    ]
    cross = qkv.nn.CrossAttention(64, 8, d_memory=32).extra_repr()
    assert cross.startswith('"..b i model", "..b j memory" -> "..b i model", model=64 memory=32 h=8 d=8 e=8\nSpec(')
    latent = MODULES["latent"](dropout=0.1).extra_repr()
    assert '"..b i model" -> "..b i model", model=32 h=4 d=4+6 e=5 latent=12 q_latent=10, dropout=0.1' in latent
    assert "h=2 g=2 d=8 e=8, lambda_init=0.3555" in MODULES["differential"]().extra_repr()


def _made(name: str) -> Any:
    return MODULES[name](**F64)


MESSAGES: list[tuple[Callable[[], Any], str]] = [
    (lambda: qkv.nn.Attention(64, 0), "Attention: heads=0 must be a whole number of at least 1"),
    (lambda: qkv.nn.Attention(64, True), "Attention: heads=True must be a whole number"),
    (lambda: qkv.nn.Attention(64, 8, 3), "Attention: heads=8 cannot be shared by kv_heads=3"),
    (lambda: qkv.nn.Attention(64, 6), "d_model=64 is not divided by heads=6, and head_dim is not given"),
    (lambda: qkv.nn.Attention(64, 8, bias="all"), "Attention: bias='all' is not known"),
    (lambda: qkv.nn.Attention(64, 8, dropout=1.0), "Attention: dropout=1.0 must be a probability in [0, 1)"),
    (lambda: qkv.nn.CrossAttention(64, 8, d_memory=0), "CrossAttention: d_memory=0 must be a whole number"),
    (lambda: _made("attention")(X[0, 0]), "Attention: x has the shape (32,)"),
    (
        lambda: _made("latent")(X[..., :31]),
        "LatentAttention: x has 31 features in its last axis, shape (2, 7, 31), not",
    ),
    (lambda: _made("attention")(X, positions=PLACES[:3]), "positions have the shape (3,), and tokens (2, 7)"),
    (lambda: qkv.nn.LatentAttention(64, 8, **{**LATENT, "qk_rope_head_dim": 3}), "qk_rope_head_dim=3 beside"),
    (lambda: qkv.nn.LatentAttention(64, 8, **{**LATENT, "v_head_dim": 0}), "LatentAttention: v_head_dim=0 must be"),
    (lambda: qkv.nn.LatentAttention(64, 8, **LATENT, q_lora_rank=-1), "LatentAttention: q_lora_rank=-1 must be"),
    (
        lambda: qkv.nn.LatentAttention(64, 8, **LATENT, position=qkv.rope(fraction=0.5)),
        "position=rope(fraction=0.5) beside qk_rope_head_dim=4",
    ),
    (lambda: qkv.nn.DifferentialAttention(64, 5), "d_model=64 is not divided by 2 x heads=5"),
    (
        lambda: qkv.nn.DifferentialAttention(64, 4, position=qkv.rope(fraction=0.5)),
        "position=rope(fraction=0.5) has a fraction or sections",
    ),
    (lambda: qkv.nn.DifferentialAttention(64, 4, layer=0), "DifferentialAttention: layer=0 must be a whole number"),
    (lambda: _made("linear").step(X), "LinearAttention: a step takes one token, and x has 7, shape (2, 7, 32)"),
    (lambda: qkv.nn.LinearAttention(32, 4, causal=False).step(X[:, :1].float()), "with causal=False, whose tokens see"),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=range(len(MESSAGES)))
def test_messages(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(qkv.QkvError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n  " in str(caught.value)


def test_a_mask_of_one_call_is_refused_in_a_graph() -> None:
    torch.compiler.reset()
    layer = torch.compile(qkv.nn.Attention(MODEL, 4, keep=qkv.causal()), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"keep= is given for one call inside torch\.compile"):
        layer(X.float(), keep=qkv.window(3))
