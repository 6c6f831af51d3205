"""The gate for folders of safetensors, as trainers write them: what a folder says of itself, and what may be in it.

Nothing in it is run: no code, no pickle, and a chat template that has passed the same gate as a GGUF file's.
Source: Hugging Face's file layout (`config.json`, `tokenizer.json`, `tokenizer_config.json`, `*.safetensors`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.core.digests import digest_of_bytes
from allod.core.errors import Invalid
from allod.core.files.plain import digests_in, read_plain_file
from allod.model.templates.control_tokens import ControlTokens
from allod.model.templates.gate import MAX_TEMPLATE_BYTES, check_template

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
FLOAT32 = "float32"
TEMPLATE_FILE = "chat_template.jinja"
SUFFIXES = frozenset({".json", ".safetensors", ".jinja", ".txt", ".model", ".md", ".gguf", ".toml"})
NAMES = frozenset({"LICENSE", "NOTICE", ".gitattributes"})
OTHERS = frozenset({"chat_template.json", "processor_config.json", "params.json", "tekken.json"})  # not read
MAX_JSON_BYTES = 64 << 20
MAX_ADDED_TOKENS = 1 << 16
MAX_CONTEXT_TOKENS = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class FolderHeader:
    """What the folder says of itself, as `GgufHeader` says it of a file. `control_tokens` are all tokens that the
    tokenizer looks for in a text before it reads it."""

    architecture: str
    context_tokens: int
    dtype: str  # to compute in: float32 where that is what it was made in, else as the engine chooses (`auto`)
    template_digest: str
    has_template: bool
    control_tokens: tuple[str, ...]
    cuts: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    can_embed: bool = False
    max_token_chars: int | None = None  # nobody knows

    def control_token_guard(self) -> ControlTokens:
        """What keeps texts apart from the control tokens. Raises Invalid where nothing could (`control_tokens`)."""
        return ControlTokens(self.control_tokens, cuts=self.cuts, written=self.written)


def digests_of_folder(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file by its name. Reads all of them.

    Raises Invalid: `bad_folder` for what is no plain file, `model_malformed` for a file that has no business there.
    """
    digests = digests_in(folder)
    for name in digests:
        is_of_a_kind = name in NAMES or (Path(name).suffix in SUFFIXES and "/" not in name)
        if not is_of_a_kind or name in OTHERS or name.startswith("consolidated"):
            raise _refusal(folder, f"{name} is none of a model's files", "only safetensors, JSON and texts are read")
    if not any(name.endswith(".safetensors") for name in digests):
        raise _refusal(folder, "there are no safetensors in it", "weights as pickles (.bin, .pt) are never read")
    return digests


def read_folder(folder: Path) -> FolderHeader:
    """The header of a folder. Raises Invalid (`model_malformed`, `template_refused`) for what is not whole."""
    config = _read(folder, CONFIG)
    architectures, context = config.get("architectures"), config.get("max_position_embeddings")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise _refusal(folder, f"{CONFIG} names no architecture")
    if type(context) is not int or not 2 <= context <= MAX_CONTEXT_TOKENS:
        raise _refusal(folder, f"{CONFIG} says no max_position_embeddings")
    template = ""
    cuts: set[str] = set()
    written: set[str] = set()
    for name, text in _templates(folder):  # the engine may take any of several
        if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            raise _refusal(folder, f"{name} is no text")
        texts = check_template(text, name)
        cuts |= texts.cuts
        written |= texts.written
        template = template or text
    return FolderHeader(
        architecture=architectures[0],
        context_tokens=context,
        dtype=FLOAT32 if FLOAT32 in (config.get("dtype"), config.get("torch_dtype")) else "auto",
        template_digest=digest_of_bytes(template.encode()),
        has_template=bool(template),
        control_tokens=_control_tokens_of(folder),
        cuts=frozenset(cuts),
        written=frozenset(written),
    )


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    """By the order in which an engine looks for one: the file, then the configuration's."""
    if (folder / TEMPLATE_FILE).exists():
        text = read_plain_file(folder / TEMPLATE_FILE, limit_bytes=MAX_TEMPLATE_BYTES)
        yield TEMPLATE_FILE, text.decode(errors="replace")
    said = _read(folder, TOKENIZER_CONFIG).get("chat_template") or []
    several = [{"name": "default", "template": said}] if isinstance(said, str) else said
    if not isinstance(several, list):
        raise _refusal(folder, f"the chat template of {TOKENIZER_CONFIG} is no text")
    for each in several:
        if not (isinstance(each, dict) and isinstance(each.get("template"), str)):
            raise _refusal(folder, f"the chat template of {TOKENIZER_CONFIG} is no text")
        yield f"{TOKENIZER_CONFIG} ({each.get('name')})", each["template"]


def _control_tokens_of(folder: Path) -> tuple[str, ...]:
    """Wherever one may be named: what an engine's tokenizer adds to those of its own file."""
    tokens = [_read(folder, TOKENIZER).get("added_tokens", [])]
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        said = _read(folder, name) if name == TOKENIZER_CONFIG or (folder / name).exists() else {}
        decoder = said.get("added_tokens_decoder", {})
        tokens.append(list(decoder.values()) if isinstance(decoder, dict) else decoder)
        tokens.append([value for key, value in said.items() if key.endswith("_token") and value is not None])
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = said.get(key) or []
            tokens.append(list(more.values()) if isinstance(more, dict) else more)
    if (folder / ADDED_TOKENS).exists():
        tokens.append(list(_read(folder, ADDED_TOKENS)))
    if not all(isinstance(some, list) for some in tokens) or sum(map(len, tokens)) > MAX_ADDED_TOKENS:
        raise _refusal(folder, f"{TOKENIZER} adds too many tokens")
    names = {_name_of(folder, token) for some in tokens for token in some if not isinstance(token, bool)}
    return tuple(sorted(names))


def _name_of(folder: Path, token: Any) -> str:
    name = token.get("content") if isinstance(token, dict) else token
    if not isinstance(name, str) or not name:
        raise _refusal(folder, "a token that its tokenizer adds is no text")
    return name


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        read = json.loads(read_plain_file(folder / name, limit_bytes=MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise _refusal(folder, f"{name} is no JSON") from error
    if not isinstance(read, dict):
        raise _refusal(folder, f"{name} is no JSON object")
    if "auto_map" in read:
        raise _refusal(folder, f"{name} asks for code of its own (auto_map)", "only what engines know is run")
    return read


def _refusal(folder: Path, why: str, hint: str | None = None) -> Invalid:
    return Invalid(f"{folder} is no whole model: {why}", code="model_malformed", hint=hint)
