"""Archives from outside: their members come out, and every fault is one clear error."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
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


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "a//b"])
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
