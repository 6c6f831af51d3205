"""Archives from outside: their members come out, and every fault is one clear error."""

from __future__ import annotations

import io
import lzma
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from allod.core.errors import Invalid
from allod.train.sources import archives
from allod.train.sources.archives import read_members


def tar_xz(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return lzma.compress(plain.getvalue())


def ar_member(name: str, content: bytes) -> bytes:
    return (
        f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        + content
        + b"\n" * (len(content) % 2)
    )


def deb(data: bytes, *, name: str = "data.tar.xz") -> bytes:
    return (
        b"!<arch>\n" + ar_member("debian-binary", b"2.0\n") + ar_member("control.tar.xz", b"x") + ar_member(name, data)
    )


def write(folder: Path, content: bytes, name: str = "text_1_all.deb") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def file(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def everything(_: str) -> bool:
    return True


def test_members_of_a_debian_package(tmp_path: Path) -> None:
    """The wanted files come out by their path in the package; directories and other files do not."""
    data = tar_xz([(file("./usr", tarfile.DIRTYPE), b""), (file("./usr/a.txt"), b"one"), (file("./usr/b"), b"two")])
    members = read_members(write(tmp_path, deb(data)), lambda name: name.endswith(".txt"))
    assert members == {"usr/a.txt": b"one"}


def test_members_of_a_wheel(tmp_path: Path) -> None:
    """The wanted files of a wheel come out in the same way."""
    path = tmp_path / "text-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("text/a.md", "one")
        wheel.writestr("text/__init__.py", "import os")
    assert read_members(path, lambda name: name.endswith(".md")) == {"text/a.md": b"one"}


@pytest.mark.parametrize("kept", [4, 40, 130, 200, -30, -1])
def test_a_truncated_package_is_damaged(tmp_path: Path, kept: int) -> None:
    """Wherever a download broke off, it is said so, and no part of a package is taken for the whole."""
    whole = deb(tar_xz([(file("./a.txt"), bytes(range(256)) * 40)]))
    with pytest.raises(Invalid) as caught:
        read_members(write(tmp_path, whole[:kept]), everything)
    assert caught.value.code == "archive_damaged"
    assert caught.value.hint


def test_files_that_end_within_a_whole_archive_are_damaged(tmp_path: Path) -> None:
    """The outer archive may be whole, and the compressed files in it cut off."""
    data = tar_xz([(file("./a.txt"), bytes(range(256)) * 40)])
    with pytest.raises(Invalid, match="ends too soon"):
        read_members(write(tmp_path, deb(data[: len(data) // 2])), everything)


def test_a_package_packed_otherwise_says_how(tmp_path: Path) -> None:
    """What this Python cannot unpack is named, with the command that repacks it."""
    with pytest.raises(Invalid, match=r"data\.tar\.zst") as caught:
        read_members(write(tmp_path, deb(b"zstd", name="data.tar.zst")), everything)
    assert "dpkg-deb" in str(caught.value.hint)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """A text is a plain file: a link could be any file of this machine."""
    data = tar_xz([(file("./a.txt", kind, "/etc/passwd"), b"")])
    with pytest.raises(Invalid) as caught:
        read_members(write(tmp_path, deb(data)), everything)
    assert caught.value.code == "archive_unsafe"


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    """Zip has links, too, in the upper half of a member's attributes."""
    path = tmp_path / "text-1-py3-none-any.whl"
    info = zipfile.ZipInfo("a.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(info, "/etc/passwd")
    with pytest.raises(Invalid) as caught:
        read_members(path, everything)
    assert caught.value.code == "archive_unsafe"


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "a//b", "a\\b"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    """A member's path becomes a document's name, so it must be one."""
    with pytest.raises(Invalid) as caught:
        read_members(write(tmp_path, deb(tar_xz([(file(name), b"x")]))), everything)
    assert caught.value.code == "archive_unsafe"


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Which of the two was meant cannot be known."""
    with pytest.raises(Invalid, match="twice"):
        read_members(write(tmp_path, deb(tar_xz([(file("./a"), b"1"), (file("./a"), b"2")]))), everything)


def test_an_archive_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking ends at the bound, whatever the archive says of itself, and also for members that nobody wants."""
    monkeypatch.setattr(archives, "MAX_CONTENT_BYTES", 1 << 20)
    bomb = write(tmp_path, deb(tar_xz([(file("./a"), bytes(8 << 20))])))
    with pytest.raises(Invalid) as caught:
        read_members(bomb, lambda name: False)
    assert caught.value.code == "archive_too_large"


def test_a_huge_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One member has a bound of its own, before it is read."""
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    path = tmp_path / "text-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a.txt", bytes(1001))
    with pytest.raises(Invalid) as caught:
        read_members(path, everything)
    assert caught.value.code == "archive_too_large"


def test_something_else_under_a_package_name_is_damaged(tmp_path: Path) -> None:
    """An error page saved as a package, or an empty file, is no package."""
    for name in ("text_1_all.deb", "text-1-py3-none-any.whl", "text.tar.gz"):
        for content in (b"", b"<html>404</html>"):
            with pytest.raises(Invalid) as caught:
                read_members(write(tmp_path, content, name), everything)
            assert caught.value.code == "archive_damaged"


def refused(path: Path, wants: Callable[[str], bool] = everything) -> str:
    with pytest.raises(Invalid) as caught:
        read_members(path, wants)
    return caught.value.code


def wheel_of(*contents: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as wheel:
        for number, content in enumerate(contents):
            wheel.writestr(f"{number}.txt", content)
    return made.getvalue()


WHEEL = "text-1-py3-none-any.whl"


@pytest.mark.parametrize("name", [WHEEL, "text_1_all.deb"])
def test_the_sums_of_both_kinds_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The archive itself, how many members it has, and how much they are together."""
    three = [b"abc" * 100] * 3
    tar = tar_xz([(file(f"{number}.txt"), content) for number, content in enumerate(three)])
    path = write(tmp_path, wheel_of(*three) if name == WHEEL else deb(tar), name)
    for bound, most in (("MAX_ARCHIVE_BYTES", path.stat().st_size), ("MAX_MEMBERS", 3), ("MAX_MEMBER_BYTES", 300)):
        monkeypatch.setattr(archives, bound, most)
        assert len(read_members(path, everything)) == 3
        monkeypatch.setattr(archives, bound, most - 1)
        assert refused(path) == "archive_too_large"
        monkeypatch.undo()


def test_the_members_of_a_wheel_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are wanted: no other is unpacked."""
    path = write(tmp_path, wheel_of(*[bytes(400)] * 3), WHEEL)
    monkeypatch.setattr(archives, "MAX_CONTENT_BYTES", 1000)
    assert len(read_members(path, lambda name: name != "0.txt")) == 2
    assert refused(path) == "archive_too_large"


def test_a_member_of_a_wheel_is_as_long_as_it_says(tmp_path: Path) -> None:
    """By its directory, which nobody else checks against it."""
    whole = wheel_of(b"abc" * 100)
    at = whole.index(b"PK\x01\x02") + 24
    for size in (299, 301):
        assert (
            refused(write(tmp_path, whole[:at] + struct.pack("<I", size) + whole[at + 4 :], WHEEL)) == "archive_damaged"
        )


@pytest.mark.parametrize(
    "package",
    [
        b"?" + deb(tar_xz([]))[1:],
        b"!<arch>\n" + ar_member("a", b"ab").replace(b"`\n", b"??") + ar_member("data.tar.xz", tar_xz([])),
        b"!<arch>\n" + ar_member("a", b"").replace(b"0         `", b"-60       `"),
        b"!<arch>\n" + re.sub(rb"[0-9]+ *`", b"9999      `", ar_member("data.tar.xz", tar_xz([]))),
        b"!<arch>\n" + ar_member("debian-binary", b"2.0\n"),
        deb(b"no xz"),
        deb(lzma.compress(b"no tar" * 200)),
    ],
    ids=["no ar", "a header's end", "a length below 0", "a length beyond", "no files", "no xz", "no tar"],
)
def test_each_layer_of_a_debian_package_is_checked(tmp_path: Path, package: bytes) -> None:
    """What is not one is damage, and is never read for ever."""
    assert refused(write(tmp_path, package)) == "archive_damaged"


def test_a_length_that_no_file_has_takes_no_memory(tmp_path: Path) -> None:
    """Ten digits fit into a header."""
    path = write(tmp_path, b"!<arch>\n" + re.sub(rb"[0-9]+ *`", b"9999999999`", ar_member("data.tar.xz", b"x")))
    tracemalloc.start()
    try:
        assert refused(path) == "archive_damaged"
        assert tracemalloc.get_traced_memory()[1] < 2 * archives.MAX_ARCHIVE_BYTES
    finally:
        tracemalloc.stop()


def test_a_dictionary_larger_than_the_text_is_refused(tmp_path: Path) -> None:
    """One byte of an xz stream's header asks for four gibibytes."""
    data = bytearray(tar_xz([(file("./a.txt"), b"one")]))
    end = 12 + (data[12] + 1) * 4
    data[12 + 4] = 40
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    assert refused(write(tmp_path, deb(bytes(data)))) == "archive_damaged"


@pytest.mark.parametrize("value", [0x00, 0xFF, 0x39])
def test_no_byte_of_a_package_makes_another_error(tmp_path: Path, value: int) -> None:
    """Whatever the libraries that unpack raise for it, it is one of ours; else the members come out."""
    wheel = wheel_of(b"one" * 9, b"two")
    tar = lzma.decompress(tar_xz([(file("./a.txt"), b"one")]))[:1024]
    mutants = [(WHEEL, wheel[:at] + bytes([value]) + wheel[at + 1 :]) for at in range(len(wheel))]
    mutants += [
        ("text_1_all.deb", deb(lzma.compress(tar[:at] + bytes([value]) + tar[at + 1 :], preset=0)))
        for at in range(0, 345, 3)
    ]
    for name, content in mutants:
        with suppress(Invalid):
            read_members(write(tmp_path, content, name), everything)
