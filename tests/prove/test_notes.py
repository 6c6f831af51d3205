"""Signed notes, keys and cosignatures, against the examples printed in the C2SP specifications."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.prove.formats.encodings import from_base64, from_decimal, to_base64
from allod.prove.formats.merkle import leaf_hash
from allod.prove.formats.notes import (
    ED25519_COSIGNATURE,
    MLDSA44_COSIGNATURE,
    VerifierKey,
    cosignature_time,
    is_signed,
    key_id,
    parse_note,
    signature_line,
)
from allod.prove.formats.proofs import Proof
from allod.prove.formats.signing_key import SigningKey, create_signing_key, load_signing_key
from allod.prove.formats.tree_head import TreeHead

# C2SP signed-note, "Verifier keys, Example"
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n\u2014 example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
KEY = SigningKey("realm.example/receipts", bytes([7]) * 32)


def test_the_example_of_the_specification_verifies() -> None:
    """Key and note as C2SP prints them; the key comes out as it went in."""
    key = VerifierKey.parse(EXAMPLE_KEY)
    assert str(key) == EXAMPLE_KEY
    assert is_signed(parse_note(EXAMPLE_NOTE), key)


def test_a_changed_note_does_not() -> None:
    """One letter is enough."""
    assert not is_signed(parse_note(EXAMPLE_NOTE.replace("example m", "example n")), VerifierKey.parse(EXAMPLE_KEY))


def test_every_signature_by_a_known_key_must_be_good() -> None:
    """C2SP signed-note: a false signature by a known key condemns the note."""
    line = signature_line(KEY.name, KEY.verifier.id, bytes(64))
    assert is_signed(parse_note(KEY.sign("text\n")), KEY.verifier)
    assert not is_signed(parse_note(KEY.sign("text\n") + line), KEY.verifier)


def test_what_we_sign_verifies() -> None:
    """A tree head goes through a signed note and back."""
    head = TreeHead(KEY.name, 12, leaf_hash(b"x"))
    note = parse_note(KEY.sign(head.text))
    assert is_signed(note, KEY.verifier)
    assert TreeHead.of(note) == head


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a+b",
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("example.com/foo", "example.com foo"),
        EXAMPLE_KEY[:-1],
        EXAMPLE_KEY + "=",
        EXAMPLE_KEY.replace("+Aeky", "+Beky"),
    ],
)
def test_a_malformed_key_is_refused(key: str) -> None:
    """The hash, the kind and the length of a key are all checked."""
    with pytest.raises(Invalid):
        VerifierKey.parse(key)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        EXAMPLE_NOTE[:-1],
        EXAMPLE_NOTE.replace("\u2014", "-"),
        EXAMPLE_NOTE.replace("foo Uw", "foo  Uw"),
        EXAMPLE_NOTE.replace("aQM=", "aQM"),
        EXAMPLE_NOTE.replace("This", "\tThis"),
        EXAMPLE_NOTE + EXAMPLE_NOTE.split("\n\n")[1] * 64,
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    """Strict in both directions: spaces, padding, newlines, control characters, number of signatures."""
    with pytest.raises(Invalid):
        parse_note(note)


def test_an_ml_dsa_44_cosignature_verifies() -> None:
    """C2SP tlog-cosignature's subtree message, laid out here by hand."""
    private = MLDSA44PrivateKey.generate()
    key = VerifierKey("w.example", MLDSA44_COSIGNATURE, private.public_key().public_bytes_raw())
    head = TreeHead(KEY.name, 5, leaf_hash(b"x"))
    stamp = 1_800_000_000
    message = (
        b"subtree/v1\n\0"
        + bytes([9])
        + b"w.example"
        + stamp.to_bytes(8, "big")
        + bytes([len(KEY.name)])
        + KEY.name.encode()
        + bytes(8)
        + (5).to_bytes(8, "big")
        + head.root
    )
    line = signature_line("w.example", key.id, stamp.to_bytes(8, "big") + private.sign(message))
    note = parse_note(KEY.sign(head.text) + line)
    assert cosignature_time(note, VerifierKey.parse(str(key)), origin=head.origin, size=5, root=head.root) == stamp
    with pytest.raises(Invalid):
        cosignature_time(note, key, origin=head.origin, size=6, root=head.root)


def test_a_witness_that_did_not_sign_is_no_witness() -> None:
    """Absent is not false."""
    head = TreeHead(KEY.name, 5, leaf_hash(b"x"))
    witness = VerifierKey("w.example", ED25519_COSIGNATURE, bytes(32))
    assert (
        cosignature_time(parse_note(KEY.sign(head.text)), witness, origin=head.origin, size=5, root=head.root) is None
    )


@given(st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple))
def test_proof_text_goes_there_and_back(index: int, path: tuple[bytes, ...]) -> None:
    """tlog-proof text reads back as what was written."""
    proof = Proof(index, path, EXAMPLE_NOTE)
    assert Proof.parse(proof.text) == proof


@given(st.binary(max_size=40))
def test_base64_has_one_spelling(data: bytes) -> None:
    """What decodes encodes to the same text."""
    text = to_base64(data)
    assert from_base64(text, "it") == data


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "AB==", "AAB=", "AA==\n", " AA==", "AA==AA==", "A-_=", "é==="])
def test_other_spellings_of_base64_are_refused(text: str) -> None:
    """Missing padding, stray bits, spaces, other alphabets."""
    with pytest.raises(Invalid):
        from_base64(text, "it")


@pytest.mark.parametrize("text", ["", "+1", "-1", "01", "1 ", "1_0", "\u0661", str(2**63)])
def test_other_spellings_of_a_number_are_refused(text: str) -> None:
    """ASCII digits without sign or leading zero, below 2^63."""
    with pytest.raises(Invalid):
        from_decimal(text, "it")


def test_a_signing_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    """0600, never overwritten, and the same key when loaded."""
    path = tmp_path / "keys" / "log.key"
    key = create_signing_key(path, "realm.example/receipts")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signing_key(path).verifier_key == key.verifier_key
    assert "PRIVATE" not in repr(key)
    with pytest.raises(Invalid) as refused:
        create_signing_key(path, "realm.example/receipts")
    assert refused.value.code == "key_exists"
    assert [entry.name for entry in path.parent.iterdir()] == ["log.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Wider permissions mean that the key may be known."""
    create_signing_key(tmp_path / "log.key", "realm.example/receipts")
    (tmp_path / "log.key").chmod(mode)
    with pytest.raises(Invalid) as refused:
        load_signing_key(tmp_path / "log.key")
    assert refused.value.code == "unsafe_secret"


def test_a_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    """Somebody else's file does not become our key."""
    create_signing_key(tmp_path / "log.key", "realm.example/receipts")
    (tmp_path / "link").symlink_to(tmp_path / "log.key")
    with pytest.raises(Invalid):
        load_signing_key(tmp_path / "link")


@pytest.mark.parametrize("text", ["", "x", "PRIVATE+KEY+a+b", KEY.private_text().replace("realm", "other")])
def test_a_broken_key_is_refused_without_repeating_it(text: str) -> None:
    """The hash binds the name; no error message holds secret bytes."""
    with pytest.raises(Invalid) as refused:
        SigningKey.parse(text)
    assert KEY.private_text().split("+")[-1].strip() not in refused.value.message


def test_key_ids_separate_names_and_kinds() -> None:
    """The same public key under another name or kind is another key."""
    ids = {key_id(name, kind, bytes(32)) for name in ("a", "b") for kind in (1, 4)}
    assert len(ids) == 4
