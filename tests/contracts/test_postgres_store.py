"""Tenants in PostgreSQL: a server that may stop, crash, hang, or be somebody else's."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing

import pytest
from tests.contracts.postgres import Server
from tests.contracts.tenants import (
    Place,
    in_postgres,
    lease,
    open_store,
    put,
    tenant,
    unavailable,
)

from allod.core.errors import Invalid


@in_postgres
def test_a_server_that_stops_and_starts_is_found_again(place: Place, postgres: Server) -> None:
    """While it is gone every call says so soon; what was acknowledged is there when it is back, after a crash too."""
    with closing(place.open()) as store:
        for how in (signal.SIGINT, signal.SIGQUIT):
            put(store, tenant(how.name))
            lease(store, 1, meter=how.name)
            postgres.stop(how)
            try:
                for call in (lambda: store.changes_since(0), lambda: lease(store, 1), place.open):
                    began = time.monotonic()
                    assert unavailable(call).code == "tenants_unavailable"
                    assert time.monotonic() - began < 10  # a busy machine adds to it; without a bound it is never
            finally:
                postgres.start()
            assert store.tenant(how.name).id == how.name
            assert lease(store, 100, meter=how.name) == 99


@in_postgres
def test_a_session_that_was_ended_costs_one_reconnection(place: Place, postgres: Server) -> None:
    """As a restart or an administrator ends it: the next call does not even notice."""
    with closing(place.open()) as store:
        put(store, tenant())
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'allod'")
        assert store.tenant("one") == tenant()


@in_postgres
def test_a_server_that_hangs_is_given_up(place: Place, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections stay open and nothing answers: its own limits do not run then, ours do."""
    monkeypatch.setattr("allod.govern.stores.postgres._Bounded.answer_s", 0.5)
    with closing(place.open()) as store:
        put(store, tenant())
        with postgres.frozen():
            began = time.monotonic()
            assert unavailable(lambda: store.tenant("one")).code == "tenants_unavailable"
            assert time.monotonic() - began < 5
        assert store.tenant("one") == tenant()


@in_postgres
def test_a_row_that_another_holds_is_waited_for_a_little(
    place: Place, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten transaction elsewhere stops no gateway for long."""
    monkeypatch.setattr("allod.govern.stores.postgres.LOCK_S", 0.2)
    with closing(place.open()) as store:
        put(store, tenant())
        holder = threading.Thread(
            target=postgres.execute,
            args=("BEGIN; UPDATE realm SET changes = changes; SELECT pg_sleep(1.5)", place.address),
        )
        holder.start()
        while "UPDATE realm" not in postgres.execute(
            "SELECT query FROM pg_stat_activity WHERE query LIKE 'BEGIN; UPDATE realm%'"
        ):
            time.sleep(0.02)
        time.sleep(0.1)
        assert unavailable(lambda: put(store, tenant("two"))).code == "tenants_unavailable"
        assert store.tenant("one") == tenant()
        holder.join()
        put(store, tenant("two"))


@pytest.mark.parametrize(
    ("conninfo", "is_refused"),
    [
        ("host=db.example sslmode=disable", True),
        ("host=db.example sslmode=require", True),
        ("host=localhost,db.example sslmode=prefer", True),
        ("hostaddr=192.0.2.1 sslmode=verify-ca", True),
        ("postgresql://u:secret@db.example/allod?sslmode=allow", True),
        ("host='", True),
        ("nonsense=1", True),
        ("host=127.0.0.1 port=1 sslmode=disable", False),
        ("host=/nowhere", False),
    ],
)
def test_no_database_off_this_machine_without_a_verified_server(conninfo: str, is_refused: bool) -> None:
    """Digests and counters cross no network in the clear, nor to whoever answers; passwords are in no message."""
    pytest.importorskip("psycopg")
    if is_refused:
        with pytest.raises(Invalid) as caught:
            open_store("postgres", conninfo)
        assert caught.value.code == "tenants_conninfo"
        assert "secret" not in caught.value.message
    else:
        assert unavailable(lambda: open_store("postgres", conninfo)).code == "tenants_unavailable"
