"""Step 9: what a receipt says of a request, and that it is said by the event loop without waiting for a disk."""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.serve.conftest import (
    DAY_MS,
    ECHO,
    FORBIDDEN,
    NATION,
    PERMITTED,
    POLICY,
    START_MS,
    TENANT,
    MakeFront,
    ScriptedEngine,
    by,
    chat,
    recorded,
    request,
    until,
)

from allod.core.canonical import digest_of
from allod.core.errors import Unavailable
from allod.core.requests import Embed, Sampling, Tool, Usage
from allod.core.statements.receipt import ANSWER, REFUSAL, Statement
from allod.prove.receipts.commitments import commitment
from allod.prove.tlog.segment import FileCalls

ENGINE = ScriptedEngine("x")
CUT = asyncio.CancelledError()


async def one(front: MakeFront, asked: Any = None, **changes: Any) -> Statement:
    """The receipt of one answer."""
    async with front(ScriptedEngine("x"), **changes) as made:
        asked = await made.prepared(asked or request())
        await made.recorder.record_answer(asked, PERMITTED, recorded(b"the answer", Usage(3, 5)))
        *_, last = await made.receipts()
    return last


async def test_an_answer_names_all_that_made_it(front: MakeFront) -> None:
    """Model, engine, seal, site and policy, each as it was told at the start."""
    info = ENGINE.info
    statement = await one(front)
    predicate = statement.predicate
    assert (statement.kind, statement.id) == (ANSWER, "r1")
    assert predicate["model"] == {
        "name": "m",
        "digest": info.model_digest,
        "template": info.template_digest,
        "adapters": [],
    }
    assert predicate["engine"] == {"name": "echo", "build": info.build, "config": info.config, "replay": "exact"}
    assert predicate["seal"] == {"kind": "none", "proof": None}
    assert predicate["site"] == {"id": "north", "jurisdiction": "GB"}
    assert (predicate["policy"]["digest"], predicate["policy"]["decision"]) == (POLICY.digest, "permit")
    assert (predicate["request"]["tokens"], predicate["answer"]["tokens"]) == (3, 5)


async def test_a_refusal_names_nothing_that_did_not_work(front: MakeFront) -> None:
    """No model, engine or seal had a part in it; the label that forbade it is there."""
    async with front(ENGINE) as made:
        await made.recorder.record_refusal(await made.prepared(request(tier="TOP SECRET")), FORBIDDEN, ECHO.place)
        (statement,) = await made.receipts()
    predicate = statement.predicate
    assert statement.kind == REFUSAL
    assert [predicate[part] for part in ("answer", "model", "engine", "seal")] == [None] * 4
    assert (predicate["policy"]["decision"], predicate["policy"]["label"]["tier"]) == ("forbid", "TOP SECRET")
    assert (predicate["request"]["tokens"], predicate["policy"]["rules"]) == (None, ["above-clearance"])


async def test_the_request_is_committed_to_byte_by_byte(front: MakeFront) -> None:
    """The body as the client sent it, spaces and all."""
    body = b'{ "a" :1}\n'
    async with front(ENGINE) as made:
        asked = await made.prepared(replace(request(), body=body))
        await made.recorder.record_answer(asked, PERMITTED, recorded(b"", Usage()))
        (statement,) = await made.receipts()
        salt = made.day_keys.use("local", "2026-09-21").salt("r1")
    assert statement.predicate["request"]["commitment"] == commitment("request", salt, body)


async def test_receipts_are_numbered_without_a_gap(front: MakeFront) -> None:
    """Answers, refusals and what broke off alike: a number that is missing is a receipt that was taken away."""
    async with front(ENGINE) as made:
        await made.prepared(request())
        for number in range(0, 9, 3):
            await made.recorder.record_answer(request(id=f"r{number}"), PERMITTED, recorded(b"", Usage()))
            await made.recorder.record_refusal(request(id=f"r{number + 1}", tier="SECRET"), FORBIDDEN, ECHO.place)
            made.recorder.record_unfinished(request(id=f"r{number + 2}"), PERMITTED, "", made_by=ECHO, reason=CUT)
        found = [(statement.id, statement.predicate["seq"]) for statement in await made.receipts()]
    assert found == [(f"r{number}", number) for number in range(9)]


async def test_an_answer_never_ends_before_it_began(front: MakeFront) -> None:
    """A clock that was put back between the two does not make a receipt that no verifier accepts."""
    statement = await one(front, wall_ms=lambda: START_MS - 60_000)
    assert (statement.start_ms, statement.end_ms) == (START_MS, START_MS)
    statement = await one(front, wall_ms=lambda: START_MS + 60_000)
    assert (statement.start_ms, statement.end_ms) == (START_MS, START_MS + 60_000)


async def test_how_it_was_asked_is_there_in_integers(front: MakeFront) -> None:
    """Fractions in thousandths, texts by their digest: nothing that readers could disagree about, and no content."""
    sampling = Sampling(seed=2**32 - 2, temperature=0.1234, top_p=1.0, max_tokens=9, stop=("\n", "zither"))
    asked = chat(sampling=sampling, tools=(Tool("harp", "", {}), Tool("lyre", "", {})))
    statement = await one(front, request(asked))
    assert statement.predicate["request"]["params"] == {
        "max_tokens": 9,
        "num_tools": 2,
        "seed": 2**32 - 2,
        "stop": digest_of(("\n", "zither")),
        "temperature_milli": 123,
        "top_p_milli": 1000,
    }
    statement = await one(front, request(Embed("m", ("a", "b", "c"))))
    assert statement.predicate["request"]["params"] == {"num_texts": 3}


async def test_the_label_is_the_requests_own(front: MakeFront) -> None:
    """Two requests with different labels do not share what was said of the first."""
    labels = [NATION.label(markings=[marking]) for marking in ("SENSITIVE", "PERSONAL DATA")]
    async with front(ENGINE) as made:
        for number, label in enumerate(labels):
            asked = await made.prepared(replace(request(id=f"r{number}"), label=label))
            await made.recorder.record_answer(asked, PERMITTED, recorded(b"", Usage()))
        found = [statement.predicate["policy"]["label"] for statement in await made.receipts()]
    assert found == [label.as_json() for label in labels]


async def test_an_engine_that_was_started_anew_is_named_anew(front: MakeFront) -> None:
    """Each start has its own evidence of the seal; no answer is given under the one before."""
    async with front(ENGINE) as made:
        for number in range(4):
            asked = await made.prepared(request(id=f"r{number}"))
            answered = recorded(b"", Usage(), seal="sealed", seal_proof="sha256:" + f"{number % 3}" * 64)
            await made.recorder.record_answer(asked, PERMITTED, answered)
        found = [statement.predicate["seal"]["proof"] for statement in await made.receipts()]
    assert [proof[-1] for proof in found] == ["0", "1", "2", "0"]


async def test_tenants_and_days_cannot_be_told_to_be_one(front: MakeFront) -> None:
    """A pseudonym is of one tenant and one day: the same within, unlinkable beyond."""
    asked = [
        request(id="r0"),
        request(id="r1", start_ms=START_MS + 1),
        request(id="r2", start_ms=START_MS + DAY_MS),
        by(replace(TENANT, id="other"), request(id="r3")),
    ]
    async with front(ENGINE, wall_ms=lambda: START_MS + 2 * DAY_MS) as made:
        for one_asked in asked:
            await made.recorder.record_answer(await made.prepared(one_asked), PERMITTED, recorded(b"", Usage()))
        tenants = [statement.predicate["tenant"] for statement in await made.receipts()]
    assert tenants[0] == tenants[1]
    assert len(set(tenants)) == 3


async def test_what_was_prepared_needs_the_keystore_no_more(front: MakeFront, tmp_path: Path) -> None:
    """The day's key is in memory by then: an answer that was worked for is not lost to a keystore that went away."""
    async with front(ENGINE) as made:
        asked = await made.prepared(request())
        await asyncio.to_thread(shutil.rmtree, tmp_path / "days")
        await made.recorder.record_answer(asked, PERMITTED, recorded(b"", Usage()))
        assert len(await made.receipts()) == 1


async def test_preparing_does_not_hold_up_the_loop(front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key of a day is made and synced in a thread; afterwards there is nothing to do."""
    async with front(ENGINE) as made:
        threads: list[threading.Thread] = []
        use = made.day_keys.use

        def watched(tenant: str, day: str) -> Any:
            threads.append(threading.current_thread())
            return use(tenant, day)

        monkeypatch.setattr(made.day_keys, "use", watched)
        await made.recorder.prepare(request())
        await made.recorder.prepare(request())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_who_waited_may_leave_and_the_receipt_stays(front: MakeFront) -> None:
    """What was handed to the log is in it; its outcome finds nobody waiting, and that is no error."""
    leave, synced = threading.Event(), []
    real = FileCalls()

    def fdatasync(fd: int) -> None:
        synced.append(fd)
        leave.wait(10)
        real.fdatasync(fd)

    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    async with front(ENGINE, calls=FileCalls(fdatasync=fdatasync)) as made:
        asked = await made.prepared(request())
        waiting = asyncio.create_task(made.recorder.record_answer(asked, PERMITTED, recorded(b"", Usage())))
        await until(lambda: bool(synced))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        leave.set()
        assert [statement.id for statement in await made.receipts()] == ["r1"]
        await asyncio.sleep(0)
    assert errors == []


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        (Unavailable("gone", code="engine_lost"), "error"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
    ],
    ids=["error", "cancelled", "left"],
)
async def test_what_broke_off_says_how(front: MakeFront, reason: BaseException, finish: str) -> None:
    """By us or by the client; no tokens are claimed that nobody counted."""
    async with front(ENGINE) as made:
        made.recorder.record_unfinished(await made.prepared(request()), PERMITTED, "half", made_by=ECHO, reason=reason)
        (statement,) = await made.receipts()
        assert made.commits_to(statement, b'{"content":"half","tool_calls":[]}')
    assert statement.predicate["answer"]["finish"] == finish
    assert (statement.predicate["request"]["tokens"], statement.predicate["answer"]["tokens"]) == (None, None)


async def test_a_note_that_cannot_be_made_is_not_an_error(front: MakeFront) -> None:
    """What ended the answer is what the client must hear: a closed log, or half a character, is passed over."""
    async with front(ENGINE) as made:
        asked = await made.prepared(request())
        made.recorder.record_unfinished(asked, PERMITTED, "\ud800", made_by=ECHO, reason=CUT)
        await asyncio.to_thread(made.writer.close)
        made.recorder.record_unfinished(asked, PERMITTED, "half", made_by=ECHO, reason=CUT)
        assert await made.receipts() == []


@pytest.mark.parametrize(
    "usage", [Usage(10**30, 5), Usage(3, -5), Usage(3, 2**53), Usage(3, 5, cached_tokens=-1)], ids=str
)
async def test_an_answer_of_which_no_receipt_can_tell_is_not_signed(front: MakeFront, usage: Usage) -> None:
    """The client hears so, the log says that an answer broke off, and the next one is answered."""
    async with front(ENGINE) as made:
        asked = await made.prepared(request())
        with pytest.raises(Unavailable) as refused:
            await made.recorder.record_answer(asked, PERMITTED, recorded(b"the answer", usage))
        await made.recorder.record_answer(request(id="r2"), PERMITTED, recorded(b"another", Usage(3, 5)))
        odd, sound = await made.receipts()
    assert refused.value.code == "not_recordable"
    assert (odd.predicate["answer"]["finish"], odd.predicate["answer"]["tokens"]) == ("error", None)
    assert (sound.id, sound.predicate["answer"]["tokens"]) == ("r2", 5)
