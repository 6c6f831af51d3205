"""A root of its own: a file system in which there is nothing but what was granted.

Landlock lets `connect` pass to a Unix socket by its path, `stat` to any file and `chmod` to one's own; what is not
there cannot be reached at all. What may only be read is mounted read-only. /etc names this machine "localhost" and one
user. /proc is the PID namespace's own and read-only, and of the machine it shows what `_SHOWN` names: programs ask it
for their own memory and descriptors, torch chooses its arithmetic by it, vLLM its cache. It can be mounted as long as
the old root is there, by a process of that namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from allod.seal.walls import kernel

_RECURSIVE, _PRIVATE, _BIND = 0x4000, 0x4_0000, 0x1000  # MS_*
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_EXECUTION = 1, 2, 4, 8  # MOUNT_ATTR_*; as MS_* the same bits
_NEW = Path("/proc")  # where it is put together: the one folder beneath which nothing is ever granted
PROCESSES, _PROCESSORS = Path("/proc"), Path("/proc/cpuinfo")
_SHOWN = frozenset({"cpuinfo", "meminfo", "stat"})  # how many processors, which, and how much memory is free
_SHOWN_FOR_DEVICES = frozenset({"devices", "driver"})  # /proc/driver/nvidia
_HIDING_FILE, _HIDING_FOLDER = _NEW / "nothing", _NEW / "nowhere"
_TEXTS = {
    Path("/etc/hosts"): "127.0.0.1 localhost\n::1 localhost\n",
    Path("/etc/nsswitch.conf"): "passwd: files\ngroup: files\nhosts: files\n",
    Path("/etc/passwd"): "allod:x:1000:1000::/:/bin/false\n",
    Path("/etc/group"): "allod:x:1000:\n",
}
OWN_FILES = (*_TEXTS, _PROCESSORS)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system of the new root, in memory


def put_together(paths: Iterable[tuple[Path, bool]]) -> None:
    """Make a root with `paths` (and whether each may be written), which is not entered yet. Needs a mount namespace of
    one's own; raises OSError."""
    texts = _TEXTS | {_PROCESSORS: _PROCESSORS.read_text()}  # a copy, where no /proc can be mounted
    kernel.mount(None, "/", flags=_RECURSIVE | _PRIVATE)
    kernel.mount("tmpfs", str(_NEW), kind="tmpfs", flags=_NO_SETUID | _NO_DEVICES, data="mode=755,size=16m")
    _show({_reveal(path): writable for path, writable in sorted(paths)})
    _furnish(texts)


def show_processes(*, for_devices: bool, named_threads: bool) -> None:
    """Mount /proc in the new root. Needs to be in a PID namespace of one's own; raises OSError, so where the machine's
    own /proc is masked in part, as in most containers.

    `for_devices` shows drivers, too. `named_threads`: what is of the processes themselves may be written, for a driver
    names its threads there; all that is of the machine is read-only all the same.
    """
    own = _in_new(PROCESSES)
    _HIDING_FILE.touch()
    _HIDING_FOLDER.mkdir()
    kernel.mount("proc", str(own), kind="proc", flags=_NO_SETUID | _NO_DEVICES | _NO_EXECUTION)
    shown = _SHOWN | (_SHOWN_FOR_DEVICES if for_devices else frozenset())
    for entry in own.iterdir():
        if not (entry.name.isdigit() or entry.is_symlink()):  # links lead to one's own
            hiding = _HIDING_FOLDER if entry.is_dir() else _HIDING_FILE
            kernel.mount(str(entry if entry.name in shown else hiding), str(entry), flags=_BIND)
            kernel.set_mount_attributes(str(entry), _READ_ONLY, recursive=True)
    if not named_threads:
        kernel.set_mount_attributes(str(own), _READ_ONLY, recursive=True)
    _HIDING_FILE.unlink()
    _HIDING_FOLDER.rmdir()


def enter() -> None:
    """Leave the present root for the new one, and with us every process of this mount namespace. Raises OSError."""
    kernel.make_root(str(_NEW))
    kernel.set_mount_attributes("/", _READ_ONLY, recursive=False)


def _reveal(path: Path) -> Path:
    """Make in the new root each symbolic link on the way to `path`; the path without links."""
    for part in (*reversed(path.parents), path):
        if part.is_symlink():
            link = _in_new(part)
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(part.readlink())
            target = os.path.normpath(part.parent / part.readlink())  # nothing above `part` is a link
            return _reveal(Path(target) / path.relative_to(part))
    return path


def _show(paths: dict[Path, bool]) -> None:
    """Mount every path at its own name: parents first, and none that a parent already shows as it should be. No parent
    shows a device: none can be opened there."""
    shown: dict[Path, bool] = {}
    for path in sorted(paths):
        writable = paths[path]
        around = next((shown[parent] for parent in path.parents if parent in shown), None)
        if around is None or writable > around or path.is_char_device():
            _bind(path, writable=writable)
            shown[path] = writable


def _bind(path: Path, *, writable: bool) -> None:
    target = _in_new(path)
    if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(str(path), str(target), flags=_BIND | _RECURSIVE)
    attributes = _NO_SETUID | (0 if writable else _READ_ONLY) | (0 if path.is_char_device() else _NO_DEVICES)
    kernel.set_mount_attributes(str(target), attributes, recursive=True)


def _furnish(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        _in_new(path).parent.mkdir(exist_ok=True)
        _in_new(path).write_text(text)
    memory = _in_new(SHARED_MEMORY)
    memory.mkdir(parents=True, exist_ok=True)
    kernel.mount("tmpfs", str(memory), kind="tmpfs", flags=_NO_SETUID | _NO_DEVICES, data="mode=700")


def _in_new(path: Path) -> Path:
    return _NEW / path.relative_to("/")
