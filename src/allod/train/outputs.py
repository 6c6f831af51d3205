"""What a stage left in its folder, taken for hostile: listed by digest, compared with its list, rid of all the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import digest_of_bytes, sha256_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.files.plain import digest_of_plain_file, read_plain_file
from allod.core.files.whole import sync
from allod.core.shown_text import make_plain
from allod.core.statements.training import FILES, MANIFEST
from allod.prove.releases.lineage import MAX_LIST_BYTES

CHECKPOINTS = "checkpoints"
MAX_OUTPUTS = 100_000
MAX_DEPTH = 16
NUM_TOLD = 5  # files that differ, in an error


def list_files(folder: Path) -> bytes:
    """The list of a stage's outputs, as canonical JSON: name, SHA-256 and length of each, sorted by name.

    Raises Invalid (`stage_empty`) where there is none, and for links and other things that are not plain files.
    """
    rows: list[JsonValue] = []
    for name in sorted(_outputs(folder, "", MAX_DEPTH), key=lambda name: name.split("/")):
        path = folder / name
        rows.append({"name": name, "sha256": digest_of_plain_file(path), "bytes": path.lstat().st_size})
        if len(rows) > MAX_OUTPUTS:
            raise Invalid(f"the stage left more than {MAX_OUTPUTS} files", code="stage_output")
    if not rows:
        raise Invalid("the stage left nothing", code="stage_empty")
    return canonical_json(rows)


def check_files(folder: Path, digest: str) -> None:
    """Raise Invalid, naming the file, unless `folder` holds what its files.json lists, and that has this digest."""
    listed = read_plain_file(folder / FILES, limit_bytes=MAX_LIST_BYTES)
    if digest_of_bytes(listed) != digest:
        raise Invalid(f"{FILES} is not the list that the manifest names")
    found = list_files(folder)
    if found == listed:
        return
    try:
        before = {str(row["name"]): row for row in json.loads(listed)}
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Invalid(f"{FILES} is no list of files") from error
    now = {row["name"]: row for row in json.loads(found)}
    wrong = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if not wrong:
        raise Invalid(f"{FILES} is not in its canonical form")
    told = [_change(name, before.get(name), now.get(name)) for name in wrong[:NUM_TOLD]]
    more = [f"and {len(wrong) - NUM_TOLD} more"] if len(wrong) > NUM_TOLD else []
    raise Invalid(", ".join([*told, *more]))


def _change(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if before is None or now is None:
        return f"{name} is {'missing' if now is None else 'new'}"
    listed = make_plain(str(before.get("sha256")), limit=64)
    return f"{name} is changed (sha256 {now['sha256']} and not {listed})"


def digest_of_folder(folder: Path, pattern: str) -> str:
    """SHA-256 (hex) over the names and digests of its files. Raises Invalid (`folder_empty`) where there are none."""
    files = {path.name: digest_of_plain_file(path) for path in sorted(folder.glob(pattern)) if path.is_file()}
    if not files:
        raise Invalid(f"{folder} holds no {pattern}", code="folder_empty")
    return sha256_hex(canonical_json(files))


def _outputs(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    """The names of a stage's files, in no order. Raises Invalid (`stage_output`) for what is no plain file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if not _is_output(name):
                continue
            if not entry.name.isprintable() or depth == 0:
                raise Invalid(f"{name!r} is no name of an output, or nested too deeply", code="stage_output")
            if entry.is_dir(follow_symlinks=False):
                yield from _outputs(Path(entry.path), f"{name}/", depth - 1)
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                raise Invalid(f"{name} is no plain file", code="stage_output")


def _is_output(name: str) -> bool:
    parts = name.split("/")
    return not parts[-1].startswith(".") and parts[0] not in (CHECKPOINTS, FILES, MANIFEST)


def check_no_own_list(folder: Path) -> None:
    """A stage that writes its own list or manifest, or a link in their place, wants to be believed too much."""
    for name in (FILES, MANIFEST):
        if os.path.lexists(folder / name):
            raise Invalid(f"the stage left a {name}, which is not its to write", code="stage_output")


def make_durable(folder: Path, outputs: Iterable[str]) -> None:
    """Everything that counts, and the folders' names for it, on the disk."""
    kept, folders = _files_to_keep(folder, outputs)
    for path in (*sorted(kept), *sorted(folders, reverse=True)):
        sync(path)


def clear(folder: Path, outputs: Iterable[str]) -> None:
    """Delete what is no output, which nobody hashed."""
    kept, folders = _files_to_keep(folder, outputs)
    for each in sorted(folders):
        for path in each.iterdir():
            if path not in kept and path not in folders:
                remove(path)
        sync(each)


def _files_to_keep(folder: Path, outputs: Iterable[str]) -> tuple[set[Path], set[Path]]:
    """The files of a finished stage, and the folders that they are in."""
    kept = {folder / FILES, folder / MANIFEST, *(folder / name for name in outputs)}
    return kept, {parent for path in kept for parent in path.parents if parent.is_relative_to(folder)}


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there. Raises Unavailable (`cannot_remove`)."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except (OSError, RecursionError) as error:
        raise Unavailable(
            f"{path.name} cannot be deleted", code="cannot_remove", hint=f"delete {path} and start again"
        ) from error
