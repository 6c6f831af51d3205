"""Models of random weights, small as can be, whose vocabularies and control tokens are those of other families."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy

from allod.model.network.tokenizer_files import byte_symbols

WIDTH = 32
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['role'] + ':\n' + (m['content'] | trim) + '\n' }}{% endfor %}"


@dataclass(frozen=True)
class Vocabulary:
    """`control` are the names of control tokens, `user` those of user-defined ones that are marks, `signs` of others.

    `split` is how a byte-level vocabulary cuts text into words, and empty for SentencePiece.
    """

    control: Sequence[str]
    user: Sequence[str] = ()
    signs: Sequence[str] = ()
    split: str = ""
    template: str = PLAIN
    merges: Sequence[tuple[str, str]] = ()

    @property
    def names(self) -> list[str]:
        """Of all that only the template may write; they have the first numbers."""
        return [*self.control, *self.user]


VOCABULARIES = {
    "SentencePiece": Vocabulary(["<s>", "</s>", "▁<EOT>", "▁STOP", "▁two▁words", "[x▁y]"]),
    "Gemma": Vocabulary(
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<mask>"],
        user=["<table>", "<unused0>", "[toxicity=0]"],
        signs=["\n\n", "  ", "    "],
        template="{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim "
        "+ '<end_of_turn>\n' }}{% endfor %}",
    ),
    "Mistral": Vocabulary(
        ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"],
        template="<s>{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}",
    ),
    "Llama 3": Vocabulary(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"],
        split="llama-bpe",
        template="{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    ),
    "Qwen": Vocabulary(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"],
        user=["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"],
        split="qwen2",
        template=CHATML.replace("m['content']", "m['content'].split('</think>')[-1].lstrip('\n')"),
    ),
    "DeepSeek": Vocabulary(
        ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"],
        user=["<｜User｜>", "<｜Assistant｜>"],
        split="llama-bpe",
        template="{% for m in messages %}{{ '<｜User｜>' + m['content'] + '<｜Assistant｜>' }}{% endfor %}",
    ),
    "white space in names": Vocabulary(["\n<|end|>", " [STOP]", "sys:\nx:", "<|a|> ", "<| b |>", "\t\tTAB"]),
    "symbols of bytes": Vocabulary(
        ["<|im_end|>", "ĠSTOP", "!!ĊĊ", "Ã©tÃ©", "ĠABC", "Ċ<|x|>"],
        split="llama-bpe",
        merges=[("A", "B"), ("AB", "C"), ("Ġ", "ABC")],
    ),
    "names in names": Vocabulary(
        [
            *(
                "<|a|>",
                "<<|a|>",
                "<|a|>>b",
                "|>>",
                "a|><|",
                "<|a",
                "|a|",
                "<|aa|>",
                "<|a|a|>",
                "|a|a|",
                "a|a",
                "<<",
                ">>",
            ),
            *("<<<|", "|>|>|>", "<|<|", "|><", "><|", "aaaa", "abab", "baba", "<|a|>ba"),
        ],
        split="gpt-2",
    ),
    "letters of many kinds": Vocabulary(
        ["<|END|>", "<|End|>", "«fin»", "<|É|>", "＜s＞", "<|ſ|>", "<|İ|>", "<|日本|>", "<e\u0301>"],
        split="llama-bpe",
        template="{% for m in messages %}{{ m['content'] | upper }} {{ m['content'] | lower }} "
        "{{ m['content'] | title }}\n{% endfor %}",
    ),
    "a template that begins names": Vocabulary(
        ["<user>", "<|im_end|>", "[[x]]", "Q:ab"],
        split="gpt-2",
        template="{% for m in messages %}{% set said = m['content'] %}"
        "{{ '<' + said + '>[[' + said + ']]Q:' + said }}\n{% endfor %}",
    ),
}


def write_model(path: Path, vocabulary: Vocabulary) -> Path:
    """A model of one layer with this vocabulary, and so little besides that every text can be read."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_shape(writer)
    (_add_byte_level if vocabulary.split else _add_sentencepiece)(writer, vocabulary)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(vocabulary.template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_sentencepiece(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Bytes to fall back on, and every beginning of a name, so that pieces of a text may be merged to it."""
    kinds = dict.fromkeys(vocabulary.control, gguf.TokenType.CONTROL)
    kinds |= dict.fromkeys([*vocabulary.user, *vocabulary.signs], gguf.TokenType.USER_DEFINED)
    kinds["<unk>"] = gguf.TokenType.UNKNOWN
    kinds |= {f"<0x{byte:02X}>": gguf.TokenType.BYTE for byte in range(256)}
    pieces = [name[:end].replace(" ", "▁") for name in vocabulary.names for end in range(1, len(name))]
    letters = [letter for name in vocabulary.names for letter in name]
    for piece in (*pieces, *letters, "▁", *map(chr, range(33, 127))):
        kinds.setdefault(piece, gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_unk_token_id(list(kinds).index("<unk>"))
    _add_tokens(writer, kinds)
    writer.add_token_scores([float(len(token)) for token in kinds])


def _add_byte_level(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    merges = vocabulary.merges or [("t", "h")]
    kinds = dict.fromkeys(vocabulary.control, gguf.TokenType.CONTROL)
    kinds |= dict.fromkeys([*vocabulary.user, *vocabulary.signs], gguf.TokenType.USER_DEFINED)
    for piece in (*byte_symbols(), *(left + right for left, right in merges)):
        kinds.setdefault(piece, gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    _add_tokens(writer, kinds)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])


def _add_tokens(writer: gguf.GGUFWriter, kinds: dict[str, gguf.TokenType]) -> None:
    writer.add_vocab_size(len(kinds))
    writer.add_token_list(list(kinds))
    writer.add_token_types(list(kinds.values()))
    draw = numpy.random.default_rng(1)
    for name, shape in _shapes(len(kinds)):
        writer.add_tensor(name, draw.normal(size=shape).astype(numpy.float32))


def _shapes(num_tokens: int) -> Iterable[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (num_tokens, WIDTH)
    yield "output_norm.weight", (WIDTH,)
    yield "output.weight", (num_tokens, WIDTH)
    for name in ("attn_norm", "ffn_norm"):
        yield f"blk.0.{name}.weight", (WIDTH,)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_gate", "ffn_down"):
        yield f"blk.0.{name}.weight", (WIDTH, WIDTH)


def spellings(name: str) -> list[str]:
    """How a text might say it: as it is, with spaces, without those at its ends, with bytes for their symbols."""
    decoded = name.replace("Ġ", " ").replace("Ċ", "\n").replace("Ã©", "é")
    said = {name, name.replace("▁", " "), name.replace(" ", "▁"), decoded}
    return sorted({form for each in said for form in (each, each.strip(), f" {each}", each.lower(), each.upper())})


def hostile(draw: random.Random, vocabulary: Vocabulary) -> str:
    """Pieces of names, whole ones among them, with what a template cuts, trims or writes between them."""
    pieces = []
    for _ in range(draw.randint(1, 6)):
        said = draw.choice(spellings(draw.choice(vocabulary.names)))
        begin, end = sorted((draw.randint(0, len(said)), draw.randint(0, len(said))))
        fillers = [" ", "\n", "▁", "x", "<", "|", ">", "</think>", "user", "\u2060", "\u0301"]
        pieces.append(draw.choice([said, said, said, said[begin:end], said[:end], said[begin:], draw.choice(fillers)]))
    return "".join(pieces)
