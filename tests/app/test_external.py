"""A model that is served from somebody's server: what its settings may say, and what is said when they are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.external import prepare_external, write_external
from tests.engine.certificates import Authority
from tests.engine.test_http import Answer, Exchange, Server, serving

from allod.app.gateway.engine import run_engine
from allod.app.gateway.external import External, find_external
from allod.app.home import load_settings
from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Chat, Completion, Sampling
from allod.engine.engine import EnginePlace
from allod.engine.owned import own_folders
from allod.settings.tree import Settings

ANSWER = (
    b'data: {"model":"there","choices":[{"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
LIST = b'{"object": "list", "data": [{"id": "there"}, {"id": "other"}]}'
CHAT = Chat("far", ({"role": "user", "content": "Where?"},), Sampling(seed=1, max_tokens=5))


async def server(exchange: Exchange) -> None:
    """Lists two models, and answers."""
    await exchange.whole(LIST if exchange.head.startswith(b"GET /v1/models ") else ANSWER)


async def started(home: Path, **changes: Deadlines) -> None:
    """Start it as `allod up` does, and ask it once."""
    settings, prepared = await asyncio.to_thread(prepare_external, home)
    async with run_engine(replace(settings, **changes), prepared) as engine:  # type: ignore[arg-type]
        assert isinstance(await engine.complete(CHAT, salt="s"), Completion)


async def failure(home: Path) -> AllodError:
    with pytest.raises(AllodError) as caught:
        await started(home, deadlines=Deadlines(connect_s=2))
    return caught.value


def refusal(home: Path, **said: str | int | bool | list[str]) -> Invalid:
    write_external(home, **said)
    with pytest.raises(Invalid) as caught:
        load_settings(home=home)
    return caught.value


@asynccontextmanager
async def by_tls(authority: Authority, answer: Answer) -> AsyncGenerator[tuple[Server, int], None]:
    there = Server(answer)
    serves = await asyncio.to_thread(authority.serve_as, "127.0.0.1")
    listener = await asyncio.start_server(there.accept, "127.0.0.1", 0, ssl=serves)
    try:
        yield there, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await there.stop()
        await asyncio.sleep(0)


# What is said in the settings


@pytest.mark.parametrize(
    ("said", "code", "key"),
    [
        ({}, "settings_external", "external.far"),
        ({"url": "https://a.example", "socket": "/s", "ca": "c"}, "settings_external", "external.far"),
        ({"url": "http://engine.example/v1"}, "plain_http", "external.far.url"),
        ({"url": "http://10.0.0.1"}, "plain_http", "external.far.url"),
        ({"url": "engine.example"}, "bad_url", "external.far.url"),
        ({"url": "https://me:secret@engine.example", "ca": "c"}, "bad_url", "external.far.url"),
        ({"url": "https://engine.example"}, "settings_external", "external.far.ca"),
        ({"url": "http://127.0.0.1:1", "ca": "ca.pem"}, "settings_external", "external.far.ca"),
        ({"socket": "/s", "jurisdiction": "UK"}, "settings_name", "external.far.jurisdiction"),
        ({"socket": "/s", "country": "Britain"}, "settings_name", "external.far.country"),
        ({"socket": "/s", "site": ""}, "settings_name", "external.far.site"),
        ({"socket": "/s", "salt_field": "Salt!"}, "settings_name", "external.far.salt_field"),
        ({"socket": "/s", "name_there": "a\x1b[2Jb"}, "settings_name", "external.far.name_there"),
        ({"socket": "/s", "context_tokens": 5}, "settings_range", "external.far.context_tokens"),
        ({"socket": "/s", "slots": 0}, "settings_range", "external.far.slots"),
        ({"socket": "/s", "slot": 1}, "settings_unknown", "slot"),
        ({"socket": "/s", "slots": "4"}, "settings_type", "slots"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, said: dict[str, str | int | bool | list[str]], code: str, key: str
) -> None:
    """With the key that is wrong; a password in an address is not shown."""
    error = refusal(tmp_path, **said)
    assert (error.code, error.param) == (code, key)
    assert "secret" not in error.message


def test_where_it_stands_must_be_said(tmp_path: Path) -> None:
    """Nobody else would say it."""
    (tmp_path / "allod.toml").write_text('[external.far]\nsocket = "/s"\n')
    with pytest.raises(Invalid, match="site is missing"):
        load_settings(home=tmp_path)


@pytest.mark.parametrize("name", ["echo", "auto", "smollm2-135m", "a/b", "m.gguf", " a", ""])
def test_a_name_that_means_something_else_is_refused(tmp_path: Path, name: str) -> None:
    """A model of the catalogue's, a file, or none."""
    (tmp_path / "allod.toml").write_text(f'[external."{name}"]\nsocket = "/s"\nsite = "far"\n')
    with pytest.raises(Invalid) as caught:
        load_settings(home=tmp_path)
    assert caught.value.code == "settings_name"


def external_of(home: Path, **said: str | int | bool | list[str]) -> External:
    write_external(home, socket="/s", **said)
    settings: Settings = load_settings(home=home)
    found = find_external(settings, "far")
    assert found is not None
    return found


def test_its_digest_is_of_what_is_said(tmp_path: Path) -> None:
    """Another licence is another claim; where a key lies on this machine is no part of it."""
    digests = [
        external_of(tmp_path, **said).served.digest
        for said in ({}, {"licence": "MIT"}, {"key_file": "a.key"}, {"name_there": "m"})
    ]
    assert digests[0] == digests[2]
    assert len(set(digests)) == 3


# At a start


async def test_another_gateways_own_engine_is_not_asked(tmp_path: Path) -> None:
    """It knows no salts: its gateway alone knows what its slots hold. By whichever name; and no longer than it runs."""
    folder = tmp_path / "engines"
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread((tmp_path / "alias").symlink_to, folder)
    async with serving(folder, server):
        for name in ("engines/s", "alias/s"):
            await asyncio.to_thread(write_external, tmp_path, socket=name, name_there="there")
            owned = own_folders(folder)
            await asyncio.to_thread(owned.__enter__)
            assert (await failure(tmp_path)).code == "engine_owned"
            await asyncio.to_thread(owned.__exit__, None, None, None)
            await started(tmp_path)


async def test_a_model_is_served_from_a_socket(tmp_path: Path) -> None:
    """Under the name that it has there; place, seal and replay are what is said and no more."""
    await asyncio.to_thread(write_external, tmp_path, socket="s", name_there="there", licence="MIT")
    async with serving(tmp_path, server):
        settings, prepared = await asyncio.to_thread(prepare_external, tmp_path)
        async with run_engine(settings, prepared) as engine:
            info = engine.info
            assert (await engine.complete(CHAT, salt="s")).content == "a"
    assert (info.name, info.seal, info.seal_proof, info.replay) == ("external", "none", None, "none")
    assert info.place == EnginePlace("far", "GB-WLS")


async def test_a_model_is_served_over_tls_with_a_key(tmp_path: Path) -> None:
    """The key goes to whom the authority vouches for, with every request."""
    authority = await asyncio.to_thread(Authority, tmp_path)
    async with by_tls(authority, server) as (there, port):
        key = tmp_path / "far.key"
        await asyncio.to_thread(key.touch, 0o600)
        await asyncio.to_thread(key.write_text, "sk-far\n")
        said = {"url": f"https://127.0.0.1:{port}/v1", "ca": authority.file.name, "key_file": "far.key"}
        await asyncio.to_thread(write_external, tmp_path, name_there="there", **said)
        await started(tmp_path)
    assert len(there.heard) == 2
    assert all(b"authorization: Bearer sk-far\r\n" in exchange.head for exchange in there.heard)


async def test_a_key_goes_to_nobody_else(tmp_path: Path) -> None:
    """A server that another authority vouches for hears nothing, and the start says why."""
    authority = await asyncio.to_thread(Authority, tmp_path)
    another = await asyncio.to_thread(Authority, tmp_path, "another")
    async with by_tls(authority, server) as (there, port):
        said = {"url": f"https://127.0.0.1:{port}/v1", "ca": another.file.name}
        await asyncio.to_thread(write_external, tmp_path, **said)
        error = await failure(tmp_path)
    assert (type(error), error.code, there.heard) == (Unavailable, "engine_untrusted", [])


@pytest.mark.parametrize(
    ("mode", "text", "code"),
    [
        (0o644, "sk-far", "unsafe_secret"),
        (0o600, "", "bad_secret"),
        (0o600, "sk\r\nx: y", "bad_secret"),
        (0, "", "no_secret"),
    ],
)
async def test_a_key_that_others_can_read_or_that_is_none_is_refused(
    tmp_path: Path, mode: int, text: str, code: str
) -> None:
    """Before anything is sent; the error does not quote it."""
    key = tmp_path / "far.key"
    if mode:
        await asyncio.to_thread(key.write_text, text)
        await asyncio.to_thread(key.chmod, mode)
    await asyncio.to_thread(write_external, tmp_path, socket="s", key_file="far.key")
    error = await failure(tmp_path)
    assert (type(error), error.code) == (Invalid, code)
    assert "sk" not in error.message


async def test_a_file_of_authorities_that_is_not_there_is_said(tmp_path: Path) -> None:
    """By its name."""
    await asyncio.to_thread(write_external, tmp_path, url="https://127.0.0.1:1/v1", ca="absent.pem")
    error = await failure(tmp_path)
    assert (error.code, "absent.pem" in error.message) == ("unreadable", True)


async def test_a_server_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    """Rather than at the first request."""
    await asyncio.to_thread(write_external, tmp_path, socket="absent")
    assert (await failure(tmp_path)).code == "engine_lost"


async def test_a_model_that_the_server_does_not_list_is_said_with_those_that_it_does(tmp_path: Path) -> None:
    """So that the right name can be put into the settings."""
    await asyncio.to_thread(write_external, tmp_path, socket="s")
    async with serving(tmp_path, server):
        error = await failure(tmp_path)
    assert (error.code, error.hint) == (
        "model_unknown",
        "it lists: there, other; name_there in its settings says which is meant",
    )


async def test_a_server_that_lists_no_models_is_one_too(tmp_path: Path) -> None:
    """The list is not what is asked of it."""

    async def answer(exchange: Exchange) -> None:
        if exchange.head.startswith(b"GET"):
            await exchange.whole(b"no", status=b"404 Not Found")
        else:
            await exchange.whole(ANSWER.replace(b"there", b"far"))

    await asyncio.to_thread(write_external, tmp_path, socket="s")
    async with serving(tmp_path, answer):
        await started(tmp_path)


async def test_a_key_that_the_server_does_not_take_is_said_at_the_start(tmp_path: Path) -> None:
    """And not what the server says of it, which may quote the key."""

    async def answer(exchange: Exchange) -> None:
        await exchange.whole(b'{"error": {"message": "wrong: sk-far"}}', status=b"401 Unauthorized")

    await asyncio.to_thread(write_external, tmp_path, socket="s")
    async with serving(tmp_path, answer):
        error = await failure(tmp_path)
    assert (error.code, "sk-far" in error.message, "key" in error.message) == ("engine_failed", False, True)


async def test_while_the_server_is_gone_nobody_is_let_in(tmp_path: Path) -> None:
    """It is asked for a sign of life, and is back by itself with the first that comes."""
    is_down = False

    async def answer(exchange: Exchange) -> None:
        if is_down:
            exchange.writer.close()
        else:
            await server(exchange)

    await asyncio.to_thread(write_external, tmp_path, socket="s", name_there="there")
    async with serving(tmp_path, answer):
        settings, prepared = await asyncio.to_thread(prepare_external, tmp_path)
        quick = replace(settings, deadlines=Deadlines(probe_s=0, hung_s=1))
        async with run_engine(quick, prepared) as engine:
            engine.check_ready()
            is_down = True
            with pytest.raises(Unavailable) as caught:
                async with asyncio.timeout(5):
                    while True:
                        engine.check_ready()
                        await asyncio.sleep(0.01)
            assert caught.value.code == "engine_lost"
            is_down = False
            async with asyncio.timeout(5):
                while True:
                    try:
                        engine.check_ready()
                        break
                    except Unavailable:
                        await asyncio.sleep(0.01)
            assert (await engine.complete(CHAT, salt="s")).content == "a"


async def test_a_salt_is_sent_where_the_server_knows_a_field_for_it(tmp_path: Path) -> None:
    """And to no server that may not."""
    for said, sent in (({"salt_field": "cache_salt"}, True), ({}, False)):
        await asyncio.to_thread(write_external, tmp_path, socket="s", name_there="there", **said)
        async with serving(tmp_path, server) as (_, there):
            await started(tmp_path)
        assert (b'"cache_salt":"s"' in there.heard[-1].body) is sent


async def test_an_answer_that_may_bear_another_name_is_taken(tmp_path: Path) -> None:
    """Where the settings say so, and nowhere else."""
    for said, is_taken in (({"answers_as": ["there"]}, True), ({}, False)):
        await asyncio.to_thread(write_external, tmp_path, socket="s", name_there="other", **said)
        async with serving(tmp_path, server):
            if is_taken:
                await started(tmp_path)
            else:
                assert (await failure(tmp_path)).code == "engine_response"
