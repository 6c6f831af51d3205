"""The engine that a realm runs: llama.cpp or vLLM under the seal, somebody's server, or the echo engine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allod.app.gateway.engine_seal import ENGINE_LOG, SOCKET_DIR_PREFIX, engine_seal
from allod.app.gateway.external import External, make_external_engine
from allod.app.gateway.model_choice import ECHO
from allod.app.home import Home
from allod.core.canonical import JsonValue, digest_of
from allod.core.deadlines import Deadlines
from allod.core.digests import hex_of
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import Engine, EngineInfo, EnginePlace, LoadedAdapter
from allod.engine.owned import own_folders
from allod.engine.replicas.pool import Pool
from allod.engine.replicas.replica import ReplicaOptions
from allod.model.folder import FolderHeader
from allod.model.gguf.header import GgufHeader
from allod.seal.ahead import Ahead
from allod.serve.served_model import ServedModel
from allod.settings.tree import Settings

if TYPE_CHECKING:
    from allod.engine.adapters.external import ExternalEngine
    from allod.engine.adapters.llama import LlamaEngine

BATCH_TOKENS = 64  # of prompts at once: twice as many make no prompt cheaper, half as many make it dearer by a sixth
ACCELERATED_BATCH_TOKENS = 256  # not measured there
ECHO_MODEL = ServedModel(
    name=ECHO, owner="Allod", digest=digest_of("echo model"), licence="Apache-2.0", country="", informative=False
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked LoRA adapter (GGUF) and what clients are told of it; `served.base` names the model that it is for."""

    path: Path
    served: ServedModel


@dataclass(frozen=True, slots=True)
class Weights:
    """A checked model file, what clients are told of it, what it says of itself, and the adapters served over it.

    Or a folder of safetensors, with the SHA-256 (hex) of each of its `files`.
    """

    path: Path
    served: ServedModel
    header: GgufHeader | FolderHeader
    adapters: tuple[Adapter, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """What is read of it."""
        return sum((self.path / name).stat().st_size for name in self.files or ("",))


Prepared = Weights | External | None
"""What an engine is for, ready to start: its weights, or somebody's server; None: it echoes."""


class StartingEngine(NamedTuple):
    """An engine, what it is for, and what to await until it is ready to answer."""

    prepared: Prepared
    engine: Engine
    started: Awaitable[None]

    @property
    def served(self) -> tuple[ServedModel, ...]:
        """Its model, then the adapters over it."""
        return list_served(self.prepared)


def list_served(prepared: Prepared) -> tuple[ServedModel, ...]:
    """What an engine serves: the model, then the adapters over it."""
    if prepared is None:
        return (ECHO_MODEL,)
    adapters = prepared.adapters if isinstance(prepared, Weights) else ()
    return (prepared.served, *(adapter.served for adapter in adapters))


def log_name_of(prepared: Prepared, *, is_first: bool) -> str:
    """Where an engine's words are kept: one file each, and the first has the name that it has alone."""
    if is_first or prepared is None:
        return ENGINE_LOG
    return f"engine-{hex_of(prepared.served.digest)[:12]}.log"


def _log_name_of_replica(log_name: str, number: int) -> str:
    """Each has its own; the first has the engine's."""
    return log_name if number == 0 else f"{log_name.removesuffix('.log')}-replica-{number + 1}.log"


@asynccontextmanager
async def run_engine(settings: Settings, prepared: Prepared) -> AsyncGenerator[Engine, None]:
    """The engine that the settings name, ready to answer."""
    async with start_engine(settings, prepared) as (engine, started):
        await started
        yield engine


@asynccontextmanager
async def start_engine(
    settings: Settings, prepared: Prepared, ahead: Ahead | None = None, *, log_name: str = ENGINE_LOG
) -> AsyncGenerator[tuple[Engine, Awaitable[None]], None]:
    """The same while it starts, and what to await until it is ready to answer. Its `info` lacks the seal.

    Its process may have been started `ahead`. What it says is kept in the file `log_name` of the home.
    """
    if isinstance(prepared, External):
        async with _start(await asyncio.to_thread(make_external_engine, settings, prepared)) as starting:
            yield starting
        return
    if prepared is None:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        started.set_result(None)
        yield EchoEngine(place=place_of(settings)), started
        return
    directory = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix=SOCKET_DIR_PREFIX)
    owned = ExitStack()
    try:
        options = await asyncio.to_thread(_pool_options, settings, prepared, Path(directory.name), ahead, log_name)
        folders = [Path(replica.socket_path).parent for replica in options]
        await asyncio.to_thread(owned.enter_context, own_folders(*folders))
        async with _start(Pool(options)) as starting:
            yield starting
    finally:
        owned.close()
        await asyncio.to_thread(directory.cleanup)


@asynccontextmanager
async def _start(engine: Pool | ExternalEngine) -> AsyncGenerator[tuple[Engine, Awaitable[None]], None]:
    """An engine that has a start of its own, while it starts and until it is closed."""
    starting = asyncio.create_task(engine.start())
    try:
        yield engine, starting
    finally:
        starting.cancel()
        with suppress(asyncio.CancelledError, AllodError):  # whoever waited for it has been told
            await starting
        await engine.close()


def _pool_options(
    settings: Settings, weights: Weights, directory: Path, ahead: Ahead | None, log_name: str
) -> list[ReplicaOptions]:
    """Of each replica: it sees its own socket and log, and none of another's."""
    options = []
    for number in range(settings.model.replicas):
        socket_dir = directory / str(number + 1)
        socket_dir.mkdir(mode=0o700)
        if number == 0 and ahead is not None and ahead.options.socket_dir is not None:
            socket_dir = ahead.options.socket_dir
        options.append(replica_options(settings, weights, socket_dir, _log_name_of_replica(log_name, number)))
    return [replace(options[0], ahead=ahead), *options[1:]]


def replica_options(
    settings: Settings, weights: Weights, socket_dir: Path, log_name: str = ENGINE_LOG
) -> ReplicaOptions:
    """How to start what serves these weights, sealed: llama.cpp's server for a file, vLLM for a folder.

    Raises Invalid for adapters that it could not use, and what `vllm_options` raises.
    """
    header = weights.header
    if isinstance(header, FolderHeader):
        from allod.app.gateway.vllm import vllm_options  # for the few that have one

        return vllm_options(settings, weights, header, socket_dir, log_name)
    if weights.adapters and header.can_embed:
        raise Invalid(f"{weights.served.name} makes embeddings: no adapter works over it", code="adapter_unusable")
    model = settings.model
    socket_path = str(socket_dir / "engine.sock")
    context_tokens = min(model.context_tokens, header.context_tokens)
    batch_tokens = ACCELERATED_BATCH_TOKENS if model.gpu_layers else BATCH_TOKENS
    options: dict[str, JsonValue] = {
        "slots": model.slots,
        "context_tokens": context_tokens,
        "threads": model.threads or max(1, (num_physical_cores() - 1) // model.replicas),
        "http_threads": 2 * model.slots + 4,  # one for each request that admission lets in, and some for health
        "embeddings": header.can_embed,
        # a text to embed must fit one batch; a prompt is computed in several, with news of it and a token for others
        # after each, and no more than one is computed for somebody who has left
        "batch_tokens": context_tokens if header.can_embed else min(batch_tokens, context_tokens),
        "gpu_layers": model.gpu_layers,
        "kv_unified": False,  # a slot's arithmetic must not depend on its neighbours
        "cache_ram_mib": 0,  # 8 GiB by default
        "adapters": [adapter.served.digest for adapter in weights.adapters],
    }
    pinned = tuple((path, hex_of(served.digest)) for path, served in _files(weights))
    files = {"model": str(weights.path), "adapters": [str(adapter.path) for adapter in weights.adapters]}
    return ReplicaOptions(
        seal=engine_seal(settings, socket_dir, *(path for path, _ in pinned), log_name=log_name),
        socket_path=socket_path,
        make_engine=_llama_engine,
        message=json.dumps({**options, **files, "socket": socket_path}).encode(),
        info=EngineInfo(
            name="llama.cpp",
            build="",
            config=digest_of(options),
            replay="none",  # the prompt cache is on: it changes the order of sums
            model_digest=weights.served.digest,
            template_digest=header.template_digest if header.has_template else None,
            context_tokens=context_tokens,
            slots=model.slots,
            can_chat=not header.can_embed,
            can_embed=header.can_embed,
            place=place_of(settings),
            max_token_chars=header.max_token_chars,
            control_tokens=header.control_token_guard(),
            adapters=tuple(LoadedAdapter(each.served.name, each.served.digest) for each in weights.adapters),
        ),
        pinned=pinned,
        library=engine_library(),
        config=options,
        evidence_dir=Home(settings.home).evidence,
        deadlines=settings.deadlines,
        spare_bytes=model.spare_mib << 20,
        has_accelerators=model.gpu_layers != 0,
        ready_timeout_s=model.ready_timeout_s,
    )


def _llama_engine(info: EngineInfo, socket_path: str, deadlines: Deadlines) -> LlamaEngine:
    from allod.engine.adapters.llama import LlamaEngine  # what it needs is loaded while the process reads its weights

    return LlamaEngine(info, socket_path, deadlines=deadlines)


def place_of(settings: Settings) -> EnginePlace:
    return EnginePlace(settings.realm.site, settings.realm.jurisdiction)


def _files(weights: Weights) -> tuple[tuple[Path, ServedModel], ...]:
    """What the engine reads of models, and what is said of each."""
    return ((weights.path, weights.served), *((adapter.path, adapter.served) for adapter in weights.adapters))


def engine_library() -> Path:
    """The file of llama.cpp. Raises Unavailable (`engine_missing`)."""
    spec = importlib.util.find_spec("xllamacpp")
    found = list(Path(spec.origin).parent.glob("xllamacpp*.so")) if spec is not None and spec.origin else []
    if not found:
        raise Unavailable("the engine xllamacpp is not installed", code="engine_missing", hint="run `make setup`")
    return found[0]


def num_physical_cores() -> int:
    """Cores, not hardware threads: the threads of a core share its arithmetic."""
    siblings = {
        path.read_text() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    }
    return len(siblings) or 1
