"""Tenants in SQLite: one file, which others may hold, remove or break."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.contracts.tenants import (
    Place,
    charge,
    in_sqlite,
    put,
    refused,
    start,
    tenant,
    unavailable,
)

from allod.core.errors import Unavailable
from allod.govern.stores.sqlite import sqlite_store
from allod.govern.tenancy.store import Position


@pytest.fixture
def file(place: Place) -> Path:
    return Path(place.address)


@in_sqlite
def test_the_file_is_its_owners_alone(place: Place, file: Path) -> None:
    """Mode 0600, its journal too; one that others can touch is refused, since they could have let themselves in."""
    with closing(place.open()) as store:
        put(store, tenant())
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 3
    file.chmod(0o640)
    assert refused(place.open)[0] == "tenants_permissions"


@in_sqlite
@pytest.mark.parametrize("place_of_damage", ["head", "middle", "cut", "noise"])
def test_a_damaged_file_is_told_at_the_start(place: Place, file: Path, place_of_damage: str) -> None:
    """Wherever it is: the gateway does not start on it, and says what to do."""
    with closing(place.open()) as store:
        for number in range(200):
            put(store, tenant(f"t{number}", name=f"{number} " + "x" * 200))
    data = bytearray(file.read_bytes())
    if place_of_damage == "head":
        data[:16] = bytes(16)
    elif place_of_damage == "middle":
        data[4096 * 3 : 4096 * 12] = bytes(4096 * 9)
    elif place_of_damage == "cut":
        del data[len(data) // 2 :]
    else:
        data = bytearray(random.Random(8).randbytes(8192))
    file.write_bytes(data)
    error = unavailable(place.open)
    assert (error.code, "backup" in (error.hint or "")) == ("tenants_corrupt", True)


@in_sqlite
def test_a_removed_file_is_missed_at_once(place: Place, file: Path) -> None:
    """SQLite itself would go on with a file that has no name. Put back, it answers again; another in its place not."""
    with closing(place.open()) as store:
        put(store, tenant())
        aside = file.rename(file.with_suffix(".aside"))
        for call in (lambda: store.changes_since(0), lambda: put(store, tenant("two"))):
            assert unavailable(call).code == "tenants_unavailable"
        assert not file.exists()
        aside.rename(file)
        assert store.tenant("one") == tenant()
        file.rename(aside)
        sqlite_store(file).close()
        assert "replaced" in unavailable(lambda: store.tenant("one")).message


@in_sqlite
def test_a_locked_file_is_waited_for_a_little(place: Place, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that holds it delays writers, and only for so long; readers go on. Then all is well again."""
    monkeypatch.setattr("allod.govern.stores.sqlite.BUSY_S", 0.2)
    holder = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[2], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.readline()
"""
    with closing(place.open()) as store:
        put(store, tenant())
        with start(holder, place) as process:
            began = time.monotonic()
            error = unavailable(lambda: put(store, tenant("two")))
            assert (error.code, "locked" in error.message) == ("tenants_unavailable", True)
            assert time.monotonic() - began < 5
            assert store.tenant("one") == tenant()
            process.communicate("done\n", timeout=30)
        put(store, tenant("two"))


@in_sqlite
def test_the_file_alone_is_a_database(place: Place, file: Path) -> None:
    """A copy of it without its journal has the tables from the start, and after a close what was put, whoever else
    has the file open."""
    alone = file.with_name("alone")
    with closing(place.open()) as store:
        shutil.copy(file, alone)
        assert tables_of(alone) == tables_of(file) != []
        with closing(place.open()) as other:  # so that the file's last connection is not closed with the store
            put(store, tenant())
            store.close()
            shutil.copy(file, alone)
            with closing(sqlite_store(alone)) as copied:
                assert copied.tenant("one") == other.tenant("one")


@in_sqlite
def test_who_closes_waits_for_nobody(place: Place, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for one who reads nor for one who writes; and a file that is gone keeps nobody from closing."""
    monkeypatch.setattr("allod.govern.stores.sqlite.BUSY_S", 5)
    with closing(place.open()) as store, closing(sqlite3.connect(file, isolation_level=None)) as other:
        put(store, tenant())
        other.execute("BEGIN IMMEDIATE")
        other.execute("SELECT * FROM tenants").fetchone()
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 5
    store = place.open()
    file.unlink()
    store.close()


def tables_of(file: Path) -> list[object]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall()


@in_sqlite
def test_no_directory_is_no_database(tmp_path: Path, place: Place) -> None:
    """A path that leads nowhere is said to, and makes nothing."""
    error = unavailable(lambda: sqlite_store(tmp_path / "missing" / "tenants.db"))
    assert error.code == "tenants_unavailable"
    assert not (tmp_path / "missing").exists()


def test_a_sum_that_no_number_holds_is_refused_whole(tmp_path: Path) -> None:
    """65,536 receipts of the highest charge there is in one minute: none of the last batch counts, all before do."""
    most, half = 1 << 47, 1 << 15
    with closing(sqlite_store(tmp_path / "tenants.sqlite")) as store:
        store.charge("a", Position(half, 1), [charge(micros=most)] * half)
        with pytest.raises(Unavailable):
            store.charge("a", Position(2 * half, 2), [charge(micros=most)] * half)
        assert store.position("a") == Position(half, 1)
        assert store.used(tenant_id=None, since_ms=0, until_ms=60_000).micros == half * most
