"""Weights of checkpoints: outputs equal to the attention modules of transformers and torch, and every message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertAttention
from transformers.models.falcon.modeling_falcon import FalconAttention, FalconRotaryEmbedding
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3Attention, Phi3RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

import qkv
import qkv.nn

MODEL, HEADS, LENGTH = 48, 6, 9
SIZES = {"hidden_size": MODEL, "num_attention_heads": HEADS, "attn_implementation": "eager"}
FORBIDDEN = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1)[None, None]


@dataclass(frozen=True)
class Case:
    """A module of another library, how it is called, and how its weights are read."""

    layout: str
    make: Callable[[], tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]]
    sizes: dict[str, int]
    parts: dict[str, Any]


def _turned(rotary: type, attention: type, config: Any, **more: Any) -> tuple[nn.Module, Callable[..., Tensor]]:
    def call(module: nn.Module, x: Tensor) -> Tensor:
        turns = rotary(config).double()(x, torch.arange(LENGTH)[None])
        return module(hidden_states=x, position_embeddings=turns, attention_mask=FORBIDDEN, **more)[0]

    return attention(config, layer_idx=0), call


def _llama() -> Any:
    return _turned(
        LlamaRotaryEmbedding, LlamaAttention, transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    )  # fmt: skip


def _qwen3() -> Any:
    config = transformers.Qwen3Config(**SIZES, num_key_value_heads=3, head_dim=16)
    return _turned(LlamaRotaryEmbedding, Qwen3Attention, config)


def _phi3() -> Any:
    config = transformers.Phi3Config(**SIZES, num_key_value_heads=2, pad_token_id=0)
    return _turned(Phi3RotaryEmbedding, Phi3Attention, config)


def _neox() -> Any:
    config = transformers.GPTNeoXConfig(
        **SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    )
    return _turned(GPTNeoXRotaryEmbedding, GPTNeoXAttention, config)


def _falcon(**options: Any) -> Any:
    config = transformers.FalconConfig(**SIZES, alibi=False, **options)
    return _turned(FalconRotaryEmbedding, FalconAttention, config, alibi=None)


def _gpt2() -> Any:
    module = GPT2Attention(
        transformers.GPT2Config(n_embd=MODEL, n_head=HEADS, attn_implementation="eager"), layer_idx=0
    )
    return module, lambda module, x: module(x, attention_mask=FORBIDDEN)[0]


def _bert() -> Any:
    module = BertAttention(transformers.BertConfig(**SIZES, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0))
    module.output.LayerNorm = nn.Identity()
    return module, lambda module, x: module(x)[0] - x  # the block adds its input


def _torch() -> Any:
    module = nn.MultiheadAttention(MODEL, HEADS, batch_first=True)
    return module, lambda module, x: module(x, x, x, attn_mask=FORBIDDEN[0, 0])[0]


CAUSAL, ROPE = {"keep": qkv.causal()}, {"keep": qkv.causal(), "position": qkv.rope()}
CASES = {
    "llama": Case("llama", _llama, {}, ROPE),
    "qwen3": Case("llama", _qwen3, {}, ROPE),
    "phi3": Case("phi3", _phi3, {"kv_heads": 2}, ROPE),
    "gpt_neox": Case("gpt_neox", _neox, {}, CAUSAL | {"position": qkv.rope(fraction=0.5)}),
    "falcon": Case("falcon", lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2), {"kv_heads": 2}, ROPE),
    "falcon 7b": Case("falcon", lambda: _falcon(multi_query=True), {"kv_heads": 1}, ROPE),
    "falcon rw": Case("falcon", lambda: _falcon(multi_query=False, bias=True), {}, ROPE),
    "gpt2": Case("gpt2", _gpt2, {}, CAUSAL),
    "bert": Case("bert", _bert, {}, {}),
    "torch": Case("torch", _torch, {}, CAUSAL),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_output_is_that_of_the_module_that_was_loaded(name: str) -> None:
    case = CASES[name]
    source, call = case.make()
    source = source.double().eval()
    for parameter in source.parameters():
        parameter.normal_(0, 0.3)
    x = torch.randn(2, LENGTH, MODEL, dtype=torch.float64)
    layer = qkv.nn.from_checkpoint(
        {f"layer.{name}": value for name, value in source.state_dict().items()} | {"other": x},
        case.layout,
        heads=HEADS,
        prefix="layer.",
        **case.sizes,
        **case.parts,
    )  # fmt: skip
    assert layer.q_proj.weight.dtype == torch.float64
    # transformers computes cosines, and some softmaxes, in float32
    tolerance = 1e-6 if "position" in case.parts or case.layout in ("gpt2", "bert") else 1e-12
    torch.testing.assert_close(layer(x), call(source, x), rtol=tolerance, atol=tolerance)
    changed = {n: v + (0.1 if "bias" not in n else 0) for n, v in source.state_dict().items()}
    qkv.nn.load_checkpoint(layer, changed, case.layout)
    assert (layer(x) - call(source, x)).abs().max() > 1e-3


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@torch.no_grad()
def test_the_other_pairing(fraction: float) -> None:
    sizes: dict[str, Any] = {"kv_heads": 2, "bias": True, "qk_norm": True, "dtype": torch.float64}
    half, interleaved = (
        qkv.nn.Attention(MODEL, HEADS, position=qkv.rope(interleaved=turn, fraction=fraction), **sizes)
        for turn in (False, True)
    )
    for parameter in half.parameters():
        parameter.normal_(0, 0.3)
    x = torch.randn(2, LENGTH, MODEL, dtype=torch.float64)
    qkv.nn.load_checkpoint(interleaved, half.state_dict(), "llama", pairing="half")
    torch.testing.assert_close(interleaved(x), half(x), rtol=1e-10, atol=1e-10)
    expected = half(x)
    qkv.nn.load_checkpoint(half, interleaved.state_dict(), "llama", pairing="interleaved")
    assert half(x).equal(expected)
    qkv.nn.load_checkpoint(half, interleaved.state_dict(), "llama")
    assert (half(x) - expected).abs().max() > 1e-3


LAYER = qkv.nn.Attention(MODEL, HEADS, 2, position=qkv.rope())
STATE = LAYER.state_dict()
FUSED = {"qkv_proj.weight": torch.zeros(80, MODEL), "o_proj.weight": torch.zeros(MODEL, MODEL)}
BIAS = torch.zeros(MODEL)
MESSAGES: list[tuple[Callable[[], Any], str]] = [
    (lambda: qkv.nn.load_checkpoint(LAYER, STATE, "lama"), "layout='lama' is not known.\n  Known: llama, bart"),
    (lambda: qkv.nn.load_checkpoint(LAYER, STATE, "llama", prefix="a."), "no name of the checkpoint begins with 'a.'"),
    (lambda: qkv.nn.load_checkpoint(LAYER, STATE, "gpt2"), "layout 'gpt2' needs c_attn.weight, which the checkpoint"),
    (
        lambda: qkv.nn.load_checkpoint(LAYER, {**STATE, "g": BIAS}, "llama"),
        "layout 'llama' has no place for g.\n  Give the prefix",
    ),
    (
        lambda: qkv.nn.load_checkpoint(LAYER, {**STATE, "o_proj.bias": BIAS}, "llama"),
        "the checkpoint has what the module lacks: o_proj.bias",
    ),
    (
        lambda: qkv.nn.load_checkpoint(qkv.nn.Attention(MODEL, HEADS, 2, qk_norm=True), STATE, "llama"),
        "the checkpoint lacks what the module has: k_norm.weight, q_norm.weight",
    ),
    (
        lambda: qkv.nn.load_checkpoint(qkv.nn.Attention(MODEL, HEADS, 3), STATE, "llama"),
        "k_proj.weight is (16, 48) in the checkpoint and (24, 48) in the module.\n    the module: model=48 h=3 g=2",
    ),
    (
        lambda: qkv.nn.load_checkpoint(qkv.nn.Attention(MODEL, HEADS, 3), FUSED, "phi3"),
        "qkv_proj.weight has 80 rows, and (heads + 2 kv_heads) head_dim = 96",
    ),
    (
        lambda: qkv.nn.load_checkpoint(LAYER, STATE, "llama", pairing="other"),  # type: ignore[arg-type]
        "pairing='other' for a module with position=rope().\n  Known: half, interleaved",
    ),
    (
        lambda: qkv.nn.load_checkpoint(qkv.nn.Attention(MODEL, HEADS, 2), STATE, "llama", pairing="half"),
        "pairing='half' for a module with position=None",
    ),
    (
        lambda: qkv.nn.from_checkpoint(STATE, "llama", heads=7),
        "the projection of layout 'llama' has 48 rows, and heads = 7 does not divide them",
    ),
    (
        lambda: qkv.nn.from_checkpoint({**STATE, "o_proj.bias": BIAS}, "llama", heads=HEADS),
        "the checkpoint has a bias for o_proj and none for q_proj",
    ),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=range(len(MESSAGES)))
def test_messages(call: Callable[[], Any], message: str) -> None:
    before = {name: x.clone() for name, x in STATE.items()}
    with pytest.raises(qkv.QkvError) as caught:
        call()
    assert message in str(caught.value)
    assert all(LAYER.state_dict()[name].equal(x) for name, x in before.items())  # everything or nothing
