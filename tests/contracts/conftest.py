"""Stores of every kind, empty: in memory, in SQLite, in one real PostgreSQL that all tests share."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.contracts.postgres import Server, running_postgres
from tests.contracts.tenants import (
    POSTGRES,
    Place,
    open_store,
)

from allod.govern.stores.memory import MemoryStore
from allod.govern.stores.sqlite import sqlite_store
from allod.govern.tenancy.store import TenantStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place: what is durable must survive its process, and no test cuts the power."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def place(request: pytest.FixtureRequest, directory: Path) -> Place:
    """An empty database: `place` is parametrized with its kind."""
    if request.param == "sqlite":
        return Place("sqlite", str(directory / "tenants.db"))
    server: Server = request.getfixturevalue("postgres")
    return Place("postgres", server.make_place())


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def store(request: pytest.FixtureRequest, directory: Path) -> Iterator[TenantStore]:
    if request.param == "memory":
        opened: TenantStore = MemoryStore()
    elif request.param == "sqlite":
        opened = sqlite_store(directory / "tenants.db")
    else:
        server: Server = request.getfixturevalue("postgres")
        opened = open_store("postgres", server.make_place())
    yield opened
    opened.close()


@pytest.fixture
def execute(place: Place, request: pytest.FixtureRequest) -> Callable[[str], object]:
    """Runs a statement past the store."""

    def run(statement: str) -> None:
        if place.kind == "postgres":
            request.getfixturevalue("postgres").execute(statement, place.address)
            return
        with closing(sqlite3.connect(place.address)) as connection, connection:
            connection.execute(statement)

    return run
