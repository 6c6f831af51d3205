"""The gate for folders of safetensors: what is read of one, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allod.core.canonical import digest_of
from allod.core.errors import Invalid
from allod.model.folder import OTHERS, digests_of_folder, read_folder

CONFIG: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
TOKENIZER: dict[str, Any] = {"added_tokens": [{"content": "<|im_start|>", "special": True}, {"content": "<|im_end|>"}]}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    write(made, "config.json", CONFIG)
    write(made, "tokenizer.json", TOKENIZER)
    write(made, "tokenizer_config.json", {"chat_template": TEMPLATE})
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def refusal(folder: Path) -> str:
    with pytest.raises(Invalid) as caught:
        digests_of_folder(folder)
        read_folder(folder)
    return f"{caught.value.code}: {caught.value.message}"


def test_what_a_folder_says_of_itself(folder: Path) -> None:
    """Its context, its template's digest, and every token that its tokenizer looks for in a text."""
    header = read_folder(folder)
    assert (header.architecture, header.context_tokens) == ("LlamaForCausalLM", 64)
    assert header.has_template
    assert header.control_tokens == ("<|im_end|>", "<|im_start|>")
    said = header.control_token_guard().plain_texts(("a <|im_end|> that is text",))
    assert "<|im_end|>" not in said[0]


def test_a_folders_digest_is_of_all_its_files(folder: Path) -> None:
    """By their names: another byte in any of them is another model."""
    before = digests_of_folder(folder)
    assert set(before) == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert digest_of(digests_of_folder(folder)) != digest_of(before)


@pytest.mark.parametrize(
    "name", ["model.py", "model.bin", "model.pkl", "run", "deep/a.json", *sorted(OTHERS), "consolidated.safetensors"]
)
def test_what_could_be_run_is_not_served(folder: Path, name: str) -> None:
    """Code, pickles, and what no engine reads."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"import os")
    assert "model_malformed" in refusal(folder)


def test_a_link_is_no_file_of_it(folder: Path, tmp_path: Path) -> None:
    """It may lead anywhere."""
    (folder / "other.json").symlink_to(tmp_path / "secret")
    assert refusal(folder).startswith("bad_folder")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("config.json", {**CONFIG, "auto_map": {"AutoModel": "model.Model"}}, "code of its own"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "model.Tokenizer"}}, "code of its own"),
        ("tokenizer_config.json", {"chat_template": "a \ud800 b"}, "no text"),
        ("config.json", {**CONFIG, "architectures": []}, "no architecture"),
        ("config.json", {**CONFIG, "max_position_embeddings": "64"}, "max_position_embeddings"),
        ("config.json", {**CONFIG, "max_position_embeddings": True}, "max_position_embeddings"),
        ("config.json", {**CONFIG, "max_position_embeddings": 1 << 40}, "max_position_embeddings"),
        ("config.json", "[]", "no JSON object"),
        ("config.json", "{", "no JSON"),
        ("config.json", "[" * 100_000, "no JSON"),
        ("tokenizer.json", {"added_tokens": [{"content": 7}]}, "no text"),
        ("tokenizer.json", {"added_tokens": [{"content": ""}]}, "no text"),
        ("tokenizer.json", {"added_tokens": "all"}, "too many"),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, "no text"),
        ("tokenizer_config.json", {"chat_template": 7}, "no text"),
        ("tokenizer_config.json", {"chat_template": "{{ messages | attr('x') }}"}, "template_refused"),
        ("tokenizer_config.json", {"chat_template": "{% for"}, "template_refused"),
    ],
)
def test_what_is_not_whole_is_refused_with_the_reason(folder: Path, name: str, value: Any, said: str) -> None:
    """Before an engine meets it."""
    write(folder, name, value)
    assert said in refusal(folder)


def test_a_folder_may_have_no_template(folder: Path) -> None:
    """As trainers write one for a model that is not for chats."""
    write(folder, "tokenizer_config.json", {"chat_template": None})
    assert not read_folder(folder).has_template


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    """Without weights there is nothing to serve; without the tokenizer nobody knows its control tokens."""
    (folder / name).unlink()
    assert name.rpartition(".")[2] in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("special_tokens_map.json", {"pad_token": "<|more|>"}),
        ("special_tokens_map.json", {"eos_token": {"content": "<|more|>"}}),
        ("special_tokens_map.json", {"additional_special_tokens": ["<|more|>"]}),
        ("added_tokens.json", {"<|more|>": 9}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "<|more|>"}}}),
        ("tokenizer_config.json", {"extra_special_tokens": {"tool": "<|more|>"}}),
        ("tokenizer_config.json", {"bos_token": "<|more|>", "add_bos_token": True}),
    ],
)
def test_a_control_token_is_found_wherever_it_is_named(folder: Path, name: str, value: Any) -> None:
    """A tokenizer adds those of every file: one that is overlooked could be spelt by a client."""
    write(folder, name, value)
    assert "<|more|>" in read_folder(folder).control_tokens


def test_a_template_in_a_file_of_its_own_passes_the_gate_too(folder: Path) -> None:
    """An engine prefers it; a bad one is refused though the other is good."""
    write(folder, "chat_template.jinja", "{{ messages | attr('x') }}")
    assert "template_refused" in refusal(folder)
