"""The composition root: the only place where real things are built, and where the rooms meet."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allod import settings as settings_module
from allod.core.canonical import digest_of
from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.requests import Chat, Completion, Piece, Sampling, Usage
from allod.core.statements import SitePart, check_statement
from allod.core.whole_files import write_whole
from allod.govern.keys import KeyRing, Tenant, read_or_make_key
from allod.model import catalogue as catalogue_module
from allod.model.catalogue import CatalogueEntry, Pace, best_for
from allod.model.fetch import ensure
from allod.model.gguf import read_header
from allod.model.store import Progress, Store, digest_of_file, silent
from allod.prove.daykeys import DayKeys
from allod.prove.keys import SigningKey, create_signing_key, load_signing_key
from allod.prove.log import Log, bundle_for, open_log
from allod.prove.trust import trust_text
from allod.prove.writer import LogWriter
from allod.seal.evidence import describe, proof_of
from allod.seal.launch import SealOptions, python_read_paths
from allod.serve.admission import Admission
from allod.serve.engine import Engine, EngineInfo
from allod.serve.engines.echo import EchoEngine
from allod.serve.gateway import Gateway, ServedModel
from allod.serve.recorder import Recorder
from allod.serve.replica import Replica, ReplicaOptions
from allod.settings import Settings

LOCAL_TENANT = "local"
ECHO = "echo"


@dataclass(frozen=True, slots=True)
class Weights:
    """A checked model file and what clients are told of it."""

    path: Path
    served: ServedModel


class Home:
    """The realm's directory: names of what is in it, and the secrets in it made on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.local_key = path / "local.key"
        self.trust = path / "trust.policy"
        self.gateway = path / "gateway.json"
        self.models = path / "models"
        self.store = path / "store" / "models"
        self.day_keys = path / "keys" / "days"
        self.receipts = path / "logs" / "receipts"
        self.evidence = path / "evidence"
        self._realm = path / "realm"
        self.log_key = path / "keys" / "receipts.key"

    def make(self) -> None:
        """The directory, for its owner only."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Invalid(f"{self.path}: {error.strerror}", code="home_unusable", hint="set ALLOD_HOME") from error
        status = self.path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise Invalid(
                f"{self.path} must be ours, and nobody else may write there",
                code="home_permissions",
                hint=f"chmod go-w {self.path}",
            )

    def realm_name(self) -> str:
        """A name that no other realm has, made on first use."""
        if not self._realm.exists():
            write_whole(self._realm, f"allod-{secrets.token_hex(4)}\n")
        name = self._realm.read_text().strip()
        if not name:
            raise Invalid(f"{self._realm} is empty", code="realm_unnamed", hint="set realm.name in allod.toml")
        return name

    def signing_key(self, origin: str) -> SigningKey:
        """The receipts log's key. Raises Invalid if it is another log's."""
        if not self.log_key.exists():
            create_signing_key(self.log_key, origin)
        key = load_signing_key(self.log_key)
        if key.name != origin:
            raise Invalid(
                f"the log's key is for {key.name}, and the settings say {origin}",
                code="log_origin",
                hint="a log keeps its name: put realm.name and realm.site back, or use another ALLOD_HOME",
            )
        return key


def load_settings(overrides: dict[str, Any] | None = None, *, home: Path | None = None) -> Settings:
    """The settings, with the realm's name filled in and its directory made."""
    loaded = settings_module.load(overrides, home=home)
    place = Home(loaded.home)
    place.make()
    if not loaded.realm.name:
        loaded = replace(loaded, realm=replace(loaded.realm, name=place.realm_name()))
    return loaded


def prepare_weights(settings: Settings, progress: Progress) -> Weights | None:
    """The model that the settings name, fetched and checked; None for the echo engine.

    `auto` measures this machine once, on the catalogue's first model. Raises Invalid and Unavailable.
    """
    name = settings.model.name
    if name == ECHO:
        return None
    catalogue = settings_module.load_catalogue()
    if name == "auto":
        entry = _choose(settings, catalogue, progress)
    elif is_file_name(name):
        return _own_weights(Path(name).absolute(), progress)
    else:
        entry = catalogue_module.find(catalogue, name)
    return _catalogue_weights(settings, entry, progress)


def is_file_name(name: str) -> bool:
    """Whether a model's name means a file rather than an entry of the catalogue."""
    return name.endswith(".gguf") or "/" in name


def _catalogue_weights(settings: Settings, entry: CatalogueEntry, progress: Progress) -> Weights:
    home = Home(settings.home)
    path = ensure(entry, Store(home.store), directory=home.models, progress=progress)
    served = ServedModel(
        name=entry.name,
        owner=entry.publisher,
        digest=f"sha256:{entry.sha256}",
        licence=entry.licence,
        country=entry.country,
        informative=entry.informative,
    )
    return Weights(path, served)


def _own_weights(path: Path, progress: Progress) -> Weights:
    read_header(path)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}", path.stem) is None:
        raise Invalid(f"{path.name!r} cannot name a model", code="model_name", hint="letters, digits, . _ - and spaces")
    digest = digest_of_file(path, progress)
    served = ServedModel(
        name=path.stem, owner="not known", digest=f"sha256:{digest}", licence="not known", country="", informative=True
    )
    return Weights(path, served)


def _choose(settings: Settings, catalogue: tuple[CatalogueEntry, ...], progress: Progress) -> CatalogueEntry:
    """The best model for this machine. What was measured is kept: the second start does not measure again."""
    file = settings.home / "pace.json"
    try:
        kept = json.loads(file.read_text())
        pace = Pace(prefill_s=float(kept["prefill_s"]), decode_s=float(kept["decode_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        reference = _catalogue_weights(settings, catalogue[0], progress)
        progress("measuring this machine", 0, 0)
        pace = asyncio.run(_measure(settings, reference))
        write_whole(file, json.dumps({"prefill_s": pace.prefill_s, "decode_s": pace.decode_s}) + "\n")
    return best_for(catalogue, pace)


async def _measure(settings: Settings, weights: Weights) -> Pace:
    """Seconds per token of the reference model, prompt and answer apart. Runs in the seal, like everything."""
    text = " ".join(f"{number} times {number} is {number * number}." for number in range(40))
    async with run_engine(settings, weights) as engine:
        await _time_answer(engine, "Hello.", num_tokens=4)  # wakes memory and caches
        first_s, _, usage = await _time_answer(engine, text, num_tokens=1)
        whole_s, until_first_s, answered = await _time_answer(engine, text, num_tokens=33)
    num_decoded = max(answered.completion_tokens - 1, 1)
    return Pace(prefill_s=first_s / max(usage.prompt_tokens, 1), decode_s=(whole_s - until_first_s) / num_decoded)


async def _time_answer(engine: Engine, text: str, *, num_tokens: int) -> tuple[float, float, Usage]:
    """Seconds to the end, seconds to the first token, and what was counted."""
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=num_tokens)
    chat = Chat(model="", messages=({"role": "user", "content": text},), sampling=sampling)
    begin, first_s, usage = time.perf_counter(), 0.0, Usage()
    async for item in engine.stream(chat):
        if isinstance(item, Piece):
            first_s = first_s or time.perf_counter() - begin
        elif isinstance(item, Completion):
            usage = item.usage
    return time.perf_counter() - begin, first_s, usage


def replica_options(settings: Settings, weights: Weights, socket_dir: Path) -> ReplicaOptions:
    """How to start llama.cpp's server for these weights, sealed."""
    header = read_header(weights.path)
    model = settings.model
    evidence_dir = Home(settings.home).evidence
    evidence_dir.mkdir(mode=0o700, exist_ok=True)
    socket_path = str(socket_dir / "engine.sock")
    library = _engine_library()
    build = digest_of_file(library, silent)
    options = {
        "slots": model.slots,
        "context_tokens": min(model.context_tokens, header.context_tokens),
        "threads": model.threads or max(1, _num_physical_cores() - 1),
        "http_threads": 2 * model.slots + 4,  # one for each request that admission lets in, and some for health
        "embeddings": header.can_embed,
        "gpu_layers": model.gpu_layers,
        "kv_unified": False,  # a slot's arithmetic must not depend on its neighbours
        "cache_ram_mib": 0,  # 8 GiB by default
    }
    words = json.dumps({**options, "model": str(weights.path), "socket": socket_path})
    return ReplicaOptions(
        seal=SealOptions(
            command=(sys.executable, "-P", "-m", "allod.serve.engines.llama_process", words),
            socket_dir=socket_dir,
            read_paths=(*python_read_paths(), weights.path),
            environment={"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            log_path=settings.home / "engine.log",
            unsafe_no_seal=settings.unsafe_no_seal,
        ),
        socket_path=socket_path,
        info=EngineInfo(
            name="llama.cpp",
            build=f"sha256:{build}",
            config=digest_of(options),
            replay="none",  # the prompt cache is on: it changes the order of sums
            model_digest=weights.served.digest,
            template_digest=header.template_digest if header.has_template else None,
            context_tokens=int(options["context_tokens"]),
            slots=model.slots,
            can_chat=not header.can_embed,
            can_embed=header.can_embed,
        ),
        pinned=((weights.path, weights.served.digest.removeprefix("sha256:")), (library, build)),
        config=options,
        evidence_dir=evidence_dir,
        ready_timeout_s=model.ready_timeout_s,
    )


def _engine_library() -> Path:
    spec = importlib.util.find_spec("xllamacpp")
    found = list(Path(spec.origin).parent.glob("xllamacpp*.so")) if spec is not None and spec.origin else []
    if not found:
        raise Unavailable("the engine xllamacpp is not installed", code="engine_missing", hint="run `make setup`")
    return found[0]


def _num_physical_cores() -> int:
    """Cores, not hardware threads: the threads of a core share its arithmetic."""
    siblings = {
        path.read_text() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    }
    return len(siblings) or 1


class Realm:
    """One gateway with everything it needs, while it runs. Made by `run_realm`."""

    def __init__(self, settings: Settings, *, gateway: Gateway, log: Log, day_keys: DayKeys, trust: str) -> None:
        self.settings = settings
        self.gateway = gateway
        self.trust = trust
        self._log = log
        self._day_keys = day_keys

    def bundle(self, receipt_id: str, tenant: str) -> bytes:
        """A receipt's bundle, opened for the tenant whose answer it is. Raises Invalid (`no_such_receipt`)."""
        predicate = check_statement(self._log.statement(receipt_id)).predicate
        try:
            salt = self._day_keys.opening_salt(tenant, predicate)
        except Denied:  # another's receipt, or an erased one: it still verifies, closed
            salt = None
        return bundle_for(self._log, receipt_id, salt)

    def log_file(self, name: str) -> bytes:
        """A part of the log as C2SP tlog-tiles names it."""
        return self._log.resource(name)

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, unless an answer could be given now."""
        engine = self.gateway.engine
        if isinstance(engine, Replica):
            engine.check_ready()

    def seal(self) -> dict[str, Any]:
        """The engine's perimeter as the kernel shows it now; no rows where there is no process to look at."""
        engine, info = self.gateway.engine, self.gateway.engine.info
        if not isinstance(engine, Replica) or engine.process is None:
            described: dict[str, Any] = {"kind": info.seal, "proof": info.seal_proof, "missing": [], "rows": []}
            return {**described, "evidence": None, "engine": {"name": info.name, "pid": None, "started_ms": None}}
        process = engine.process
        evidence = process.evidence()
        return {
            "kind": process.kind,
            "proof": proof_of(evidence),
            "missing": [f"{part}: {reason}" for part, reason in process.missing.items()],
            "rows": describe(evidence),
            "evidence": engine.evidence,
            "engine": {"name": info.name, "pid": process.pid, "started_ms": engine.started_ms},
        }


@asynccontextmanager
async def run_realm(settings: Settings, engine: Engine, model: ServedModel) -> AsyncGenerator[Realm, None]:
    """Open the log and put the gateway in front of a running engine; close it all on the way out."""
    home = Home(settings.home)
    api_key = await asyncio.to_thread(read_or_make_key, home.local_key)
    signing_key = await asyncio.to_thread(home.signing_key, settings.origin)
    trust = trust_text(signing_key.verifier)
    await asyncio.to_thread(write_whole, home.trust, trust)
    log = await asyncio.to_thread(open_log, home.receipts, signing_key)
    loop = asyncio.get_running_loop()
    writer = LogWriter(log, lambda batch: _deliver_in(loop, batch))
    day_keys = DayKeys(home.day_keys)
    recorder = Recorder(
        writer=writer,
        day_keys=day_keys,
        engine=engine,
        model_name=model.name,
        site=SitePart(settings.realm.site, settings.realm.jurisdiction),
        now_ms=now_ms,
    )
    gateway = Gateway(
        model=model,
        keys=KeyRing({api_key: Tenant(LOCAL_TENANT)}),
        engine=engine,
        admission=Admission(num_running=2 * engine.info.slots, num_waiting=settings.server.num_waiting),
        recorder=recorder,
    )
    try:
        yield Realm(settings, gateway=gateway, log=log, day_keys=day_keys, trust=trust)
    finally:
        await asyncio.to_thread(writer.close)
        await asyncio.to_thread(log.close)


@asynccontextmanager
async def run_engine(settings: Settings, weights: Weights | None) -> AsyncGenerator[Engine, None]:
    """The engine that the settings name, ready to answer; the echo engine where there are no weights."""
    if weights is None:
        yield EchoEngine()
        return
    directory = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="allod-")
    try:
        replica = Replica(await asyncio.to_thread(replica_options, settings, weights, Path(directory.name)))
        await replica.start()
        try:
            yield replica
        finally:
            await replica.close()
    finally:
        await asyncio.to_thread(directory.cleanup)


def _deliver_in(loop: asyncio.AbstractEventLoop, batch: list[tuple[Callable[[Any], None], Any]]) -> None:
    """From the writer's thread into the event loop, once for the whole batch."""

    def settle() -> None:
        for done, outcome in batch:
            done(outcome)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)


def now_ms() -> int:
    """Milliseconds since 1970, by this machine's clock."""
    return time.time_ns() // 1_000_000


ECHO_MODEL = ServedModel(
    name=ECHO, owner="Allod", digest=digest_of("echo model"), licence="Apache-2.0", country="", informative=False
)
