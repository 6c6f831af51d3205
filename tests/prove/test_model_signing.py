"""A model's signature: OpenSSF's tools verify ours, we verify theirs, and nothing that was not signed passes."""

from __future__ import annotations

import base64
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from allod.core.errors import Invalid, VerificationError
from allod.core.files import plain
from allod.prove.releases.model_keys import ModelKey, ModelPublicKey, create_model_key, load_model_key
from allod.prove.releases.model_signing import SIGNATURE_FILE, sign_folder, verify_folder


@pytest.fixture
def key(tmp_path: Path) -> ModelKey:
    return create_model_key(tmp_path / "keys" / "models.key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """File names that sort differently as texts and as paths: `d.txt` and `d/b.txt`."""
    folder = tmp_path / "a-model"
    (folder / "d").mkdir(parents=True)
    (folder / "weights.gguf").write_bytes(b"GGUF" * 1000)
    (folder / "d.txt").write_text("beside d")
    (folder / "d" / "b.txt").write_text("below d")
    return folder


@pytest.fixture
def reference() -> ModuleType:
    """OpenSSF's own implementation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip(
            "model_signing", reason="model-signing and pyOpenSSL are not installed"
        )
    return module


def refused_at(folder: Path, signature: bytes, key: ModelPublicKey) -> str:
    with pytest.raises(VerificationError) as failed:
        verify_folder(folder, signature, key)
    return failed.value.name


def with_payload(signature: bytes, change: Callable[[Any], None], key: ModelKey) -> bytes:
    """The same signature over a changed statement, signed anew by the same key."""
    bundle = json.loads(signature)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    kind = bundle["dsseEnvelope"]["payloadType"]
    text = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(key.sign(text)).decode()
    return json.dumps(bundle).encode()


def test_what_was_signed_verifies(folder: Path, key: ModelKey) -> None:
    """And the files come back with their digests, whatever became of the folder's name."""
    signature = sign_folder(folder, key)
    (folder / SIGNATURE_FILE).write_bytes(signature)
    moved = folder.rename(folder.with_name("another-name"))
    files = verify_folder(moved, signature, key.public)
    assert list(files) == ["d/b.txt", "d.txt", "weights.gguf"]
    assert files["d.txt"] == plain.digest_of_plain_file(moved / "d.txt")


def test_the_same_files_have_the_same_signature(folder: Path, key: ModelKey) -> None:
    """A release that is made again is the same release."""
    assert sign_folder(folder, key) == sign_folder(folder, key)


def test_the_reference_verifies_ours(folder: Path, key: ModelKey, reference: ModuleType, tmp_path: Path) -> None:
    """OpenSSF's verifier accepts our signature, and refuses it once a file was changed."""
    public = tmp_path / "models.pub"
    public.write_bytes(key.public.pem)
    (folder / SIGNATURE_FILE).write_bytes(sign_folder(folder, key))

    def verify() -> None:
        verifier = reference.verifying.Config().use_elliptic_key_verifier(public_key=public)
        verifier.verify(folder, folder / SIGNATURE_FILE)

    verify()
    (folder / "d.txt").write_text("changed")
    with pytest.raises(ValueError, match="Hash mismatch"):
        verify()


def test_we_verify_the_reference(folder: Path, key: ModelKey, reference: ModuleType, tmp_path: Path) -> None:
    """A signature made by OpenSSF's signer passes here, and fails once a file was changed."""
    hashing = reference.hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE])
    signer = reference.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "keys" / "models.key")
    signer.set_hashing_config(hashing).sign(folder, folder / SIGNATURE_FILE)
    signature = (folder / SIGNATURE_FILE).read_bytes()
    assert set(verify_folder(folder, signature, key.public)) == {"d/b.txt", "d.txt", "weights.gguf"}
    (folder / "d.txt").write_text("changed")
    assert refused_at(folder, signature, key.public) == "files"


def test_a_file_changed_added_or_missing_is_named(folder: Path, key: ModelKey) -> None:
    """What the signature does not list may not be there, hidden files and git's own included."""
    signature = sign_folder(folder, key)
    (folder / ".gitattributes").write_text("")
    with pytest.raises(VerificationError, match=r"\.gitattributes was added"):
        verify_folder(folder, signature, key.public)
    (folder / ".gitattributes").unlink()
    (folder / "d.txt").write_text("")
    with pytest.raises(VerificationError, match=r"d\.txt was changed"):
        verify_folder(folder, signature, key.public)
    (folder / "d.txt").unlink()
    with pytest.raises(VerificationError, match=r"d\.txt is missing"):
        verify_folder(folder, signature, key.public)


def test_what_a_signature_wants_ignored_is_not_believed(folder: Path, key: ModelKey) -> None:
    """The verifier alone says what is left out."""
    signature = sign_folder(folder, key, ignore=(SIGNATURE_FILE, "weights.gguf"))
    assert refused_at(folder, signature, key.public) == "files"


def test_another_key_is_refused(folder: Path, key: ModelKey, tmp_path: Path) -> None:
    """Also where the signature claims to be by the expected one."""
    other = create_model_key(tmp_path / "other.key")
    signature = sign_folder(folder, other)
    assert refused_at(folder, signature, key.public) == "signature"
    bundle = json.loads(signature)
    bundle["verificationMaterial"]["publicKey"]["hint"] = key.public.hint
    assert refused_at(folder, json.dumps(bundle).encode(), key.public) == "signature"


@pytest.mark.parametrize("make", [os.symlink, lambda target, link: os.mkfifo(link)], ids=["link", "pipe"])
def test_only_plain_files_and_folders_are_signed(
    folder: Path, key: ModelKey, make: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """A link would let the file change behind the signature; a pipe never ends."""
    signature = sign_folder(folder, key)
    (tmp_path / "elsewhere").write_text("beside d")
    (folder / "d.txt").unlink()
    make(tmp_path / "elsewhere", folder / "d.txt")
    with pytest.raises(Invalid, match=r"d\.txt"):
        sign_folder(folder, key)
    assert refused_at(folder, signature, key.public) == "files"


def test_a_linked_folder_is_refused(folder: Path, key: ModelKey, tmp_path: Path) -> None:
    """The model's own folder and those within it."""
    signature = sign_folder(folder, key)
    (tmp_path / "link").symlink_to(folder)
    assert refused_at(tmp_path / "link", signature, key.public) == "files"
    (folder / "d").rename(tmp_path / "d")
    (folder / "d").symlink_to(tmp_path / "d")
    assert refused_at(folder, signature, key.public) == "files"


def test_the_number_of_files_is_bounded(folder: Path, key: ModelKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is kept busy by a folder without an end, nor by one that is deep."""
    monkeypatch.setattr(plain, "MAX_FILES", 2)
    with pytest.raises(Invalid, match="more than 2 files"):
        sign_folder(folder, key)
    monkeypatch.setattr(plain, "MAX_FILES", 9)
    (folder / "/".join("abcdefghijklmnopq")).mkdir(parents=True)
    with pytest.raises(Invalid, match="too deeply"):
        sign_folder(folder, key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"bundle.v0.3", b"bundle.v0.1"),
        (b"in-toto+json", b"other+json"),
        (b'"keyid":"","sig"', b'"keyid":"","gis"'),
        (b'"signatures":[', b'"signatures":[{"keyid":"","sig":""},'),
        (b'"mediaType"', b'"mediaType":"","mediaType"'),
        (b'"payload":"', b'"payload":"="'),
        (b'"hint":"', b'"hint":7,"x":"'),
        (b'"dsseEnvelope":{', b'"dsseEnvelope":[{'),
    ],
    ids=["media", "type", "no signature", "two", "repeated", "base64", "hint", "not an object"],
)
def test_a_malformed_bundle_is_refused(folder: Path, key: ModelKey, old: bytes, new: bytes) -> None:
    """Before anything in it is believed."""
    signature = sign_folder(folder, key)
    assert old in signature
    assert refused_at(folder, signature.replace(old, new, 1), key.public) == "bundle"


def test_a_bundle_that_is_too_large_or_too_deep_is_refused(folder: Path, key: ModelKey) -> None:
    """No parser runs without a limit."""
    assert refused_at(folder, b" " * (8 << 20) + sign_folder(folder, key), key.public) == "bundle"
    assert refused_at(folder, b"[" * 200_000, key.public) == "bundle"


@pytest.mark.parametrize(
    "change",
    [
        lambda statement: statement.update(predicateType="https://model_signing/Digests/v0.1"),
        lambda statement: statement.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda statement: statement["subject"].append(statement["subject"][0]),
        lambda statement: statement["subject"][0]["digest"].update(sha256="0" * 64),
        lambda statement: statement["predicate"]["resources"].pop(),
        lambda statement: statement["predicate"]["resources"].append(statement["predicate"]["resources"][0]),
        lambda statement: statement["predicate"]["resources"][0].update(algorithm="blake2b"),
        lambda statement: statement["predicate"]["serialization"].update(allow_symlinks=True),
        lambda statement: statement["predicate"]["serialization"].update(method="shards"),
    ],
)
def test_a_signed_statement_of_another_kind_is_refused(
    folder: Path, key: ModelKey, change: Callable[[Any], None]
) -> None:
    """Also where the right key signed it: old formats, several subjects, lists that do not add up."""
    signature = sign_folder(folder, key)
    assert verify_folder(folder, with_payload(signature, lambda statement: None, key), key.public)
    assert refused_at(folder, with_payload(signature, change, key), key.public) == "statement"


def test_a_key_is_its_owners_alone(tmp_path: Path) -> None:
    """0600, made once, read back the same; refused once others could read it."""
    path = tmp_path / "models.key"
    key = create_model_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_model_key(path).public.pem == key.public.pem
    assert "BEGIN" not in repr(key)
    with pytest.raises(Invalid) as refused:
        create_model_key(path)
    assert refused.value.code == "key_exists"
    path.chmod(0o640)
    with pytest.raises(Invalid) as refused:
        load_model_key(path)
    assert refused.value.code == "unsafe_secret"


def test_keys_on_other_curves_are_refused() -> None:
    """One kind of key, so that one strength is promised."""
    other = generate_private_key(SECP384R1())
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for parse in (
        lambda: ModelKey.parse(private),
        lambda: ModelPublicKey.parse(public),
        lambda: ModelKey.parse(b"no key"),
        lambda: ModelPublicKey.parse(private),
    ):
        with pytest.raises(Invalid) as refused:
            parse()
        assert refused.value.code == "bad_key"
