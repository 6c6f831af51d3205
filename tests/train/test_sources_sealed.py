"""Packages are opened in sealed processes, and what these leave is believed for its digest alone."""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.collecting import collect, here, sealed
from tests.train.test_sources import NOTES, packed, pinned, recipe_of

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.train.sealed_stage import StageResult
from allod.train.sources import collect as collecting
from allod.train.sources.bounds import Bounds
from allod.train.sources.collect import Perform
from allod.train.stage_task import Limits, StageFacts

TEXTS = {"usr/a.txt": "one", "usr/b.txt": "two"}
PACKED = pinned(TEXTS)


class Place:
    """A package that was brought, a folder beside the recipe, and a run that reads both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output, self.given, self.cache = folder, folder / "out", folder / "given", folder / "cache"
        for path in (self.output, self.given, folder / "notes"):
            path.mkdir()
        (folder / "notes" / "c.md").write_text("three")
        (self.given / "text_1_all.deb").write_bytes(packed(TEXTS))

    def collect(self, perform: Perform, *sources: Any) -> StageFacts:
        folders = {"given": self.given, "cache": self.cache, "output": self.output, "beside": self.folder}
        return collect(recipe_of(*(sources or (PACKED, NOTES))), perform=perform, **folders)

    def sealed(self, *sources: Any) -> StageFacts:
        return self.collect(sealed(recipe_of(*(sources or (PACKED, NOTES))), self.folder / "log"), *sources)

    def made(self) -> Mapping[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_this_process_opens_no_package(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every reader of archives gone from it, it collects all the same, and to the same bytes."""
    facts = place.collect(here(recipe_of(PACKED, NOTES)))
    made = place.made()

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a package was opened outside the island")

    for module, name in ((tarfile, "open"), (lzma, "LZMADecompressor"), (zlib, "decompressobj"), (io, "BytesIO")):
        monkeypatch.setattr(module, name, refuse)
    assert place.sealed() == facts
    assert place.made() == made
    assert not (place.folder / ".unpacked").exists()


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (Bounds(unpack_memory_bytes=160 << 20), "needed more than 160 MiB of memory"),
        (Bounds(unpack_s=0.0), "took longer than 0 s"),
    ],
)
def test_a_package_that_meets_a_limit_is_refused_by_name(
    place: Place, monkeypatch: pytest.MonkeyPatch, bounds: Bounds, why: str
) -> None:
    """A small file that wants much of this machine gets what is its due, and the operator hears which file it was."""
    (place.given / "text_1_all.deb").write_bytes(packed({"usr/a.txt": "0" * (60 << 20), "usr/b.txt": "1" * (60 << 20)}))
    monkeypatch.setattr(collecting, "BOUNDS", bounds)
    with pytest.raises(Invalid, match=r"text_1_all\.deb is refused") as refused:
        place.sealed()
    assert (refused.value.code, why in refused.value.message) == ("archive_unsafe", True)
    assert not list(place.output.iterdir())


def test_reading_has_its_limits_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that a reader makes much of."""
    monkeypatch.setattr(collecting, "BOUNDS", Bounds(read_s=0.0))
    with pytest.raises(Unavailable, match="source was ended: it took longer") as refused:
        place.sealed(NOTES)
    assert refused.value.code == "stage_limit"


def test_more_to_read_has_more_time_and_memory() -> None:
    """A folder of a million files and ten GiB is honest work."""
    one, many = Bounds().reading(num_files=1, num_bytes=1), Bounds().reading(num_files=1_000_000, num_bytes=10 << 30)
    assert (many.memory_bytes >= one.memory_bytes + (1 << 30), many.wall_s >= one.wall_s + 10_000) == (True, True)


def taken_over(place: Place, where: str, leave: Any) -> Perform:
    """As `here`, but the process of stage `where` has been taken over and leaves something else."""
    honest = here(recipe_of(PACKED, NOTES))

    def perform(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        result = honest(stage, inputs, output, limits)
        if stage == where:
            leave(output)
        return result

    return perform


def other_text(folder: Path) -> None:
    (folder / "members.bin").write_bytes(b"oneTWO")


def other_list(said: Any) -> Any:
    return lambda folder: (folder / "members.json").write_text(json.dumps(said))


def a_link(folder: Path) -> None:
    (folder / "members.bin").unlink()
    (folder / "members.bin").symlink_to("/etc/passwd")


def a_link_to_the_same(folder: Path) -> None:
    (folder / "members.bin").rename(folder / "elsewhere")
    (folder / "members.bin").symlink_to(folder / "elsewhere")


def a_pipe(folder: Path) -> None:
    """Whoever opened it would wait for ever."""
    (folder / "members.bin").unlink()
    os.mkfifo(folder / "members.bin")
    other_list({"members": [["usr/a.txt", 0]], "unread": {}})(folder)


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (other_text, "source_digest"),
        (a_link, "archive_damaged"),
        (a_link_to_the_same, "archive_damaged"),
        (a_pipe, "archive_damaged"),
        (other_list({"members": [["usr/a.txt", 3], [5, 3]], "unread": {}}), "archive_damaged"),
        (other_list({"members": [["usr/a.txt", 3]], "unread": {}}), "archive_damaged"),
        (other_list({"members": [["usr/a.txt", 3], ["usr/a.txt", 3]], "unread": {}}), "archive_damaged"),
        (other_list({"members": [["usr/a.txt", 7], ["usr/b.txt", -1]], "unread": {}}), "archive_damaged"),
        (other_list({"members": [["usr/a.txt", True]], "unread": {}}), "archive_damaged"),
        (other_list({"members": [["usr/a.txt", 6]], "unread": {}}), "source_digest"),
        (other_list({"members": [], "unread": []}), "archive_damaged"),
        (other_list([]), "archive_damaged"),
    ],
)
def test_who_takes_over_the_unpacking_brings_in_no_text(place: Place, leave: Any, code: str) -> None:
    """What it left is hashed where it cannot reach, and compared with the recipe's pin."""
    with pytest.raises(Invalid) as refused:
        place.collect(taken_over(place, "unpack", leave))
    assert refused.value.code == code
    assert not list(place.output.iterdir())


def rows(change: Any) -> Any:
    def leave(folder: Path) -> None:
        found = json.loads((folder / "sources.json").read_bytes())
        change(found)
        (folder / "sources.json").write_text(json.dumps(found))

    return leave


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda rows: rows[0].update(licence="CC0-1.0"), "stage_output"),
        (lambda rows: rows[1].update(tier="OFFICIAL"), "stage_output"),
        (lambda rows: rows.pop(), "stage_output"),
        (lambda rows: rows[0].update(more=1), "stage_output"),
        (lambda rows: rows[0].pop("num_bytes"), "stage_output"),
        (lambda rows: rows[1].update(sha256="0" * 64), "source_changed"),
    ],
)
def test_who_takes_over_the_reading_changes_no_terms(place: Place, change: Any, code: str) -> None:
    """Licences, labels and digests are the recipe's and this process's to say."""
    with pytest.raises(Invalid) as refused:
        place.collect(taken_over(place, "source", rows(change)))
    assert refused.value.code == code


def test_a_kept_package_that_kills_its_reader_is_fetched_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is damaged: what lies in the cache is no reason not to train."""
    place.cache.mkdir()
    (place.given / "text_1_all.deb").rename(place.cache / "text_1_all.deb")
    honest, tries = here(recipe_of(PACKED)), list[str]()

    def perform(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        tries.append(stage)
        if len(tries) == 1:
            raise Unavailable("unpack was ended by SIGSEGV", code="stage_died")
        return honest(stage, inputs, output, limits)

    def download(_: Any, folder: Path) -> Path:
        (folder / "text_2_all.deb").write_bytes(packed(TEXTS))
        return folder / "text_2_all.deb"

    monkeypatch.setattr(collecting, "download", download)
    assert place.collect(perform, PACKED)["num_documents"] == 2
    assert tries == ["unpack", "unpack", "source"]


def test_a_wish_to_stop_is_no_fault_of_the_package(place: Place) -> None:
    """It is raised as it is."""

    def perform(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        raise Unavailable("unpack was stopped", code="interrupted")

    with pytest.raises(AllodError) as stopped:
        place.collect(perform)
    assert stopped.value.code == "interrupted"


def test_names_in_a_package_are_no_names_on_the_disk(place: Place) -> None:
    """A file and a folder of one name, a name longer than a disk takes, and one that is no text."""
    texts = {"a.txt": "1", "a.txt/b.txt": "2", "x" * 300 + ".txt": "3"}
    (place.given / "text_1_all.deb").write_bytes(packed(texts))
    source = replace(PACKED, sha256=pinned(texts).sha256)
    assert place.sealed(source)["num_documents"] == 3


def test_a_damaged_package_is_refused_in_the_readers_own_words(place: Place) -> None:
    """Across the seal."""
    (place.given / "text_1_all.deb").write_bytes(packed(TEXTS)[:-40])
    with pytest.raises(Invalid) as refused:
        place.sealed()
    assert refused.value.code == "archive_damaged"
