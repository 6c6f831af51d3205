"""What every engine must do: one suite for the adapter in memory, for llama.cpp, sealed, with a real model, and for
somebody's servers: a gateway of ours, and llama.cpp as it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.adapters import made_adapter
from tests.contracts.external import prepare_external, running_llama, write_external, write_gateway

from allod.app.gateway.engine import run_engine
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Piece, Pieces, Sampling
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import Engine, LoadedAdapter, Tally

RunEngine = Callable[[], AbstractAsyncContextManager[Engine]]


@pytest.fixture(
    params=[
        "echo",
        "external gateway",
        pytest.param("smollm2-135m", marks=pytest.mark.slow),
        pytest.param("external llama.cpp", marks=pytest.mark.slow),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Which engine, by the model that makes it."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of llama.cpp's server, as it is."""
    with running_llama(request.getfixturevalue("weights"), tmp_path_factory.mktemp("llama")) as path:
        yield path


@pytest.fixture
def running(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> RunEngine:
    if kind.startswith("external"):
        if kind == "external gateway":
            write_gateway(tmp_path, request.getfixturevalue("gateway"))
        else:
            name = str(request.getfixturevalue("weights"))  # it calls its model by its file
            write_external(tmp_path, socket=request.getfixturevalue("llama"), name_there=name, context_tokens=512)
        external = prepare_external(tmp_path)
        return lambda: run_engine(*external)
    if kind != "echo":
        weights_path: Path = request.getfixturevalue("weights")
        (tmp_path / "store").symlink_to(weights_path.parents[2])
    settings = load_settings({"model.name": kind, "model.context_tokens": 512}, home=tmp_path)
    weights = prepare_weights(settings, lambda what, done, total: None)
    return lambda: run_engine(settings, weights)


@pytest.fixture
def adapted(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> RunEngine:
    """The same engine with two adapters beside its model."""
    if kind.startswith("external"):
        pytest.skip("somebody's server is told of no adapters")
    if kind == "echo":
        adapters = tuple(LoadedAdapter(name, f"sha256:{'0' * 64}") for name in ("one", "two"))
        return lambda: nullcontext(EchoEngine(adapters=adapters))
    request.getfixturevalue("running")
    settings = load_settings({"model.name": kind, "model.context_tokens": 512}, home=tmp_path)
    weights = prepare_weights(settings, lambda what, done, total: None)
    assert weights is not None
    made = tuple(
        made_adapter(tmp_path / f"{name}.gguf", name, seed=seed, base=kind) for seed, name in enumerate(("one", "two"))
    )
    return lambda: run_engine(settings, replace(weights, adapters=made))


def chat(text: str = "Name three colours of the rainbow.", **changes: Any) -> Chat:
    sampling = Sampling(seed=7, temperature=0.0, max_tokens=24)
    return replace(Chat(model="m", messages=({"role": "user", "content": text},), sampling=sampling), **changes)


async def collect(stream: AsyncGenerator[Pieces | Completion, None]) -> tuple[list[Piece], Completion]:
    pieces: list[Piece] = []
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, Completion):
                return pieces, item
            pieces += item
    raise AssertionError("the stream ended without a completion")


async def test_a_stream_is_its_pieces_and_then_the_whole(running: RunEngine) -> None:
    """The completion's text is exactly the pieces' texts, and something was counted."""
    async with running() as engine:
        pieces, completion = await collect(engine.stream(chat(), salt="s"))
    assert "".join(piece.text for piece in pieces) == completion.content
    assert len(pieces) > 1
    assert completion.usage.prompt_tokens > 0
    assert completion.usage.completion_tokens > 0


async def test_whole_and_streamed_answers_agree(running: RunEngine) -> None:
    """Asked for greedily, the same question has the same answer both ways."""
    async with running() as engine:
        whole = await engine.complete(chat(), salt="s")
        _, streamed = await collect(engine.stream(chat(), salt="s"))
    assert whole.content == streamed.content
    assert whole.finish == streamed.finish


async def test_the_limit_of_tokens_is_kept(running: RunEngine) -> None:
    """`max_tokens` ends the answer, and says so."""
    async with running() as engine:
        completion = await engine.complete(
            chat("one two three", sampling=Sampling(seed=1, temperature=0, max_tokens=2)), salt="s"
        )
    assert completion.finish == "length"
    assert completion.usage.completion_tokens == 2


async def test_a_stop_sequence_ends_the_answer(running: RunEngine) -> None:
    """The answer ends before the sequence, which is not part of it."""
    async with running() as engine:
        full = (await engine.complete(chat(), salt="s")).content or ""
        stop = full.split()[2]
        sampling = Sampling(seed=7, temperature=0.0, max_tokens=24, stop=(stop,))
        cut = await engine.complete(chat(sampling=sampling), salt="s")
    assert cut.finish == "stop"
    assert stop not in (cut.content or "")


async def test_a_schema_is_kept(running: RunEngine) -> None:
    """With a schema the answer is JSON that satisfies it."""
    import json

    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with running() as engine:
        completion = await engine.complete(chat(schema=schema), salt="s")
    answer = json.loads(completion.content or "")
    assert isinstance(answer["n"], int)


async def test_references_in_a_schema_are_followed(running: RunEngine) -> None:
    """Definitions, as every nested type of a client's language becomes them."""
    import json

    town = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    schema = {"$defs": {"town": {**town, "additionalProperties": False}}, "$ref": "#/$defs/town"}
    async with running() as engine:
        completion = await engine.complete(chat(schema=schema), salt="s")
    assert isinstance(json.loads(completion.content or "")["n"], int)


async def test_echo_ends_where_references_do_not() -> None:
    """Each required property is the whole again, three at a time."""
    again = {name: {"$ref": "#"} for name in "abc"}
    schema = {"type": "object", "properties": again, "required": ["a", "b", "c"]}
    completion = await EchoEngine().complete(chat(schema=schema), salt="s")
    assert completion.content is not None


@pytest.mark.parametrize("num_alternatives", [0, 1])
async def test_logprobs_come_one_a_token(running: RunEngine, num_alternatives: int) -> None:
    """Each token carries its log-probability and as many alternatives as asked for, in OpenAI's shape."""
    async with running() as engine:
        completion = await engine.complete(chat(top_logprobs=num_alternatives), salt="s")
    assert len(completion.logprobs) == completion.usage.completion_tokens
    for entry in completion.logprobs:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == num_alternatives


async def test_a_prompt_longer_than_the_context_is_invalid(running: RunEngine) -> None:
    """It is refused with its own code, streamed or not, and the engine goes on."""
    async with running() as engine:
        long = chat("word " * 5000)
        for ask in (engine.complete(long, salt="s"), collect(engine.stream(long, salt="s"))):
            with pytest.raises(Invalid) as caught:
                await ask
            assert caught.value.code == "context_length_exceeded"
        assert (await engine.complete(chat(), salt="s")).content


async def test_whoever_stops_listening_stops_the_work(running: RunEngine) -> None:
    """A stream that is closed early frees its slot: more of them than there are slots do not block the next."""
    async with running() as engine:
        endless = chat("Count from one to a thousand.", sampling=Sampling(seed=1, temperature=0, max_tokens=400))
        for _ in range(engine.info.slots + 2):
            async with aclosing(engine.stream(endless, salt="s")) as stream:
                async for _ in stream:
                    break
        async with asyncio.timeout(20):
            await engine.complete(chat(sampling=Sampling(seed=1, temperature=0, max_tokens=2)), salt="s")


async def test_a_computed_prompt_is_reused_under_its_own_salt_only(running: RunEngine) -> None:
    """Through more salts than there are slots, streamed or not, nothing of one is there for another."""
    async with running() as engine:
        for number in range(engine.info.slots + 2):
            whole = await engine.complete(chat(), salt=f"{number}")
            _, streamed = await collect(engine.stream(chat(), salt=f"{number} streamed"))
            assert (whole.usage.cached_tokens, streamed.usage.cached_tokens) == (0, 0)


async def test_an_adapter_answers_by_its_name(adapted: RunEngine, running: RunEngine) -> None:
    """It says something else than the model; and the model, beside adapters, what it says without any: every digit."""
    async with running() as engine:
        alone = await engine.complete(chat(top_logprobs=1), salt="s")
    async with adapted() as engine:
        names = [each.name for each in engine.info.adapters]
        told = {name: await engine.complete(chat(model=name, top_logprobs=1), salt="s") for name in ("m", *names)}
    assert told["m"] == alone
    assert len({each.content for each in told.values()}) == 3


async def test_adapters_side_by_side_answer_as_they_do_alone(adapted: RunEngine) -> None:
    """Interleaved over all slots, each token of a greedy answer is the one that the adapter chooses by itself."""
    async with adapted() as engine:
        names = ["m", *(each.name for each in engine.info.adapters)]
        alone = {name: (await engine.complete(chat(model=name), salt=f"alone {name}")).content for name in names}
        asked = names * 4
        together = await asyncio.gather(
            *(engine.complete(chat(model=name), salt=f"{number}") for number, name in enumerate(asked))
        )
    assert [each.content for each in together] == [alone[name] for name in asked]


async def test_a_computed_prompt_is_reused_under_its_own_adapter_only(adapted: RunEngine) -> None:
    """One tenant asks the same of the model and of each adapter."""
    async with adapted() as engine:
        for name in ("m", *(each.name for each in engine.info.adapters)):
            assert (await engine.complete(chat(model=name), salt="s")).usage.cached_tokens == 0


async def test_embeddings_are_vectors_or_a_clear_no(running: RunEngine) -> None:
    """A model that can embeds each text, in order; one that cannot says so."""
    embed = Embed("m", ("a cat", "a dog"))
    async with running() as engine:
        if not engine.info.can_embed:
            with pytest.raises(Invalid) as caught:
                await engine.embed(embed)
            assert caught.value.code == "unsupported_by_model"
            return
        made = await engine.embed(embed)
    assert len(made.vectors) == 2
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-3) for vector in made.vectors)


async def test_what_receipts_say_is_there(running: RunEngine) -> None:
    """Digests are digests, and the seal is stated."""
    async with running() as engine:
        info = engine.info
    assert (info.template_digest is None) is (info.name == "external")  # what it uses nobody can tell
    for digest in filter(None, (info.build, info.config, info.model_digest, info.template_digest)):
        assert digest.startswith("sha256:")
        assert len(digest) == 71
    assert info.seal == ("none" if info.name in ("echo", "external") else "sealed")


async def test_each_answer_says_which_engine_made_it(running: RunEngine) -> None:
    """Whole, streamed, or of vectors: whoever it was meant for."""
    async with running() as engine:
        another = replace(engine.info, name="another")
        tallies = [Tally(another), Tally(another), Tally(another)]
        await engine.complete(chat(), salt="s", tally=tallies[0])
        await collect(engine.stream(chat(), salt="s", tally=tallies[1]))
        if engine.info.can_embed:
            await engine.embed(Embed("m", ("a cat",)), tally=tallies[2])
        else:
            tallies.pop()
        assert [tally.made_by for tally in tallies] == [engine.info] * len(tallies)


async def test_the_perimeter_that_is_shown_is_the_one_that_receipts_name(running: RunEngine) -> None:
    """By kind and proof, with the kernel's own words where it is a process; none is shown around what has ended."""
    async with running() as engine:
        (seen,), info = await asyncio.to_thread(engine.evidence), engine.info
        await engine.close()
        with pytest.raises(Unavailable):
            engine.evidence()
    assert (seen.kind, seen.proof) == (info.seal, info.seal_proof)
    assert (seen.found is None) is (seen.pid is None) is (info.name in ("echo", "external"))
