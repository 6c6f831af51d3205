"""Packages and files of those who mean harm: nothing is believed, nothing takes the memory or changes unseen."""

from __future__ import annotations

import errno
import io
import lzma
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.collecting import collect
from tests.train.stage_logs import MemoryLog

from allod.core.errors import Invalid
from allod.train.corpus.documents import new_document
from allod.train.recipe import Source
from allod.train.recipe_reading import read_recipe
from allod.train.runs import open_run
from allod.train.sources import archives, plain_text
from allod.train.sources import files as reading_files
from allod.train.sources.archives import read_members
from allod.train.sources.bounds import Bounds
from allod.train.sources.content import content_digest
from allod.train.sources.files import Files
from allod.train.stage_task import StageFacts
from allod.train.stages import source as reading


def package(folder: Path, tar: bytes) -> Path:
    """A Debian package with these bytes as its files."""
    data = lzma.compress(tar)
    header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"data.tar.xz", 0, 0, 0, b"100644", len(data))
    (folder / "text_1_all.deb").write_bytes(b"!<arch>\n" + header + data)
    return folder / "text_1_all.deb"


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return plain.getvalue()


def with_headers(**headers: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {name.replace("_", "."): value for name, value in headers.items()}
    return info


def code_of(archive: Path) -> str:
    with pytest.raises(Invalid) as refused:
        read_members(archive, lambda _: True)
    return refused.value.code


def test_a_file_of_holes_is_refused(tmp_path: Path) -> None:
    """A few bytes that say they are many gibibytes of zeros."""
    holes = with_headers(GNU_sparse_map="0,1", GNU_sparse_size=str(32 << 20), GNU_sparse_name="a.txt")
    assert code_of(package(tmp_path, tar_of((holes, b"x")))) == "archive_unsafe"


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_headers_upon_headers_are_damage(tmp_path: Path, kind: bytes) -> None:
    """Each makes the reader call itself once more."""
    info = tarfile.TarInfo("h")
    info.type, info.size = kind, 0
    assert code_of(package(tmp_path, info.tobuf() * 5000)) == "archive_damaged"


def test_a_header_that_is_no_number_is_damage(tmp_path: Path) -> None:
    """Not a traceback."""
    assert code_of(package(tmp_path, tar_of((with_headers(GNU_sparse_map="x,y"), b"x")))) == "archive_damaged"


def test_all_members_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the stream around them counts."""
    monkeypatch.setattr(archives, "MAX_CONTENT_BYTES", 1 << 20)
    members = [(tarfile.TarInfo(f"{number}"), bytes(400 << 10)) for number in range(3)]
    assert code_of(package(tmp_path, tar_of(*members))) == "archive_too_large"


LEFT = ("a.txt.bak", "x/.a.txt.swp", "Thumbs.db", "desktop.ini")
SOURCE = Source("words", "text", "CC0-1.0", "GB", "here", "2026", path="words")


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    """What is trained on is what the digest is of, though it is read twice."""
    (tmp_path / "words").mkdir()
    text = tmp_path / "words" / "a.txt"
    text.write_text("one")
    files = Files(SOURCE, tmp_path / "words")
    assert files["a.txt"] == b"one"
    text.write_text("two")
    with pytest.raises(Invalid) as refused:
        files["a.txt"]
    assert refused.value.code == "source_changed"


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """Between the look and the read: it might lead to a key of ours."""
    (tmp_path / "words").mkdir()
    (tmp_path / "secret").write_text("secret")
    text = tmp_path / "words" / "a.txt"
    text.write_text("one")
    files = Files(SOURCE, tmp_path / "words")
    text.unlink()
    text.symlink_to(tmp_path / "secret")
    with pytest.raises(Invalid):
        files["a.txt"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "\u202etxt.a", "", "x" * 2000])
def test_a_documents_name_deceives_nobody(name: str) -> None:
    """It is shown wherever lineage is."""
    with pytest.raises(Invalid) as refused:
        new_document("words", name, "text")
    assert refused.value.code == "document_name"
    assert "\x1b" not in f"{refused.value.message}{refused.value.hint}"


@pytest.mark.parametrize("origin", ["a\x9b2Jb", "a\u202eb", "a\u2028b"])
def test_terms_deceive_nobody(origin: str) -> None:
    """A recipe may come from somebody else, and its words go into the public summary."""
    source = {"name": "a", "kind": "text", "path": "a", "licence": "MIT", "jurisdiction": "GB", "date": "2026"}
    with pytest.raises(Invalid):
        read_recipe({"name": "r", "minutes": 1, "source": [{**source, "origin": origin}]}, where="x")


def test_a_folder_that_others_may_write_is_no_runs_folder(tmp_path: Path) -> None:
    """Another user of the machine would write the manifests that we sign."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(Invalid) as refused, open_run(tmp_path / "run", MemoryLog()):
        pass
    assert refused.value.code == "run_permissions"


@pytest.mark.parametrize("name", [".hidden.txt", "__MACOSX/a.txt", ".git/a.txt", "a.txt~", "deep/.cache/a.md", *LEFT])
def test_what_is_hidden_is_no_document(tmp_path: Path, name: str) -> None:
    """What systems and editors leave in a folder is counted, and not learnt from."""
    file = tmp_path / "words" / name
    file.parent.mkdir(parents=True)
    file.write_text("left behind")
    (tmp_path / "words" / "kept.txt").write_text("kept")
    files = Files(SOURCE, tmp_path / "words")
    assert list(files) == ["kept.txt"]
    assert files.unread == {name: "hidden"}


def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its documents would be missing without a word."""
    (tmp_path / "words" / "theirs").mkdir(parents=True)
    (tmp_path / "words" / "a.txt").write_text("one")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("theirs"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Invalid, match="theirs cannot be read") as refused:
        Files(SOURCE, tmp_path / "words")
    assert refused.value.code == "source_path"


def test_a_document_is_bounded_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document is the unit that lineage leads back to: one that is a library says nothing."""
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("seven..")
    monkeypatch.setattr(reading_files, "MAX_DOCUMENT_BYTES", 7)
    assert Files(SOURCE, tmp_path / "words")["a.txt"] == b"seven.."
    monkeypatch.setattr(reading_files, "MAX_DOCUMENT_BYTES", 6)
    with pytest.raises(Invalid, match=r"a\.txt is longer") as refused:
        Files(SOURCE, tmp_path / "words")["a.txt"]
    assert refused.value.code == "document_too_large"


def test_a_link_is_called_a_link(tmp_path: Path) -> None:
    """A folder that is linked in is not walked into, and the operator hears that it was one."""
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("one")
    (tmp_path / "words" / "more").symlink_to(tmp_path)
    (tmp_path / "words" / "gone").symlink_to(tmp_path / "nowhere")
    files = Files(SOURCE, tmp_path / "words")
    assert (list(files), files.unread) == (["a.txt"], {"more": "a link", "gone": "a link"})


@pytest.mark.parametrize("packaged", [False, True])
def test_a_name_that_is_no_text_is_refused_by_name(tmp_path: Path, packaged: bool) -> None:
    """A document is called by its name, in lineage and in JSON; in a folder as in a package."""
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "\udcff.txt").write_text("one")
    with pytest.raises(Invalid, match="is not UTF-8") as refused:
        _collected(tmp_path, packaged, tarfile.TarInfo("\udcff.txt"))
    assert refused.value.code == ("archive_unsafe" if packaged else "source_path")


def test_what_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    """A folder of everything, with one text in it: the facts say what the other files are, and how many."""
    words = tmp_path / "words"
    words.mkdir()
    names = [
        "a.html",
        "b\x1b[2J.csv",
        "c.jsonl",
        "d.txt.gz",
        "e.docx",
        "f.pdf",
        *(f"g{number:02}.xml" for number in range(9)),
    ]
    for name in names:
        (words / name).write_text("x")
    (words / "one.txt").write_text("one")
    (tmp_path / "out").mkdir()
    facts = collect(
        read_recipe({"name": "r", "steps": 1, "size": "1m", "source": [recipe_row()]}, where="r"),
        given=tmp_path,
        cache=tmp_path,
        output=tmp_path / "out",
        beside=tmp_path,
    )
    assert (facts["num_documents"], facts["num_unread"]) == (1, 15)
    assert str(facts["unread_words"]).startswith("15 not read: a.html (not of the kind text), b")
    assert str(facts["unread_words"]).count("(not of the kind text)") == 10
    assert str(facts["unread_words"]).isprintable()
    assert str(facts["unread_words"]).endswith("and 5 more")


def recipe_row() -> dict[str, str]:
    row = {
        "name": "words",
        "kind": "text",
        "licence": "CC0-1.0",
        "jurisdiction": "GB",
        "origin": "here",
        "date": "2026",
    }
    return {**row, "path": "words"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"PK\x03\x04...", "a zip archive"),
        ("caf\u00e9".encode("utf-16"), "UTF-16"),
        ("words".encode("utf-16-le"), "binary"),
        (b"\x00\x01", "binary"),
        (b"<!DOCTYPE html><p>hi", "HTML"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>', "XML"),
        (b'{"text": "one"}\n{"text": "two"}\n', "JSON"),
        (b'[\n {"text": "one"}\n]', "JSON"),
        (b"{\\rtf1\\ansi", "RTF"),
        (b"\n\n%PDF-1.4\n", "a PDF"),
        (b"\xef\xbb\xbf%PDF-1.4\n", "a PDF"),
        (b"%!PS-Adobe-3.0\n", "PostScript"),
        (b"<!-- saved page -->\n<html><p>hi", "HTML"),
    ],
)
def test_what_is_no_text_under_a_texts_name_is_refused(content: bytes, kind: str) -> None:
    """It would be learnt from as the bytes that it is."""
    with pytest.raises(Invalid, match=kind) as refused:
        list(plain_text.read({"a.txt": content}))
    assert refused.value.code == "not_plain_text"


@pytest.mark.parametrize(
    "text", ["[sic] he said", "{braces} in prose", "[1]\nA footnote.", "< 5 apples", "<!-- a note -->\nWords."]
)
def test_prose_that_begins_with_a_bracket_is_prose(text: str) -> None:
    """Only what is JSON throughout is JSON."""
    assert list(plain_text.read({"a.txt": text.encode()})) == [("a.txt", text)]


def test_json_lines_as_a_source_are_refused(tmp_path: Path) -> None:
    """One document of raw JSON is nobody's corpus."""
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "corpus.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(Invalid, match=r"reads \.txt and \.md files") as refused:
        Files(SOURCE, tmp_path / "words" / "corpus.jsonl")
    assert refused.value.code == "source_path"


@pytest.mark.parametrize(
    ("bounds", "packaged", "code"),
    [
        (Bounds(package_bytes=5), True, "archive_too_large"),
        (Bounds(folder_bytes=5), False, "source_too_large"),
        (Bounds(source_documents=1), False, "source_too_large"),
        (Bounds(recipe_bytes=5), False, "source_too_large"),
    ],
)
def test_the_text_of_a_source_is_bounded_in_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: Bounds, packaged: bool, code: str
) -> None:
    """Of a package, of a folder, of all together, and the number of documents: six bytes in two are one too many."""
    assert _collected(tmp_path, packaged)["num_bytes"] == 6
    monkeypatch.setattr(reading, "BOUNDS", bounds)
    with pytest.raises(Invalid) as refused:
        _collected(tmp_path, packaged)
    assert refused.value.code == code


def test_what_is_hidden_in_a_package_is_counted_and_named(tmp_path: Path) -> None:
    """As it is in a folder."""
    facts = _collected(tmp_path, True, tarfile.TarInfo(".git/c.txt"))
    assert (facts["num_documents"], facts["num_unread"]) == (2, 1)
    assert facts["unread_words"] == "1 not read: .git/c.txt (hidden)"


def _collected(folder: Path, packaged: bool, *more: tarfile.TarInfo) -> StageFacts:
    """What `collect` says of two documents of three bytes, in a folder or a package, and of `more` beside them."""
    texts = {"a.txt": b"abc", "b.txt": b"def"}
    given, output = folder / "given", folder / "output"
    for made in (given, output, folder / "words"):
        made.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / "words" / name).write_bytes(text)
    tar = tar_of(*((tarfile.TarInfo(name), text) for name, text in texts.items()), *((info, b"x") for info in more))
    package(given, tar)
    where: dict[str, Any] = {"path": "", "package": "debian:text", "sha256": content_digest(texts)} if packaged else {}
    source = replace(SOURCE, **where)
    recipe = replace(
        read_recipe({"name": "r", "steps": 1, "size": "1m", "source": [recipe_row()]}, where="r"), sources=(source,)
    )
    return collect(recipe, given=given, cache=folder, output=output, beside=folder)
