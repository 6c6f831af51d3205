"""A streamed body: what is there at once leaves at once, nothing waits behind a wait, and a slow client holds it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from allod.web.http import GATHERED_BYTES, Message, Outgoing


class Client:
    """Notes each message; `send` waits while `ready` is not set."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.ready = asyncio.Event()
        self.ready.set()

    async def send(self, message: Message) -> None:
        assert message["more_body"]
        await self.ready.wait()
        self.bodies.append(message["body"])


async def pass_on(items: AsyncGenerator[bytes, None], out: Outgoing) -> None:
    while (item := await out.meanwhile(anext(items, None))) is not None:
        await out.write(item)
    await out.flush()


async def test_what_is_there_at_once_leaves_in_one_message() -> None:
    """Chunks between two waits are one message; none of them waits for what comes later."""
    client, more = Client(), asyncio.Event()

    async def answer() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"
        await more.wait()
        yield b"c"
        await asyncio.sleep(0)
        yield b"d"
        yield b"e"

    passing = asyncio.create_task(pass_on(answer(), Outgoing(client.send)))
    await asyncio.sleep(0.01)
    assert client.bodies == [b"ab"]
    more.set()
    await passing
    assert client.bodies == [b"ab", b"c", b"de"]


async def test_what_gathers_is_bounded() -> None:
    """An engine that never makes anybody wait fills no memory."""
    client, part = Client(), bytes(1000)

    async def answer() -> AsyncGenerator[bytes, None]:
        for _ in range(1000):
            yield part

    await pass_on(answer(), Outgoing(client.send))
    assert b"".join(client.bodies) == part * 1000
    assert max(map(len, client.bodies)) <= GATHERED_BYTES + len(part)


async def test_a_client_that_is_behind_holds_up_the_answer() -> None:
    """Nothing more is asked of the engine until what has gathered is taken."""
    client, asked = Client(), 0
    client.ready.clear()

    async def answer() -> AsyncGenerator[bytes, None]:
        nonlocal asked
        for _ in range(3):
            asked += 1
            yield b"x"
            await asyncio.sleep(0)

    passing = asyncio.create_task(pass_on(answer(), Outgoing(client.send)))
    await asyncio.sleep(0.01)
    assert (asked, client.bodies) == (1, [])
    client.ready.set()
    await passing
    assert client.bodies == [b"x"] * 3


@pytest.mark.parametrize("is_behind", [False, True])
async def test_who_is_cancelled_is_cancelled_where_it_waits(is_behind: bool) -> None:
    """Whether the engine is waited for or the client: the answer hears of it, and can end its work in its own time."""
    client, heard = Client(), list[str]()
    if is_behind:
        client.ready.clear()

    async def answer() -> AsyncGenerator[bytes, None]:
        yield b"x"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            heard.append("cancelled")
            raise

    passing = asyncio.create_task(pass_on(answer(), Outgoing(client.send)))
    await asyncio.sleep(0.01)
    passing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await passing
    assert heard == ["cancelled"]
    assert client.bodies == ([] if is_behind else [b"x"])


async def test_a_wait_that_is_answered_by_an_error_raises_it() -> None:
    """Within the answer, where it may be caught; else to whoever passes it on."""
    client = Client()

    async def answer() -> AsyncGenerator[bytes, None]:
        failing = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(failing.set_exception, ValueError("lost"))
        yield b"x"
        try:
            await failing
        except ValueError:
            yield b"y"
        raise LookupError

    with pytest.raises(LookupError):
        await pass_on(answer(), Outgoing(client.send))
    assert client.bodies == [b"x"]  # the rest is for who catches the error to send
