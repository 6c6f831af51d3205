"""The gate for GGUF files: a whole file is read, everything else is Invalid, and nothing takes it out of its bounds."""

from __future__ import annotations

import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import gguf
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.model.gguf import header as module
from allod.model.gguf import metadata
from allod.model.gguf.header import MAX_KEYS, MAX_TENSORS, GgufHeader, read_header
from allod.model.gguf.metadata import MAX_ITEMS

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
CHANGES_A_FILE = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_gguf(path: Path, change: Callable[[gguf.GGUFWriter], None] = lambda writer: None) -> bytes:
    """A whole file with two tensors, as ggml-org's own package writes it, after `change`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_context_length(512)
    writer.add_chat_template(TEMPLATE)
    writer.add_token_list(["<s>", "Ŵy", "a"])
    writer.add_token_types([3, 1, 1])
    writer.add_token_scores([0.0, -1.0, -2.5])
    change(writer)
    writer.add_tensor("token_embd.weight", numpy.arange(96, dtype=numpy.float32).reshape(3, 32))
    writer.add_tensor("output.weight", numpy.zeros((2, 32), dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refused(path: Path, data: bytes) -> Invalid:
    path.write_bytes(data)
    with pytest.raises(Invalid) as caught:
        read_header(path)
    return caught.value


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array_of(kind: int, length: int) -> bytes:
    return struct.pack("<IQ", kind, length)


ARCHITECTURE = pair("general.architecture", 8, text("llama"))
CONTEXT = pair("llama.context_length", 4, struct.pack("<I", 512))


def written_by_hand(*pairs: bytes, tensors: bytes | None = None, num_tensors: int = 1, version: int = 3) -> bytes:
    """A file of exactly these parts, padded to its alignment; with one small tensor where none is given."""
    described = tensor("t", (8,)) if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, len(pairs)) + b"".join(pairs) + described
    return head + bytes(-len(head) % 32) + (bytes(32) if tensors is None else b"")


def tensor(name: str, dimensions: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dimensions)
    return text(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


def test_a_whole_file_is_read(file: Path, whole: bytes) -> None:
    """What ggml-org's writer wrote is what is found: architecture, context, parameters, the template's digest."""
    file.write_bytes(whole)
    assert read_header(file) == GgufHeader(
        architecture="llama",
        name="small",
        context_tokens=512,
        num_parameters=160,
        template_digest="sha256:" + sha256(TEMPLATE.encode()).hexdigest(),
        has_template=True,
        pooling=0,
        control_tokens=("<s>",),
        written=("content",),
    )


def test_the_files_by_hand_are_whole(file: Path) -> None:
    """The builder that the tests below break files with makes ones that pass."""
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT))
    header = read_header(file)
    assert (header.num_parameters, header.has_template, header.can_embed) == (8, False, False)
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, version=2))
    assert read_header(file) == header


def test_a_model_for_embeddings_says_how_to_pool(file: Path) -> None:
    """`<architecture>.pooling_type` other than none means vectors, not chats."""
    small_gguf(file, lambda writer: writer.add_pooling_type(gguf.PoolingType.MEAN))
    assert read_header(file).can_embed


@pytest.mark.slow
def test_a_real_model_is_read(weights: Path) -> None:
    """The smallest model of the catalogue: 135 million parameters, a chat template, 8192 tokens of context."""
    header = read_header(weights)
    assert header.architecture == "llama"
    assert 1.2e8 < header.num_parameters < 1.8e8
    assert header.has_template
    assert header.context_tokens == 8192


@pytest.mark.slow
def test_a_real_model_cut_short_is_refused(weights: Path, file: Path) -> None:
    """A download that stopped a little early is not run."""
    with weights.open("rb") as source:
        assert refused(file, source.read(weights.stat().st_size - 4096)).code == "model_malformed"


def test_a_file_cut_anywhere_is_refused(file: Path, whole: bytes) -> None:
    """Every length at which a header or a tensor of the file is missing a block's worth."""
    for length in range(0, len(whole) - 32, 7):
        assert refused(file, whole[:length]).code == "model_malformed"


@pytest.mark.parametrize("missing", [1, 8, 31])
def test_a_last_tensor_that_lacks_a_few_bytes_is_refused(file: Path, whole: bytes, missing: int) -> None:
    """Less than a block of padding, and still a tensor's own bytes."""
    assert refused(file, whole[:-missing]).code == "model_malformed"


def test_padding_behind_the_last_tensor_may_be_there_or_not(file: Path) -> None:
    """Writers differ; 16 bytes of values are whole with and without the 16 that pad them, and with no more."""
    data = written_by_hand(ARCHITECTURE, CONTEXT, tensors=tensor("t", (4,)), num_tensors=1)
    for length in (16, 32):
        file.write_bytes(data + bytes(length))
        assert read_header(file).num_parameters == 4
    for length in (15, 33):
        assert refused(file, data + bytes(length)).code == "model_malformed"


@pytest.mark.parametrize("extra", [1, 31, 32, 33, 4096, 1 << 20])
def test_a_file_with_something_behind_it_is_refused(file: Path, whole: bytes, extra: int) -> None:
    """Trailing bytes belong to no tensor, and nobody knows what they are."""
    assert refused(file, whole + bytes(extra)).code == "model_malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGU",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x04\x95" + bytes(100),
        b"FUGG" + bytes(100),
        b"ggjt" + bytes(100),
        b'{"format":"safetensors"}' + bytes(100),
    ],
    ids=["empty", "magic only", "cut magic", "zip", "pickle", "big-endian", "ggjt", "json"],
)
def test_a_foreign_file_is_refused(file: Path, data: bytes) -> None:
    """An allowlist of one format: archives, pickles and older formats are not even looked into."""
    error = refused(file, data)
    assert error.code == "model_malformed"
    assert str(file) in error.message


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_an_unknown_version_is_refused(file: Path, version: int) -> None:
    """A format that this has not understood, the big-endian one included, is not guessed at."""
    assert "version" in refused(file, written_by_hand(ARCHITECTURE, CONTEXT, version=version)).message


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 63),
        written_by_hand(pair("a", 8, struct.pack("<Q", (1 << 64) - 1))),
        written_by_hand(pair("a", 9, struct.pack("<IQ", 0, 1 << 62))),
        written_by_hand(pair("a", 9, array_of(8, 2) + struct.pack("<Q", (1 << 64) - 1))),
        written_by_hand(pair("a", 9, struct.pack("<IQ", 9, 1 << 22) + struct.pack("<IQ", 9, 1 << 22) * 3)),
    ],
    ids=["tensors", "keys", "key's name", "string", "array", "text in an array", "arrays of arrays"],
)
def test_a_huge_count_costs_nothing(file: Path, data: bytes) -> None:
    """A count that the file cannot hold is refused before memory is taken for it."""
    tracemalloc.start()
    try:
        assert refused(file, data).code == "model_malformed"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_arrays_hold_is_not_kept(file: Path) -> None:
    """A sparse file of a few blocks on the disk claims eight million numbers and texts: passed over, not taken in."""
    numbers = pair("a", 9, array_of(11, MAX_ITEMS // 2))  # 32 MiB that nobody wrote
    texts = pair("b", 9, array_of(8, 50_000))
    with file.open("wb") as sparse:
        sparse.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 4) + ARCHITECTURE + CONTEXT + numbers)
        sparse.seek(4 * MAX_ITEMS, 1)
        sparse.write(texts)
        sparse.truncate(sparse.tell() + 8 * 50_000)
        sparse.seek(0, 2)
        sparse.write(tensor("t", (8,)))
        sparse.truncate(-(-sparse.seek(0, 2) // 32) * 32 + 32)
    assert file.stat().st_blocks * 512 < 1 << 20
    tracemalloc.start()
    try:
        assert read_header(file).architecture == "llama"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_items_of_all_arrays_are_bounded_together(file: Path) -> None:
    """As many as all of them may have, and one more."""
    half = MAX_ITEMS // 2
    arrays = [pair("ab"[number], 9, array_of(0, half) + bytes(half)) for number in range(2)]
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, *arrays))
    assert read_header(file).architecture == "llama"
    one_more = pair("c", 9, array_of(0, 1) + bytes(1))
    error = refused(file, written_by_hand(ARCHITECTURE, CONTEXT, *arrays, one_more))
    assert f"more than {MAX_ITEMS} items" in error.message


@pytest.mark.parametrize("what", ["tensors", "keys"])
def test_tensors_and_keys_are_bounded_in_number(file: Path, what: str) -> None:
    """Said before the first of them is looked at."""
    num_tensors, num_keys = (MAX_TENSORS + 1, 0) if what == "tensors" else (1, MAX_KEYS + 1)
    error = refused(file, b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys))
    assert f"{num_tensors if what == 'tensors' else num_keys} {what}, more than" in error.message


def test_an_array_that_ends_beyond_the_file_is_refused(file: Path) -> None:
    """Passing over it is no way past the end."""
    value = array_of(0, 1000) + bytes(10)
    assert (
        "ends within its header" in refused(file, written_by_hand(ARCHITECTURE, CONTEXT, pair("a", 9, value))).message
    )


def test_arrays_in_arrays_are_bounded(file: Path) -> None:
    """Nesting is no way to exhaust the reader's stack."""
    value = struct.pack("<IQ", 9, 1) * 10_000
    assert refused(file, written_by_hand(ARCHITECTURE, CONTEXT, pair("a", 9, value))).code == "model_malformed"


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [CONTEXT],
        [ARCHITECTURE],
        [pair("general.architecture", 4, struct.pack("<I", 1)), CONTEXT],
        [ARCHITECTURE, pair("llama.context_length", 8, text("512"))],
        [ARCHITECTURE, pair("llama.context_length", 4, struct.pack("<I", 0))],
        [ARCHITECTURE, pair("llama.context_length", 5, struct.pack("<i", -1))],
        [ARCHITECTURE, pair("llama.context_length", 6, struct.pack("<f", 512.0))],
        [ARCHITECTURE, CONTEXT, pair("tokenizer.chat_template", 4, struct.pack("<I", 1))],
        [ARCHITECTURE, CONTEXT, pair("llama.pooling_type", 8, text("mean"))],
        [ARCHITECTURE, CONTEXT, pair("llama.pooling_type", 6, struct.pack("<f", float("nan")))],
        [ARCHITECTURE, CONTEXT, pair("llama.pooling_type", 6, struct.pack("<f", float("inf")))],
        [ARCHITECTURE, CONTEXT, pair("llama.pooling_type", 9, struct.pack("<IQ", 0, 0))],
        [ARCHITECTURE, CONTEXT, CONTEXT],
        [ARCHITECTURE, CONTEXT, pair("a", 13, bytes(8))],
        [ARCHITECTURE, CONTEXT, pair("general.alignment", 4, struct.pack("<I", 0))],
        [ARCHITECTURE, CONTEXT, pair("general.alignment", 4, struct.pack("<I", 33))],
        [ARCHITECTURE, CONTEXT, pair("general.alignment", 4, struct.pack("<I", 1 << 31))],
        [ARCHITECTURE, CONTEXT, pair("general.alignment", 8, text("32"))],
    ],
)
def test_metadata_must_say_what_the_engine_needs(file: Path, pairs: list[bytes]) -> None:
    """Missing, repeated, mistyped and impossible values are refused here, not found out by the engine."""
    assert refused(file, written_by_hand(*pairs)).code == "model_malformed"


@pytest.mark.parametrize(
    "described",
    [
        tensor("t", (8,), offset=32),
        tensor("t", (8,), kind=4),
        tensor("t", (8,), kind=99),
        tensor("t", ()),
        tensor("t", (1, 1, 1, 1, 1)),
        tensor("t", (1 << 63, 1 << 63, 1 << 63, 1 << 63)),
        tensor("t", (1 << 40,)),
    ],
    ids=["a gap", "removed type", "unknown type", "no dimension", "five", "overflow", "too large"],
)
def test_tensors_must_lie_in_the_file(file: Path, described: bytes) -> None:
    """Offsets without gaps or overlaps, known types, whole blocks, and every byte present."""
    data = written_by_hand(ARCHITECTURE, CONTEXT, tensors=described, num_tensors=1) + bytes(32)
    assert refused(file, data).code == "model_malformed"


def test_a_tensor_is_whole_blocks(file: Path) -> None:
    """33 values of a type that packs 32 to a block are no tensor, though the bytes of one block are there."""
    for values, is_whole in ((32, True), (33, False)):
        described = tensor("t", (values,), kind=8)
        data = written_by_hand(ARCHITECTURE, CONTEXT, tensors=described, num_tensors=1) + bytes(64)
        if is_whole:
            file.write_bytes(data)
            assert read_header(file).num_parameters == 32
        else:
            assert "blocks" in refused(file, data).message


def test_two_tensors_cannot_share_bytes(file: Path) -> None:
    """The second begins where the first ends, and nowhere else."""
    described = tensor("a", (8,)) + tensor("b", (8,))
    data = written_by_hand(ARCHITECTURE, CONTEXT, tensors=described, num_tensors=2) + bytes(64)
    assert "begins at 0" in refused(file, data).message


def test_two_tensors_cannot_share_a_name(file: Path) -> None:
    """Which of them an engine would take is not left to it."""
    described = tensor("a", (8,)) + tensor("a", (8,), offset=32)
    data = written_by_hand(ARCHITECTURE, CONTEXT, tensors=described, num_tensors=2) + bytes(64)
    assert "tensor a twice" in refused(file, data).message


def test_what_cannot_be_read_is_invalid(tmp_path: Path) -> None:
    """No such file, and a directory."""
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(Invalid) as caught:
            read_header(path)
        assert caught.value.code == "model_unreadable"


def read_or_refuse(path: Path, data: bytes) -> None:
    """Whatever the bytes are: a header or Invalid, within a second and 64 MiB."""
    path.write_bytes(data)
    tracemalloc.start()
    begin = time.process_time()
    try:
        with suppress(Invalid):
            read_header(path)
    finally:
        spent_s, peak_bytes = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert spent_s < 1
    assert peak_bytes < 64 << 20


@CHANGES_A_FILE
@given(data=st.data())
def test_no_mutation_gets_past_invalid(file: Path, whole: bytes, data: st.DataObject) -> None:
    """Bytes overwritten at random places of a good file never raise anything else, nor cost much."""
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        changed[at : at + len(piece)] = piece
    read_or_refuse(file, bytes(changed[: len(whole)]))


KEYS = ["general.architecture", "general.name", "general.alignment", "llama.context_length", "tokenizer.chat_template"]
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # kind of value → its bytes


def scalars(kind: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=SCALARS[kind], max_size=SCALARS[kind])


def arrays(inner: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[tuple[int, bytes]]:
    """Arrays of one item, repeated: what its kind is, once, then how many."""

    def array(item: tuple[int, bytes], length: int) -> tuple[int, bytes]:
        return 9, struct.pack("<IQ", item[0], length) + item[1] * length

    return st.builds(array, inner, st.integers(0, 3))


typed_values = st.recursive(
    st.sampled_from(sorted(SCALARS)).flatmap(lambda kind: st.tuples(st.just(kind), scalars(kind)))
    | st.tuples(st.just(8), (st.binary(max_size=20) | st.text(max_size=20)).map(text)),
    arrays,
    max_leaves=4,
)
pairs_of_any_type = st.dictionaries(st.sampled_from(KEYS), typed_values, max_size=len(KEYS)).map(
    lambda values: [pair(key, kind, value) for key, (kind, value) in values.items()]
)


@CHANGES_A_FILE
@given(pairs=pairs_of_any_type, is_named=st.booleans())
def test_no_metadata_gets_past_invalid(file: Path, pairs: list[bytes], is_named: bool) -> None:
    """Keys that mean something, with well-formed values of every type, are read or refused."""
    read_or_refuse(file, written_by_hand(*([ARCHITECTURE, CONTEXT] if is_named else []), *pairs))


def u32(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def vocabulary(*tokens: bytes, types: tuple[int, ...] | None = None) -> list[bytes]:
    """The keys of a vocabulary; every token is an ordinary one unless `types` says otherwise."""
    kinds = types or (1,) * len(tokens)
    return [
        pair("tokenizer.ggml.tokens", 9, array_of(8, len(tokens)) + b"".join(map(text, tokens))),
        pair("tokenizer.ggml.token_type", 9, array_of(5, len(kinds)) + struct.pack(f"<{len(kinds)}i", *kinds)),
    ]


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([u32("general.alignment", 24)], "power of two"),
        ([u32("general.alignment", 4)], "power of two"),
        ([u32("general.alignment", 1 << 17)], "power of two"),
        ([pair("general.alignment", 10, struct.pack("<Q", 32))], "general.alignment is no uint32"),
        ([pair("general.alignment", 7, b"\x01")], "general.alignment is no uint32"),
        ([pair("split.count", 2, struct.pack("<H", 2))], "merge the parts"),
        ([pair("split.count", 8, text("2"))], "merge the parts"),
        ([pair("split.count", 5, struct.pack("<i", -1))], "merge the parts"),
        ([pair("", 4, bytes(4))], "a key's name has 0 bytes"),
        ([pair("k" * 65536, 4, bytes(4))], "a key's name has 65536 bytes"),
        ([pair("a\0b", 4, bytes(4))], "no plain text"),
        ([text(b"a\xff") + struct.pack("<II", 4, 0)], "no plain text"),
        ([pair("a", 9, array_of(9, 1) + array_of(0, 0))], "an array of arrays"),
        ([pair("a", 9, array_of(99, 0))], "unknown type 99"),
        (vocabulary(b"<s>", b"a", types=(3,)), "token_type has 1 items"),
        (vocabulary(b"<s>", b"a")[1:], "no tokenizer.ggml.tokens"),
        ([pair("tokenizer.ggml.scores", 9, array_of(6, 1) + bytes(4))], "no tokenizer.ggml.tokens"),
        ([pair("tokenizer.ggml.tokens", 8, text("a"))], "tokens is of the wrong type"),
        ([*vocabulary(b"a")[:1], u32("tokenizer.ggml.token_type", 3)], "token_type is of the wrong type"),
        (
            [*vocabulary(b"a")[:1], pair("tokenizer.ggml.scores", 9, array_of(12, 1) + bytes(8))],
            "scores is of the wrong",
        ),
        ([pair("tokenizer.ggml.tokens", 9, array_of(0, 1) + b"a")], "tokens is of the wrong type"),
        ([*vocabulary(b"a")[:1], pair("tokenizer.ggml.token_type", 9, array_of(1, 1) + b"\x03")], "of the wrong type"),
        ([*vocabulary(b"a")[:1], pair("tokenizer.ggml.scores", 9, array_of(6, 2) + bytes(8))], "scores has 2 items"),
        (vocabulary(b"t" * 5000), "a text of 5000 bytes"),
        (vocabulary(b"x", types=(3,)), "no text could be told from the control token 0"),
        (vocabulary(b"", types=(3,)), "no text could be told from the control token 0"),
        (vocabulary("<\u2060>".encode(), types=(3,)), "no text could be told from the control token 0"),
        (vocabulary(b"<\xff>", types=(3,)), "no UTF-8"),
        ([pair("llama.pooling_type", 7, b"\x01")], "pooling type is of the wrong type"),
        ([pair("tokenizer.chat_template", 8, text("a\n{% include 'x' %}"))], "line 2: include is not allowed"),
        ([pair("tokenizer.chat_template.tool_use", 8, text("{{ x.__class__ }}"))], "tool_use) is refused at line 1"),
    ],
)
def test_what_the_engine_could_not_use_is_refused_with_the_reason(file: Path, pairs: list[bytes], reason: str) -> None:
    """Each names the key, or what is wrong with it."""
    assert reason in refused(file, written_by_hand(ARCHITECTURE, CONTEXT, *pairs)).message


@pytest.mark.parametrize(
    "named", [[], [u32("general.architecture", 1)], [pair("general.architecture", 8, text(""))]], ids=len
)
def test_a_model_names_its_architecture(file: Path, named: list[bytes]) -> None:
    """Every other key of it is found by that name."""
    pairs = [u32(f"{name}.context_length", 512) for name in ("None", "1", "")]
    assert "it names no general.architecture" in refused(file, written_by_hand(*named, *pairs)).message


@pytest.mark.parametrize(
    ("value", "reason"),
    [((7, b"\x01"), "True"), ((10, struct.pack("<Q", 1 << 63)), str(1 << 63)), ((11, b"\xff" * 8), "-1")],
)
def test_a_context_is_a_number_of_tokens(file: Path, value: tuple[int, bytes], reason: str) -> None:
    """No bool, nothing negative, nothing beyond what an engine counts."""
    error = refused(file, written_by_hand(ARCHITECTURE, pair("llama.context_length", *value)))
    assert f"llama.context_length is {reason}" in error.message


@pytest.mark.parametrize(
    ("key", "kind", "value", "reason"),
    [
        ("block_count", 4, struct.pack("<I", 0), "block_count is 0"),
        ("block_count", 4, struct.pack("<I", 513), "block_count is 513"),
        ("block_count", 6, struct.pack("<f", 2.0), "block_count is 2.0"),
        ("block_count", 7, b"\x01", "block_count is True"),
        ("attention.layer_norm_rms_epsilon", 6, struct.pack("<f", -1e-5), "epsilon is -"),
        ("attention.layer_norm_epsilon", 6, struct.pack("<f", float("nan")), "epsilon is nan"),
        ("attention.layer_norm_rms_epsilon", 6, struct.pack("<f", float("inf")), "epsilon is inf"),
        ("attention.layer_norm_rms_epsilon", 4, struct.pack("<I", 1), "epsilon is 1,"),
        ("attention.group_norm_epsilon", 6, struct.pack("<f", -1.0), "epsilon is -1.0"),
    ],
)
def test_what_would_end_the_engine_is_refused(file: Path, key: str, kind: int, value: bytes, reason: str) -> None:
    """It does not refuse these itself: it asserts, and the process is gone."""
    error = refused(file, written_by_hand(ARCHITECTURE, CONTEXT, pair(f"llama.{key}", kind, value)))
    assert reason in error.message


def test_a_context_of_one_token_is_refused(file: Path) -> None:
    """The engine warms up with two, and ends."""
    error = refused(file, written_by_hand(ARCHITECTURE, u32("llama.context_length", 1)))
    assert "llama.context_length is 1" in error.message


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (tensor("t", (0,)), "tensor t has a dimension of 0"),
        (tensor("t", (8, 0, 4)), "tensor t has a dimension of 0"),
        (tensor("t", (16, 2), kind=8), "rows of 16 values"),
        (tensor("", (8,)), "a tensor's name has 0 bytes"),
        (tensor("t" * 64, (8,)), "a tensor's name has 64 bytes"),
        (tensor("token_embd.weight", (8,)), "2 items, and token_embd.weight 1 rows"),
    ],
)
def test_tensors_are_what_the_engine_takes(file: Path, described: bytes, reason: str) -> None:
    """Sizes of one at least, rows of whole blocks, names that fit, and a row for every token."""
    data = written_by_hand(ARCHITECTURE, CONTEXT, *vocabulary(b"a", b"b"), tensors=described) + bytes(32)
    assert reason in refused(file, data).message


def test_a_model_without_tensors_is_refused(file: Path) -> None:
    """There is nothing to compute with."""
    assert "no tensors" in refused(file, written_by_hand(ARCHITECTURE, CONTEXT, tensors=b"", num_tensors=0)).message


def test_another_beginning_is_said(file: Path) -> None:
    """A whole file of another name is not read on."""
    assert "does not begin with GGUF" in refused(file, b"GGML" + written_by_hand(ARCHITECTURE, CONTEXT)[4:]).message


def test_a_big_endian_file_is_called_that(file: Path) -> None:
    """Rather than version 50331648."""
    assert "big-endian" in refused(file, written_by_hand(version=0x03000000)).message


def test_millions_of_empty_arrays_are_refused_at_the_first(file: Path) -> None:
    """Nothing reads arrays of arrays: forty megabytes of them cost what one does."""
    data = written_by_hand(ARCHITECTURE, CONTEXT, pair("a", 9, array_of(9, MAX_ITEMS) + array_of(0, 0) * 1000))
    assert "an array of arrays" in refused(file, data).message


def test_the_texts_of_all_arrays_are_bounded_together(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text costs the reader a step, however short it is."""
    monkeypatch.setattr(metadata, "MAX_TEXTS", 5)
    pairs = [pair(key, 9, array_of(8, 3) + text("") * 3) for key in "ab"]
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, pairs[0]))
    read_header(file)
    assert "more than 5 texts" in refused(file, written_by_hand(ARCHITECTURE, CONTEXT, *pairs)).message


def test_control_tokens_are_those_that_the_engine_takes_for_them(file: Path) -> None:
    """By type (unknown, control, and user-defined marks in brackets), by being listed, and by name."""
    names = (
        b"a",
        b"<unk-x>",
        b"<|x|>",
        b"<tool_call>",
        b"  ",
        b"--",
        b"<p1>",
        b"[byte]",
        b"|end|",
        b"<|im_end|>",
        b"\n[A] ",
        b"ab>",
        b"<ab",
        b"<>",
    )
    tokens = vocabulary(*names, types=(1, 2, 3, 4, 4, 4, 1, 5, 1, 1, 4, 4, 4, 4))
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, *tokens, u32("tokenizer.ggml.eot_token_id", 8)))
    assert set(read_header(file).control_tokens) == {"<unk-x>", "<|x|>", "<tool_call>", "|end|", "<|im_end|>", "\n[A] "}


@pytest.mark.parametrize(
    "listed", [(4, struct.pack("<I", 2)), (5, struct.pack("<i", -1)), (7, b"\x00"), (8, text("a"))], ids=str
)
def test_what_is_no_number_of_a_token_lists_nothing(file: Path, listed: tuple[int, bytes]) -> None:
    """Beyond the vocabulary, before it, or no number: publishers leave them behind."""
    pairs = [*vocabulary(b"ab", b"<s>", types=(1, 1)), pair("tokenizer.ggml.eot_token_id", *listed)]
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, *pairs))
    assert read_header(file).control_tokens == ("<s>",)


@pytest.mark.parametrize(
    ("tokenizer", "names", "longest"),
    [
        ("gpt2", (b"a", b"bcde", b"", "łł".encode()), 4),
        ("llama", (b"",), 0),
        ("llama", (), 0),
        ("bert", (b"a", b"bcde"), None),
        (None, (b"a",), None),
    ],
)
def test_the_longest_token_bounds_how_short_a_text_can_be(
    file: Path, tokenizer: str | None, names: tuple[bytes, ...], longest: int | None
) -> None:
    """In bytes, of which a character has one at least; nothing where a vocabulary knows words that it was not given."""
    named = [] if tokenizer is None else [pair("tokenizer.ggml.model", 8, text(tokenizer))]
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, *named, *vocabulary(*names)))
    assert read_header(file).max_token_chars == longest


@pytest.mark.parametrize("scanned_bytes", [1, 7, 16, 1 << 20])
def test_a_name_that_the_engine_knows_is_found_wherever_it_lies(
    file: Path, monkeypatch: pytest.MonkeyPatch, scanned_bytes: int
) -> None:
    """Across what is scanned at once, behind an empty text, and not where it only begins a text, or lies in one."""
    monkeypatch.setattr(module, "_SCAN_BYTES", scanned_bytes)
    names = (
        b"a",
        b"",
        b"<s>",
        b"<s>b",
        b"x" + bytes(7) + b"<bos>",
        b"bc",
        b"<|im_end|>",
        "<｜fim▁hole｜>".encode(),
        b"[EOS]",
        b"y" + bytes(7) + b"<bos>",
    )
    file.write_bytes(written_by_hand(ARCHITECTURE, CONTEXT, *vocabulary(*names, types=(1,) * len(names))))
    assert set(read_header(file).control_tokens) == {"<s>", "<|im_end|>", "<｜fim▁hole｜>", "[EOS]"}


@pytest.mark.parametrize(
    "tokens",
    [
        vocabulary(b"<s>", b"</s>", b"<eos>"),
        vocabulary(b"<a>", b"<b>", b"<c>", types=(3, 3, 3)),
        vocabulary(b"<s>a", b"<s>b", b"<s>c"),
    ],
    ids=["by name", "by type", "that only begin with a name"],
)
def test_control_tokens_are_bounded_in_number(file: Path, monkeypatch: pytest.MonkeyPatch, tokens: list[bytes]) -> None:
    """Each is looked up, and every text is searched for it; so is what has to be looked at to be told from one."""
    data = written_by_hand(ARCHITECTURE, CONTEXT, *tokens)
    file.write_bytes(data)
    read_header(file)
    monkeypatch.setattr(module, "MAX_CONTROL_TOKENS", 2)
    assert "more than 2 control tokens" in refused(file, data).message


def test_a_vocabulary_is_bounded_in_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is looked through at the start."""
    monkeypatch.setattr(module, "MAX_VOCABULARY_BYTES", 35)
    data = written_by_hand(ARCHITECTURE, CONTEXT, *vocabulary(b"<s>", b"</s>", b"<eos>"))
    assert "more than 35 bytes" in refused(file, data).message


def test_reading_holds_no_file_open(file: Path, whole: bytes) -> None:
    """A thousand refusals under a limit of 64 open files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    file.write_bytes(whole[:-64])
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        for _ in range(1000):
            with pytest.raises(Invalid):
                read_header(file)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize("where", ["keys", "texts", "tensors"])
def test_names_and_texts_are_bounded_together(file: Path, where: str) -> None:
    """Each below the limit of one, and sparse on the disk: refused long before all of them are in memory."""
    long = struct.pack("<Q", 1 << 23)
    num_tensors, num_keys = (12, 2) if where == "tensors" else (0, 14)
    with file.open("wb") as sparse:
        sparse.write(b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys) + ARCHITECTURE + CONTEXT)
        for number in range(12):
            if where == "texts":
                sparse.write(text(f"k{number}") + struct.pack("<I", 8))
            sparse.write(long + bytes((number,)))
            sparse.seek((1 << 23) - 1, 1)
            if where == "keys":
                sparse.write(struct.pack("<IB", 0, 0))
            if where == "tensors":
                sparse.write(struct.pack("<IQIQ", 1, 8, 0, 32 * number))
        sparse.truncate(-(-sparse.tell() // 32) * 32 + 32 * num_tensors)
    tracemalloc.start()
    try:
        with pytest.raises(Invalid):
            read_header(file)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_an_adapter_is_no_model_and_a_model_no_adapter(file: Path, whole: bytes) -> None:
    """Each passes the gate as what it is: an adapter has no context of its own."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", numpy.zeros((2, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(file, is_adapter=True).context_tokens == 0
    assert "no model by itself" in refused(file, file.read_bytes()).message
    file.write_bytes(whole)
    with pytest.raises(Invalid, match="it is no adapter"):
        read_header(file, is_adapter=True)


def test_a_model_may_carry_the_digest_of_its_history(file: Path, whole: bytes) -> None:
    """Where Allod trained it; other files carry none."""
    derivation = "sha256:" + "d" * 64
    file.write_bytes(small_gguf(file, lambda writer: writer.add_string("allod.derivation", derivation)))
    assert read_header(file).derivation == derivation
    file.write_bytes(whole)
    assert read_header(file).derivation == ""
