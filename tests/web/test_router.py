"""One table of methods and paths, and what a request's path finds in it."""

from __future__ import annotations

import pytest

from allod.web.http.router import PathRouter

ROUTER = PathRouter(
    {
        ("GET", "/things/{*}"): "anything",
        ("POST", "/things/{*}"): "any change",
        ("GET", "/things/{}"): "one",
        ("DELETE", "/things/{}"): "delete one",
        ("GET", "/things/{}/parts/{}"): "part",
        ("GET", "/things/all"): "all",
        ("GET", "/a.b+c/{*}"): "rest",
    }
)


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/things/all", ("all", ())),
        ("GET", "/things/7", ("one", ("7",))),
        ("GET", "/things/", ("one", ("",))),
        ("GET", "/things/7/parts/8", ("part", ("7", "8"))),
        ("GET", "/things/7/parts", ("anything", ("7/parts",))),
        ("POST", "/things/7", ("any change", ("7",))),
        ("GET", "/a.b+c/tile/0/1\n", ("rest", ("tile/0/1\n",))),
        ("GET", "/axb+c/tile", None),
        ("GET", "/things", None),
        ("GET", "/things/{}/parts/{}/", ("anything", ("{}/parts/{}/",))),
        ("PUT", "/things/all", None),
        ("get", "/things/all", None),
        ("GET", "/more/things/all", None),
    ],
)
def test_a_path_finds_the_entry_that_says_most_of_it(method: str, path: str, found: object) -> None:
    """The whole path, then `{}` for a part of it, then `{*}` for its rest; all else in the table is literal."""
    target, words, _ = ROUTER.find(method, path)
    assert (None if target is None else (target, words)) == found


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/things/all", ["GET"]),
        ("/things/7", ["GET", "DELETE"]),
        ("/things/{}", ["GET", "DELETE"]),
        ("/things/7/8", ["GET", "POST"]),
        ("/nowhere", []),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_path_has_the_methods_of_the_entry_that_says_most_of_it(path: str, methods: list[str], method: str) -> None:
    """What `allow` names, whichever was asked for; a rest that takes everything adds none."""
    assert list(ROUTER.find(method, path)[2]) == methods


def test_the_order_of_the_table_decides_nothing() -> None:
    """A rest that comes first hides no other entry."""
    table = {("GET", "/a/{*}"): "rest", ("GET", "/a/{}"): "part", ("GET", "/a/b/{*}"): "deeper", ("GET", "/a/b"): "b"}
    for entries in (table, dict(reversed(table.items()))):
        router = PathRouter(entries)
        found = [router.find("GET", path)[:2] for path in ("/a/b", "/a/c", "/a/b/c", "/a/c/d")]
        assert found == [("b", ()), ("part", ("c",)), ("deeper", ("c",)), ("rest", ("c/d",))]
