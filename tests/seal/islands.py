"""Islands that run a few lines of Python, for the tests of what an island is."""

from __future__ import annotations

import sys
from pathlib import Path

from allod.seal.launch import SealOptions, python_read_paths, start

SOURCE = str(Path(__file__).parents[2] / "src")
SLEEP = "import time; time.sleep(60)"


def options(tmp_path: Path, code: str, *arguments: str, **more: object) -> SealOptions:
    folders = {name: tmp_path / name for name in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    return SealOptions(
        command=(sys.executable, "-S", "-c", code, *arguments),
        profile=more.pop("profile", "island"),  # type: ignore[arg-type]
        read_paths=(*python_read_paths(), *more.pop("read_paths", ())),  # type: ignore[misc]
        write_paths=(folders["output"],),
        scratch_dir=folders["scratch"],
        log_path=tmp_path / "log",
        **more,  # type: ignore[arg-type]
    )


def output(tmp_path: Path, code: str, *arguments: str, **more: object) -> str:
    process = start(options(tmp_path, code, *arguments, **more))
    assert process.wait(30) == 0, (tmp_path / "log").read_text()
    return (tmp_path / "log").read_text().strip()


def errors_of(tmp_path: Path, *attempts: str, **more: object) -> list[str]:
    """Run each statement in an island; the names of the errors that they meet, `done` where there is none."""
    code = (
        "import errno, os, socket, subprocess, sys\nfrom pathlib import Path\n"
        "for attempt in sys.argv[1:]:\n"
        "    try: exec(attempt); print('done')\n"
        "    except OSError as e: print(errno.errorcode[e.errno])\n"
    )
    return output(tmp_path, code, *attempts, **more).split()
