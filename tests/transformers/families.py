"""Tiny random-weight models, one for each family, built from a configuration alone.

Weights are drawn wide (``initializer_range`` 0.25 and up): with the usual 0.02 the scores of a tiny model are nearly
equal, softmax is nearly uniform, and a missing scale, cap or sink would hide below any bound. Windows and chunks are
shorter than the sequences used here, so that they take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

VOCABULARY = 96
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
EXPERTS = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class Family:
    """How to build one tiny model, and which kind of inputs it reads."""

    name: str
    config: str
    model: str
    settings: dict[str, Any]
    kind: str = "causal"
    about: str = ""
    wide: float = 0.25

    def build(self, implementation: str = "eager") -> Any:
        """The model with wide weights, the same ones each time, in evaluation mode."""
        torch.manual_seed(20240501)
        config = getattr(transformers, self.config)(**self.settings)
        model = getattr(transformers, self.model)(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "norm" not in name:
                    parameter.normal_(0.0, self.wide)
                elif "sink" in name or "bias" in name:
                    parameter.normal_(0.0, 0.5)
        model.set_attn_implementation(implementation)
        return model


CAUSAL = [
    Family("llama", "LlamaConfig", "LlamaForCausalLM", TEXT, about="grouped queries"),
    Family("mistral", "MistralConfig", "MistralForCausalLM", {**TEXT, "sliding_window": 5}, about="sliding window"),
    Family(
        "qwen2",
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {**TEXT, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        about="window on some layers",
    ),
    Family(
        "qwen3",
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {**TEXT, "head_dim": 12},
        about="normed heads, head size not hidden / heads",
    ),
    Family(
        "gemma",
        "GemmaConfig",
        "GemmaForCausalLM",
        {**TEXT, "num_key_value_heads": 1, "head_dim": 16},
        about="multi-query",
    ),
    Family(
        "gemma2",
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**TEXT, "head_dim": 16, "sliding_window": 4, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 20},
        about="soft cap, own scale, alternating window",
    ),
    Family(
        "gemma3",
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**TEXT, "head_dim": 16, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        about="local and global layers",
    ),
    Family(
        "gpt_oss",
        "GptOssConfig",
        "GptOssForCausalLM",
        {
            **TEXT,
            "head_dim": 16,
            "sliding_window": 4,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        about="learned sinks",
    ),
    Family(
        "gpt2",
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "scale_attn_by_inverse_layer_idx": True,
        },
        about="learned positions, scale by layer",
    ),
    Family("gpt_neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", ENCODER, about="partial rotary"),
    Family(
        "gpt_bigcode",
        "GPTBigCodeConfig",
        "GPTBigCodeForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        about="multi-query",
    ),
    Family("phi", "PhiConfig", "PhiForCausalLM", TEXT, about="partial rotary"),
    Family("phi3", "Phi3Config", "Phi3ForCausalLM", {**TEXT, "sliding_window": 6}, about="packed projection, window"),
    Family("olmo2", "Olmo2Config", "Olmo2ForCausalLM", TEXT, about="norms after attention"),
    Family("cohere", "CohereConfig", "CohereForCausalLM", TEXT, about="parallel block, interleaved rotary"),
    Family(
        "cohere2",
        "Cohere2Config",
        "Cohere2ForCausalLM",
        {**TEXT, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        about="window with rotary, full without",
    ),
    Family("starcoder2", "Starcoder2Config", "Starcoder2ForCausalLM", {**TEXT, "sliding_window": 5}, about="window"),
    Family(
        "smollm3",
        "SmolLM3Config",
        "SmolLM3ForCausalLM",
        {**TEXT, "no_rope_layers": [1, 0]},
        about="layers without rotary",
    ),
    Family(
        "mixtral",
        "MixtralConfig",
        "MixtralForCausalLM",
        {**TEXT, "num_local_experts": 4, "sliding_window": 5},
        about="experts",
    ),
    Family("granite", "GraniteConfig", "GraniteForCausalLM", {**TEXT, "attention_multiplier": 0.3}, about="own scale"),
    Family("stablelm", "StableLmConfig", "StableLmForCausalLM", TEXT, about="partial rotary"),
    Family(
        "opt",
        "OPTConfig",
        "OPTForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        about="learned positions",
    ),
    Family(
        "deepseek_v2",
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        {**TEXT, **LATENT, **EXPERTS},
        about="latent attention, values narrower than keys",
    ),
    Family(
        "deepseek_v3",
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {**TEXT, **LATENT, **EXPERTS},
        about="latent attention",
    ),
    Family("diffllama", "DiffLlamaConfig", "DiffLlamaForCausalLM", TEXT, about="differential"),
    Family(
        "llama4",
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {
            **TEXT,
            "head_dim": 16,
            "attention_chunk_size": 4,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "no_rope_layers": [1, 0],
            "layer_types": ["chunked_attention", "full_attention"],
        },
        about="chunked",
    ),
    Family("doge", "DogeConfig", "DogeForCausalLM", {**TEXT, "keep_window_size": 6}, about="float mask per head"),
    Family("glm4", "Glm4Config", "Glm4ForCausalLM", {**TEXT, "head_dim": 16}, about="partial interleaved rotary"),
    Family(
        "exaone4",
        "Exaone4Config",
        "Exaone4ForCausalLM",
        {**TEXT, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        about="window with rotary, full without",
    ),
    Family(
        "modernbert_decoder",
        "ModernBertDecoderConfig",
        "ModernBertDecoderForCausalLM",
        {**ENCODER, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
        about="window argument",
    ),
]

BERT = {**ENCODER, "type_vocab_size": 2}
SPEECH = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
TOWERS = {
    "text_config": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "vision_config": VISION,
}

ENCODERS = [
    Family("bert", "BertConfig", "BertModel", BERT, "encoder"),
    Family("roberta", "RobertaConfig", "RobertaModel", BERT, "encoder"),
    Family("electra", "ElectraConfig", "ElectraModel", {**BERT, "embedding_size": 16}, "encoder"),
    Family("albert", "AlbertConfig", "AlbertModel", {**BERT, "embedding_size": 16}, "encoder", "one layer, used twice"),
    Family(
        "distilbert",
        "DistilBertConfig",
        "DistilBertModel",
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
        "encoder",
    ),
    Family(
        "modernbert",
        "ModernBertConfig",
        "ModernBertModel",
        {**ENCODER, "local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
        "encoder",
        "window to both sides",
    ),
    Family(
        "t5_encoder",
        "T5Config",
        "T5EncoderModel",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "eos_token_id": 2,
        },
        "encoder",
        "relative position bias, no scale",
    ),
    Family("clip_text", "CLIPTextConfig", "CLIPTextModel", TOWERS["text_config"], "encoder", "causal text tower"),
    Family("siglip_text", "SiglipTextConfig", "SiglipTextModel", TOWERS["text_config"], "encoder"),
]
SEQ2SEQS = [
    Family("bart", "BartConfig", "BartForConditionalGeneration", SEQ2SEQ, "seq2seq"),
    Family("mbart", "MBartConfig", "MBartForConditionalGeneration", SEQ2SEQ, "seq2seq"),
    Family("pegasus", "PegasusConfig", "PegasusForConditionalGeneration", SEQ2SEQ, "seq2seq"),
    Family("marian", "MarianConfig", "MarianMTModel", SEQ2SEQ, "seq2seq"),
    Family(
        "t5",
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 0,
        },
        "seq2seq",
        "relative position bias",
    ),
    Family(
        "umt5",
        "UMT5Config",
        "UMT5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 0,
        },
        "seq2seq",
        "a bias table in every layer",
    ),
]
OTHERS = [
    Family(
        "whisper",
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            **SEQ2SEQ,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 64,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        "speech2text",
    ),
    Family("wav2vec2", "Wav2Vec2Config", "Wav2Vec2Model", SPEECH, "speech", "padding from sample counts"),
    Family("vit", "ViTConfig", "ViTModel", VISION, "vision"),
    Family("dinov2", "Dinov2Config", "Dinov2Model", VISION, "vision"),
    Family("siglip_vision", "SiglipVisionConfig", "SiglipVisionModel", VISION, "vision", "pooled by attention"),
    Family("clip_vision", "CLIPVisionConfig", "CLIPVisionModel", VISION, "vision"),
    Family(
        "beit",
        "BeitConfig",
        "BeitModel",
        {**VISION, "use_relative_position_bias": True},
        "vision",
        "learned bias given as a mask",
    ),
    Family("clip", "CLIPConfig", "CLIPModel", TOWERS, "clip", "two towers"),
]

DOES_NOT_ROUTE = [
    Family(
        "bloom",
        "BloomConfig",
        "BloomForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "n_layer": 2,
            "n_head": 4,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family("falcon", "FalconConfig", "FalconForCausalLM", {**ENCODER, "intermediate_size": None}),
    Family(
        "mpt",
        "MptConfig",
        "MptForCausalLM",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    Family(
        "gptj",
        "GPTJConfig",
        "GPTJForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family(
        "xglm",
        "XGLMConfig",
        "XGLMForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family(
        "mamba",
        "MambaConfig",
        "MambaForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "state_size": 4,
            "num_hidden_layers": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
]
