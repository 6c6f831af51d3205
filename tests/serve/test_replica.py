"""A replica: one engine process, sealed, missed as soon as it ends, and started again.

The process is real and so is its seal; what it runs is a few lines that speak like an engine and end when asked to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.serve.conftest import MakeFront, answered, chat, embedded, request, until
from tests.serve.conftest import streamed as streamed_by
from tests.serve.scripted_engine import ENGINE, READ_PATHS, scripted_options

from allod.core.canonical import digest_of
from allod.core.deadlines import Deadlines
from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Piece
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import EngineInfo, Tally
from allod.engine.replicas import replica as replica_module
from allod.engine.replicas.pool import Pool
from allod.engine.replicas.replica import Replica, ReplicaOptions
from allod.seal.ahead import Ahead
from allod.seal.launch import SealedProcess, SealOptions, start

Run = Callable[..., AbstractAsyncContextManager[Pool]]
Ask = Callable[[Pool, Chat], Coroutine[Any, Any, Completion]]


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., ReplicaOptions]:
    return partial(scripted_options, tmp_path)


@pytest.fixture
def run(options: Callable[..., ReplicaOptions]) -> Run:
    """`async with run(mode)`: a started pool of one replica, closed at the end."""

    @asynccontextmanager
    async def started(mode: str = "well", **changes: Any) -> AsyncGenerator[Pool, None]:
        made = Pool([options(mode, **changes)])
        async with asyncio.timeout(20):
            await made.start()
            try:
                yield made
            finally:
                await made.close()

    return started


@pytest.mark.parametrize("is_other", [False, True])
async def test_what_was_started_ahead_is_the_engine_if_it_is_what_is_needed(
    options: Callable[..., ReplicaOptions], is_other: bool
) -> None:
    """Once told what it is for; one that may read other files is ended, and another is started."""
    needed = options("well")
    code = 'import sys; sys.argv[1:] = sys.stdin.read().split("\\n")\n' + ENGINE
    seal = replace(needed.seal, command=(sys.executable, "-S", "-c", code), hears=True)
    words = "\n".join(needed.seal.command[-2:]).encode()
    ahead = Ahead(replace(seal, read_paths=(*READ_PATHS, Path("/usr"))) if is_other else seal)
    first = await asyncio.to_thread(pid_of, ahead)
    made = Pool([replace(needed, seal=seal, message=words, ahead=ahead)])
    async with asyncio.timeout(20):
        await made.start()
        try:
            assert (process_of(made).pid == first) is not is_other
            assert (await whole(made, saying("hello"))).content == "hello"
            await until(lambda: Path(f"/proc/{first}").exists() is not is_other)
        finally:
            await made.close()
    assert not Path(f"/proc/{first}").exists()


async def test_one_that_ended_before_it_was_told_is_reported_by_its_own_words(
    options: Callable[..., ReplicaOptions],
) -> None:
    """It may have ended before anybody looks at it."""
    needed = options("well")
    seal = replace(needed.seal, command=(sys.executable, "-S", "-c", "raise OSError('cannot load it')"), hears=True)
    ahead = Ahead(seal)
    await asyncio.to_thread(pid_of, ahead)
    assert ahead._process is not None
    await asyncio.to_thread(ahead._process.wait, 10)
    with pytest.raises(Unavailable, match=r"never ready.*cannot load it"):
        await Replica(replace(needed, seal=seal, message=b"words", ahead=ahead)).start()


def pid_of(ahead: Ahead) -> int:
    """The process that was started ahead, left where it is."""
    ahead._thread.join()
    assert ahead._process is not None
    return ahead._process.pid


async def whole(pool: Pool, asked: Chat) -> Completion:
    return await pool.complete(asked, salt="s")


async def streamed(pool: Pool, asked: Chat) -> Completion:
    async with aclosing(pool.stream(asked, salt="s")) as answer:
        *_, last = [item async for item in answer]
    assert isinstance(last, Completion)
    return last


@pytest.fixture(params=[whole, streamed])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Both ways to ask."""
    ask: Ask = request.param
    return ask


def saying(text: str) -> Chat:
    return chat(messages=({"role": "user", "content": text},))


def process_of(pool: Pool) -> SealedProcess:
    process = pool.members[0].replica.process
    assert process is not None
    return process


async def test_it_is_up_once_it_answers(run: Run, options: Callable[..., ReplicaOptions], ask: Ask) -> None:
    """Not before; and what it says of itself then includes the seal and its evidence."""
    unstarted = Pool([options()])
    with pytest.raises(Unavailable) as caught:
        unstarted.check_ready()
    assert caught.value.code == "engine_starting"
    async with run() as pool:
        pool.check_ready()
        assert (await ask(pool, saying("hello"))).content == "hello"
        assert pool.info.seal == "sealed"
        assert pool.info.seal_proof is not None
        assert pool.members[0].replica.started_ms > 0


async def test_evidence_is_kept_once_it_is_asked_for_and_of_every_start_after_that(run: Run, tmp_path: Path) -> None:
    """A gateway that is refused asks for nothing. Then the files are named by the digests that receipts give."""
    folder = tmp_path / "evidence"

    def proof_is_kept(pool: Pool) -> bool:
        return pool.info.seal_proof is not None and file_of(pool.info.seal_proof).exists()

    def file_of(digest: str) -> Path:
        return folder / f"{digest.removeprefix('sha256:')}.json"

    async with run(evidence_dir=folder, config={"slots": 1}) as pool:
        assert not folder.exists()
        await asyncio.to_thread(pool.keep_evidence)
        assert proof_is_kept(pool)
        assert json.loads(file_of(digest_of({"slots": 1})).read_text()) == {"slots": 1}
        before, proof = process_of(pool), pool.info.seal_proof
        os.kill(before.pid, signal.SIGKILL)
        await until(lambda: pool.members[0].replica.process not in (before, None) and pool.info.seal_proof != proof)
        assert proof_is_kept(pool)


async def test_a_lost_request_is_tried_once_more_on_the_next_engine(run: Run, ask: Ask) -> None:
    """No token of it was sent, so the client need not know."""
    async with run() as pool:
        before = process_of(pool)
        assert (await ask(pool, saying("once end"))).content == "once end"
        assert process_of(pool) is not before
        assert before.poll() is not None
        pool.check_ready()


async def test_it_is_tried_once_more_and_no_more_than_that(run: Run, ask: Ask) -> None:
    """A request that ends every engine it meets must not end them for ever; others are answered as before."""
    async with run() as pool:
        with pytest.raises(Unavailable) as caught:
            await ask(pool, saying("end"))
        assert caught.value.code == "engine_lost"
        assert (await ask(pool, saying("hello"))).content == "hello"


async def test_a_stream_that_has_begun_ends_with_the_error(run: Run) -> None:
    """A second engine would say the beginning again, and differently."""
    pieces = []
    async with run() as pool:
        with pytest.raises(Unavailable) as caught:
            async with aclosing(pool.stream(saying("once half"), salt="s")) as answer:
                async for item in answer:
                    pieces.append(item)
    assert caught.value.code == "engine_lost"
    assert pieces == [[Piece("half")]]


async def test_an_engine_that_was_killed_is_started_again(run: Run) -> None:
    """Nobody need have asked; the new process has evidence of its own."""
    async with run() as pool:
        before, proof = process_of(pool), pool.info.seal_proof
        os.kill(before.pid, signal.SIGKILL)
        await until(lambda: pool.members[0].replica.process not in (before, None) and pool.info.seal_proof != proof)
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"
        assert pool.info.seal == "sealed"


async def test_a_request_of_before_waits_for_the_next_engine(run: Run, ask: Ask) -> None:
    """Two or three seconds late is better than an error for who has waited for a turn already."""
    async with run() as pool:
        os.kill(process_of(pool).pid, signal.SIGKILL)
        await until(lambda: pool.members[0].replica.process is None)
        with pytest.raises(Unavailable, match="the engine"):
            pool.check_ready()
        assert (await ask(pool, saying("hello"))).content == "hello"


async def test_a_request_that_was_decided_on_for_another_seal_is_not_sent(run: Run) -> None:
    """Policy was asked about the seal that there was before a restart: who asks again is decided on anew."""
    async with run() as pool:
        asked, meant = saying("hello"), replace(pool.info, seal="another")
        with pytest.raises(Unavailable) as caught:
            await pool.complete(asked, salt="s", tally=Tally(meant))
        assert (caught.value.code, caught.value.retry_after_s) == ("seal_changed", 1)
        with pytest.raises(Unavailable, match="under another seal"):
            await anext(pool.stream(asked, salt="s", tally=Tally(meant)))
        assert (await pool.complete(asked, salt="s", tally=Tally(pool.info))).content == "hello"


@pytest.mark.parametrize(
    ("number", "said", "is_memory"),
    [
        (signal.SIGKILL, "was ended by SIGKILL (signal 9: out of memory, or an operator)", True),
        (signal.SIGSEGV, "was ended by SIGSEGV (signal 11: it reached for memory that is not its own)", False),
        (signal.SIGSYS, "was ended by SIGSYS (signal 31: a system call that the seal refuses)", False),
        (signal.SIGUSR1, "was ended by SIGUSR1 (signal 10)", False),
        (signal.SIGRTMIN + 3, f"was ended by signal {signal.SIGRTMIN + 3}", False),
    ],
)
async def test_it_is_said_by_which_signal_an_engine_ended(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, said: str, is_memory: bool
) -> None:
    """To who asks meanwhile and, with what to do, to who runs it, in the gateway's log and in the engine's."""
    async with run(restart_wait_s=5) as pool:
        os.kill(process_of(pool).pid, number)
        await until(lambda: pool.members[0].replica.process is None)
        with pytest.raises(Unavailable) as caught:
            pool.check_ready()
    assert caught.value.message == f"the engine {said} and is being started again"
    assert f"allod: the engine {said}\n" in (tmp_path / "engine.log").read_text()
    told = caplog.messages[0]
    assert told.startswith(f"the engine {said} and is being started again")
    assert ("model.spare_mib" in told) is is_memory


async def test_it_waits_no_longer_than_it_may(run: Run, ask: Ask) -> None:
    """And then hears why there is no engine."""
    async with run(deadlines=Deadlines(next_s=0)) as pool:
        os.kill(process_of(pool).pid, signal.SIGKILL)
        await until(lambda: pool.members[0].replica.process is None)
        with pytest.raises(Unavailable, match=r"SIGKILL .* and is being started again") as caught:
            await ask(pool, saying("hello"))
    assert caught.value.code == "engine_starting"


async def test_new_requests_are_refused_during_a_restart_and_those_in_line_are_answered(
    run: Run, front: MakeFront
) -> None:
    """Who asked before keeps a place in line; who asks only now waits for nothing, and is told when to ask again."""
    async with (
        run() as pool,
        front(pool, num_running=1) as made,
        aclosing((await made.gateway.stream(request(saying("talk")))).value) as running,
    ):
        await anext(running)
        waiting = asyncio.create_task(answered(made.gateway, request(saying("hello"), id="r2")))
        await until(lambda: made.gateway.router.first.admission.inside == 2)
        os.kill(process_of(pool).pid, signal.SIGKILL)
        await until(lambda: pool.members[0].replica.process is None)
        for ask in (answered, streamed_by, embedded):
            with pytest.raises(Unavailable) as caught:
                await ask(made.gateway, request(saying("hello"), id="r3"))
            assert (caught.value.code, caught.value.retry_after_s) == ("engine_starting", 2)
        assert pool.members[0].replica.process is None, "they waited"
        with pytest.raises(Unavailable, match="closed the connection"):
            async for _ in running:
                pass
        assert (await waiting).content == "hello"
        made.gateway.check()


async def test_when_to_ask_again_is_what_a_start_takes(run: Run) -> None:
    """So that who asks again then finds an engine."""
    async with run("slowly") as pool:
        os.kill(process_of(pool).pid, signal.SIGKILL)
        await until(lambda: pool.members[0].replica.process is None)
        with pytest.raises(Unavailable) as caught:
            pool.check_ready()
    assert caught.value.retry_after_s == 3


async def test_an_engine_that_does_not_start_again_is_said_at_once(run: Run, ask: Ask) -> None:
    """With the last words of its log, and without waiting for the next attempt, which comes later each time."""
    async with run("after", restart_wait_s=60.0) as pool:
        os.kill(process_of(pool).pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="out of memory") as first:
            await ask(pool, saying("hello"))
        with pytest.raises(Unavailable) as second:  # or the fixture's time is up: the next attempt comes in a minute
            await ask(pool, saying("hello"))
    assert {first.value.code, second.value.code} == {"engine_starting"}
    assert second.value.retry_after_s is not None


async def test_an_engine_that_never_starts_says_why(options: Callable[..., ReplicaOptions]) -> None:
    """Its status and the first error in its log, not what followed from it; nothing is left running."""
    pool = Pool([options("never")])
    with pytest.raises(Unavailable) as caught:
        await pool.start()
    assert caught.value.code == "engine_not_started"
    assert caught.value.message.endswith(
        "it ended with exit status 1: srv load_model: failed to open the file: no such model"
    )
    assert pool.members[0].replica.process is None


async def test_an_engine_that_is_never_ready_is_not_waited_for_without_end(
    options: Callable[..., ReplicaOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended when its time is up."""
    processes: list[SealedProcess] = []

    def noted(seal: SealOptions) -> SealedProcess:
        processes.append(start(seal))
        return processes[-1]

    monkeypatch.setattr(replica_module, "start", noted)
    with pytest.raises(Unavailable) as caught:
        await Replica(options("silent", ready_timeout_s=0.3)).start()
    assert (caught.value.code, "not ready in 0.3 s" in caught.value.message) == ("engine_not_started", True)
    assert [process.poll() is not None for process in processes] == [True]


@pytest.mark.parametrize("mode", ["well", "never"])
async def test_files_are_held_against_their_digests_while_the_engine_reads_them(
    options: Callable[..., ReplicaOptions], tmp_path: Path, mode: str
) -> None:
    """It is never called up on another file, and what is told is this, not what became of the engine."""
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"not what receipts name")
    pool = Pool([options(mode, pinned=((file, "0" * 64),))])
    with pytest.raises(Invalid) as caught:
        await pool.start()
    assert caught.value.code == "model_digest"
    assert pool.members[0].replica.process is None


async def test_a_file_that_comes_to_a_folder_stops_the_next_start(run: Run, tmp_path: Path) -> None:
    """An engine may prefer it to those that receipts name; it is said which it is."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    pinned = ((folder / "config.json", sha256(b"{}").hexdigest()),)
    async with run(pinned=pinned, pinned_folder=folder, restart_wait_s=60.0) as pool:
        (folder / "chat_template.jinja").write_bytes(b"another")
        os.kill(process_of(pool).pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"chat_template\.jinja was added"):
            await pool.complete(saying("hello"), salt="s")


async def test_an_engine_that_writes_without_end_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts need the disk, too."""
    monkeypatch.setattr(replica_module, "MOST_LOG_BYTES", 10_000)
    async with run() as pool:
        before = process_of(pool)
        with (pool.members[0].replica._options.seal.log_path or Path()).open("ab") as log:
            log.write(bytes(20_000))
        await until(lambda: before.poll() is not None)
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"


async def test_an_engine_that_ends_while_it_is_looked_into_ended_for_its_file(
    options: Callable[..., ReplicaOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However early it ends: that its process is gone is what came of the file, and not the reason."""

    def is_gone(process: SealedProcess) -> NoReturn:
        raise Unavailable("it cannot be looked into", code="engine_gone")

    monkeypatch.setattr(SealedProcess, "evidence", is_gone)
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"not what receipts name")
    with pytest.raises(Invalid) as caught:
        await Replica(options("well", pinned=((file, "0" * 64),))).start()
    assert caught.value.code == "model_digest"
    with pytest.raises(Unavailable) as gone:
        await Replica(options("well")).start()
    assert gone.value.code == "engine_gone"


async def test_the_build_is_the_digest_of_the_library_and_stays_it(run: Run, ask: Ask, tmp_path: Path) -> None:
    """It is read beside the load of the model; no engine is called up on another than the first one's."""
    library = tmp_path / "engine.so"
    library.write_bytes(b"machine code")
    build = "sha256:" + sha256(b"machine code").hexdigest()
    async with run(library=library) as pool:
        assert pool.info.build == build
        assert (await ask(pool, saying("once end"))).content == "once end"
        assert pool.info.build == build
        library.write_bytes(b"other code")
        os.kill(process_of(pool).pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"engine\.so has SHA-256"):
            await ask(pool, saying("hello"))


async def test_what_is_under_way_fails_when_it_is_closed(run: Run, ask: Ask) -> None:
    """And the process has ended by then: no engine outlives its replica."""
    async with run() as pool:
        process = process_of(pool)
        waiting = [asyncio.create_task(ask(pool, saying("wait"))) for _ in range(3)]
        await asyncio.sleep(0.1)
        await pool.close()
        assert process.poll() is not None
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, Unavailable)


async def test_what_the_model_cannot_do_is_not_tried_again(run: Run) -> None:
    """Invalid is about the request, and another engine would say the same."""
    async with run(info=replace(EchoEngine().info, can_embed=False)) as pool:
        before = process_of(pool)
        with pytest.raises(Invalid) as caught:
            await pool.embed(Embed("m", ("a",)))
        assert caught.value.code == "unsupported_by_model"
        assert process_of(pool) is before


async def test_who_asks_a_closed_replica_is_told_at_once(run: Run, ask: Ask) -> None:
    """No engine will come, so none is waited for; nor by those whose request was lost in closing."""
    async with run() as pool:
        waiting = asyncio.create_task(ask(pool, saying("wait")))
        await asyncio.sleep(0.1)
        await pool.close()
        async with asyncio.timeout(2):
            for asked in (waiting, asyncio.create_task(ask(pool, saying("hello")))):
                with pytest.raises(Unavailable):
                    await asked


# Of no use, though it runs


IMPATIENT = Deadlines(still_s=1)


async def test_an_engine_that_was_stopped_is_ended_and_another_started(run: Run) -> None:
    """Nobody need have asked: the kernel says that it is stopped. Until another is up, nobody is told that it is."""
    async with run(deadlines=IMPATIENT) as pool:
        before = process_of(pool)
        os.kill(before.pid, signal.SIGSTOP)
        await until(lambda: pool.members[0].replica.process is None)
        with pytest.raises(Unavailable, match="was stopped for 1 s") as caught:
            pool.check_ready()
        assert caught.value.retry_after_s is not None
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"
        assert before.poll() is not None


async def test_a_stream_ends_with_the_error_when_its_engine_is_stopped(run: Run) -> None:
    """Within the deadline, and who had no word of an answer yet gets one from the next engine."""
    async with run(deadlines=IMPATIENT) as pool, aclosing(pool.stream(saying("talk"), salt="s")) as answer:
        await anext(answer)
        os.kill(process_of(pool).pid, signal.SIGSTOP)
        asking = asyncio.create_task(pool.complete(saying("hello"), salt="s"))
        with pytest.raises(Unavailable) as caught:
            async for _ in answer:
                pass
        assert caught.value.code == "engine_lost"
        assert (await asking).content == "hello"


async def test_an_engine_that_talks_is_not_ended_for_a_probe_that_it_misses(run: Run) -> None:
    """It is busy: what it says to anybody is progress, though between two words it is asked and does not answer."""
    async with run(deadlines=Deadlines(probe_s=1, hung_s=2)) as pool:
        before = process_of(pool)
        assert (await pool.complete(saying("mumble"), salt="s")).content == "word " * 4
        assert process_of(pool) is before


async def test_an_engine_with_accelerators_may_compute_without_processor_time(run: Run) -> None:
    """Silent for longer than another may be, it is waited for."""
    async with run(deadlines=Deadlines(probe_s=1, still_s=1), has_accelerators=True) as pool:
        before = process_of(pool)
        assert (await pool.complete(saying("sulk"), salt="s")).content == "sulk"
        assert process_of(pool) is before


async def test_an_engine_that_grows_beyond_its_memory_is_ended(run: Run) -> None:
    """By what it holds beyond what it held when it was ready; the answer that it was making is lost, and no other."""
    async with run(spare_bytes=64 << 20) as pool:
        before = process_of(pool)
        with pytest.raises(Unavailable):
            async with aclosing(pool.stream(saying("grow"), salt="s")) as answer:
                async for _ in answer:
                    pass
        assert before.poll() is not None
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"


class InMemory(EchoEngine):
    """Needs no word of the process that it is made for."""

    is_stuck = False

    @property
    def heard_s(self) -> float:
        """It never owes one."""
        return asyncio.get_running_loop().time()

    async def is_ready(self) -> bool:
        return True

    async def probe(self) -> None:
        """There is nothing to ask."""


async def test_any_adapter_asks_the_process_and_is_named_with_its_seal(run: Run) -> None:
    """A replica knows no engine but what its factory makes."""

    def make(info: EngineInfo, socket_path: str, deadlines: Deadlines) -> InMemory:
        engine = InMemory()
        engine.info = replace(info, name="in memory")
        return engine

    async with run(make_engine=make) as pool:
        tally = Tally(pool.info)
        answer = await pool.complete(saying("hello"), salt="s", tally=tally)
    assert answer.content == "hello"
    assert (tally.made_by.name, tally.made_by.seal) == ("in memory", "sealed")
