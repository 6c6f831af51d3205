"""The stage `source`: what is read is what was pinned, under terms that are known, and nothing else."""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.collecting import collect

from allod.core.errors import Invalid, Unavailable
from allod.train.corpus.documents import new_document, read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.recipe import Recipe, Source
from allod.train.sources.collect import content_digests
from allod.train.sources.content import content_digest
from allod.train.sources.fetch import read_package
from allod.train.sources.licences import check_licence

NOTES = Source(
    name="notes", kind="text", licence="OGL-UK-3.0", jurisdiction="GB", origin="a ministry", date="2024", path="notes"
)


def recipe_of(*sources: Source) -> Recipe:
    return Recipe("test", sources)


def packed(texts: dict[str, str]) -> bytes:
    """A Debian package with these files."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, text in texts.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    data = lzma.compress(plain.getvalue())
    header = f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
    return b"!<arch>\n" + header.encode() + data


class Place:
    """Folders of a run: where packages are brought and kept, where the recipe is, where documents go."""

    def __init__(self, folder: Path) -> None:
        self.given, self.cache, self.beside, self.output = (
            folder / name for name in ("given", "cache", "beside", "out")
        )
        for path in (self.given, self.beside, self.output):
            path.mkdir()

    def note(self, name: str, content: bytes) -> None:
        path = self.beside / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def collect(self, *sources: Source) -> dict[str, int | float | str | None]:
        facts = collect(recipe_of(*sources), given=self.given, cache=self.cache, output=self.output, beside=self.beside)
        return dict(facts)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def pinned(texts: dict[str, str]) -> Source:
    digest = content_digest({name: text.encode() for name, text in texts.items()})
    return replace(NOTES, name="packed", path="", package="debian:text", sha256=digest)


TEXTS = {"usr/a.txt": "one", "usr/b.txt": "two"}


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without apt."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_files_become_documents_with_their_terms(place: Place) -> None:
    """Each file is a document under its path, and the list of sources says on what terms."""
    place.note("b.md", b"two")
    place.note("sub/a.txt", b"one")
    facts = place.collect(NOTES)
    documents = list(read_documents(place.output))
    assert [(document.id, document.text) for document in documents] == [
        ("notes/b.md", "two"),
        ("notes/sub/a.txt", "one"),
    ]
    (row,) = json.loads((place.output / "sources.json").read_bytes())
    assert (row["licence"], row["jurisdiction"], row["num_documents"], row["num_bytes"]) == ("OGL-UK-3.0", "GB", 2, 6)
    index = [json.loads(line) for line in (place.output / "index.jsonl").read_text().splitlines()]
    assert index[0] == {"id": "notes/b.md", "source": "notes", "sha256": documents[0].sha256, "bytes": 3}
    assert facts["num_documents"] == 2


def test_one_word_changes_the_digest_of_its_source_alone(place: Place) -> None:
    """A run is made again exactly when what it is made from is not the same."""
    place.note("a.txt", b"one")
    other = replace(NOTES, name="other", path="other.txt")
    (place.beside / "other.txt").write_text("same")
    before = content_digests(recipe_of(NOTES, other), beside=place.beside)
    place.note("a.txt", b"two")
    after = content_digests(recipe_of(NOTES, other), beside=place.beside)
    assert before["notes"] != after["notes"]
    assert before["other"] == after["other"]


def test_a_package_that_was_brought_is_read(place: Place, no_registry: None) -> None:
    """Behind an air gap a package is a file in a folder, and the facts say which file it was."""
    (place.given / "text_1.0_all.deb").write_bytes(packed(TEXTS))
    facts = place.collect(pinned(TEXTS))
    assert [document.id for document in read_documents(place.output)] == ["packed/usr/a.txt", "packed/usr/b.txt"]
    assert str(facts["archive_packed"]).startswith("text_1.0_all.deb sha256:")


def test_the_same_text_packed_again_is_the_same_source(place: Place, no_registry: None) -> None:
    """The pin is of what is read: another version of the package around it changes no output."""
    (place.given / "text_1.0_all.deb").write_bytes(packed(TEXTS))
    place.collect(pinned(TEXTS))
    before = {path.name: path.read_bytes() for path in place.output.iterdir()}
    (place.given / "text_1.0_all.deb").unlink()
    (place.given / "text_1.1_all.deb").write_bytes(packed({**TEXTS, "usr/changelog.gz": "rebuilt"}))
    place.collect(pinned(TEXTS))
    assert {path.name: path.read_bytes() for path in place.output.iterdir()} == before


def test_another_text_under_the_same_name_is_refused(place: Place, no_registry: None) -> None:
    """What was not pinned is not read, and the error says what would have to be written to mean it."""
    (place.given / "text_1.0_all.deb").write_bytes(packed({**TEXTS, "usr/a.txt": "forged"}))
    with pytest.raises(Invalid) as caught:
        place.collect(pinned(TEXTS))
    assert caught.value.code == "source_digest"
    assert content_digest({"usr/a.txt": b"forged", "usr/b.txt": b"two"}) in str(caught.value.hint)


def test_a_path_may_be_pinned_too(place: Place) -> None:
    """A path without a digest is what it holds; one with a digest must hold that."""
    place.note("a.txt", b"one")
    with pytest.raises(Invalid) as caught:
        place.collect(replace(NOTES, sha256="0" * 64))
    assert caught.value.code == "source_digest"


def test_a_package_is_fetched_once(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The registry is asked when neither folder has the package; what it gave is kept, and replaced once damaged."""
    (tmp_path / "served.deb").write_bytes(packed(TEXTS))
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\ncp {tmp_path}/served.deb text_1%3a2_all.deb\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    for _ in range(2):
        place.collect(pinned(TEXTS))
    assert (tmp_path / "asked").read_text() == "x\n"
    (place.cache / "text_1%3a2_all.deb").write_bytes(b"broken")
    place.collect(pinned(TEXTS))
    assert (tmp_path / "asked").read_text() == "x\nx\n"
    assert [path.name for path in place.cache.iterdir()] == ["text_1%3a2_all.deb"]


def test_a_wrong_package_is_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the registry gave and the recipe did not mean leaves nothing behind."""
    (tmp_path / "served.deb").write_bytes(packed({"usr/a.txt": "forged"}))
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncp {tmp_path}/served.deb text_1_all.deb\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(Invalid):
        place.collect(pinned(TEXTS))
    assert list(place.cache.iterdir()) == []


def test_a_package_that_is_gone_says_what_to_do(place: Place, no_registry: None) -> None:
    """Without a registry the hint names the file to bring."""
    with pytest.raises(Unavailable, match="debian:text") as caught:
        place.collect(pinned(TEXTS))
    assert "text_*.deb" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name", ["text", "debian:", "debian:a b", "pypi:text", "pypi:-r==1", "npm:text", "debian:../x"]
)
def test_a_package_is_named_in_one_way(name: str) -> None:
    """A name goes onto a command line: what is not plainly a package is refused."""
    with pytest.raises(Invalid, match="no package"):
        read_package(name)


@pytest.mark.parametrize(
    "licence",
    ["MIT", "LicenseRef-public-domain AND MIT", "GPL-3.0-only OR MIT", "(MIT OR X) AND (CC0-1.0)", "OGL-UK-3.0"],
)
def test_terms_that_permit_training(licence: str) -> None:
    """Of alternatives one is enough, of conditions all must be permitted."""
    check_licence(replace(NOTES, licence=licence))


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "MIT AND GPL-3.0-only", "unknown", "LicenseRef-other", "mit"])
def test_other_terms_are_refused(licence: str) -> None:
    """A licence that is not known to permit training is refused before anything is fetched."""
    with pytest.raises(Invalid) as caught:
        content_digests(recipe_of(replace(NOTES, licence=licence)), beside=Path())
    assert caught.value.code == "licence_refused"


@pytest.mark.parametrize(
    "licence", ["", "MIT AND", "(MIT", "MIT MIT", "MIT WITH x", "AND", "MIT; MIT", "(" * 99 + "MIT"]
)
def test_terms_that_are_no_expression(licence: str) -> None:
    """Nothing is guessed from words that are no SPDX expression."""
    with pytest.raises(Invalid) as caught:
        check_licence(replace(NOTES, licence=licence))
    assert caught.value.code == "licence_malformed"


@pytest.mark.parametrize("field", ["jurisdiction", "origin", "date"])
def test_terms_that_are_missing(place: Place, field: str) -> None:
    """Every source says where it comes from."""
    blank: Any = {field: " "}
    with pytest.raises(Invalid) as caught:
        place.collect(replace(NOTES, **blank))
    assert caught.value.param == field


def test_an_unknown_kind_lists_those_that_there_are(place: Place) -> None:
    """A misspelt kind is told apart from an empty source."""
    with pytest.raises(Invalid) as caught:
        place.collect(replace(NOTES, kind="txt"))
    assert "text" in str(caught.value.hint)


@pytest.mark.parametrize("path", ["/", "../notes", "notes/../../x", "missing", "."])
def test_paths_stay_beside_the_recipe(place: Place, path: str) -> None:
    """A recipe that is handed on means the files that are handed on with it, and not what lies above."""
    place.note("a.txt", b"one")
    for folder in (place.beside.parent / "notes", place.beside / "x"):
        folder.mkdir(exist_ok=True)
        (folder / "a.txt").write_text("another's")
    with pytest.raises(Invalid) as caught:
        place.collect(replace(NOTES, path=path))
    assert caught.value.code == "source_path"
    assert ("there is nothing there" in caught.value.message) is (path == "missing")


def test_a_package_is_named_before_anything_is_fetched(place: Place) -> None:
    """A mistake in the last source is not found after an hour of the first."""
    source = replace(NOTES, path="", package="debian:a/b", sha256="0" * 64)
    with pytest.raises(Invalid) as caught:
        content_digests(recipe_of(source), beside=place.beside)
    assert caught.value.param == "package"


def test_where_a_path_lies_is_no_part_of_it(place: Place, tmp_path: Path) -> None:
    """The same files are the same source, named from the recipe's folder or from the machine's root."""
    place.note("a.txt", b"one")
    absolute = replace(NOTES, path=str(place.beside / "notes"))
    near = content_digests(recipe_of(NOTES), beside=place.beside)
    assert content_digests(recipe_of(absolute), beside=tmp_path) == near


def test_links_among_files_are_refused(place: Place, tmp_path: Path) -> None:
    """A link could be any file of this machine, at the source's top or below."""
    place.note("a.txt", b"one")
    (tmp_path / "secret.txt").write_text("secret")
    link = place.beside / "notes" / "b.txt"
    link.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(Invalid, match="link") as caught:
        place.collect(NOTES)
    assert caught.value.code == "source_path"
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(Invalid, match=r"no plain file") as caught:
        place.collect(NOTES)
    assert caught.value.code == "source_path"
    link.unlink()
    (place.beside / "notes" / "deep").mkdir()
    (place.beside / "linked").symlink_to(place.beside / "notes")
    for path in ("linked", "linked/deep", "linked/a.txt"):
        with pytest.raises(Invalid, match="link"):
            place.collect(replace(NOTES, path=path))


def test_a_folder_without_text_is_refused(place: Place) -> None:
    """A source that holds nothing is a mistake, not a source."""
    place.note("a.pdf", b"%PDF")
    with pytest.raises(Invalid) as caught:
        place.collect(NOTES)
    assert caught.value.code == "source_empty"
    assert "name the kind" in str(caught.value.hint)  # before a process is started for it


def test_held_out_names_stand_for_all_below_them() -> None:
    """A novel is held out with its chapters, and no novel whose name begins alike."""
    held_out = HeldOut(recipe_of(replace(NOTES, held_out=("persuasion", "emma/volume-1/chapter-01"))))
    names = [
        "persuasion",
        "persuasion/chapter-01",
        "persuasions/chapter-01",
        "emma/volume-1/chapter-01",
        "emma/volume-1",
    ]
    assert [new_document("notes", name, "x") in held_out for name in names] == [True, True, False, True, False]
    assert new_document("other", "persuasion", "x") not in held_out
