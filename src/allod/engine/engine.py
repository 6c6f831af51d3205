"""The engine port: what the gateway asks of whatever runs a model.

An adapter passes tests/contracts/test_engine.py. Whoever stops iterating over `stream`, or cancels any call, has
cancelled the work in the engine too: no adapter goes on computing for nobody. It has returned only when the engine has
let go, so that its caller knows by then what was computed (`Tally`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from allod.core.canonical import JsonValue
from allod.core.requests import Chat, Completion, Embed, Embeddings, Pieces, Usage
from allod.model.templates.control_tokens import ControlTokens

NO_CONTROL_TOKENS = ControlTokens()


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A LoRA adapter that an engine holds beside its model: the name that chats call it by, and its file's digest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Where an engine computes: the site's name and its ISO 3166 code ("ZZ": not known)."""

    site: str
    jurisdiction: str


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a receipt says about the engine. Digests are `sha256:<hex>`.

    `replay`: "exact" (the same answer whatever else runs), "batch-invariant", or "none" (no promise).
    """

    name: str
    build: str
    config: str
    replay: Literal["exact", "batch-invariant", "none"]
    model_digest: str
    template_digest: str | None  # None: the file has no chat template
    context_tokens: int
    slots: int
    can_chat: bool
    can_embed: bool
    place: EnginePlace
    adapters: tuple[LoadedAdapter, ...] = ()
    control_tokens: ControlTokens = NO_CONTROL_TOKENS  # which no text may spell
    max_token_chars: int | None = None  # of a text, in one token; None: nobody knows
    seal: str = "none"  # what kind of perimeter it runs in
    seal_proof: str | None = None  # digest of the kernel's evidence for it


@dataclass(frozen=True, slots=True)
class Perimeter:
    """What an engine runs in, as the kernel shows it now.

    `found` is all that the kernel says of its process, and `at_start` what `info.seal_proof` is the digest of: None
    for an engine that is no process of ours. `missing` has the parts of the seal that lack, with the reasons.
    """

    kind: str
    proof: str | None
    missing: tuple[str, ...] = ()
    found: Mapping[str, Any] | None = None
    at_start: JsonValue = None
    pid: int | None = None
    started_ms: int | None = None


ReplicaState = Literal["up", "suspect", "draining", "starting", "down"]
SteeringAction = Literal["drain", "resume", "restart"]


@dataclass(frozen=True, slots=True)
class ReplicaPace:
    """How fast a replica answers chats. None where nothing was measured.

    `tokens_per_s` is what the answers have that ended within the last minute, as a mean over it. The others are of the
    last 128: from the sending of a stream to the replica until its first piece, of which whole answers have none; and
    the part of the prompts' tokens that was not computed again.
    """

    tokens_per_s: float | None
    first_token_ms_p50: float | None
    first_token_ms_p90: float | None
    cached_share: float | None  # from 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica of an engine, for whoever runs it. `why` says more of every state but `up`.

    A `suspect` one failed what it was sent and is asked last for a while. `num_answered` and `num_failed` are requests
    since the gateway's start; `started_ms` and `seal_proof` are of the process that is up, or None.
    """

    number: int  # from 1
    state: ReplicaState
    why: str
    engine: str
    slots: int
    num_running: int
    num_answered: int
    num_failed: int
    num_starts: int
    pace: ReplicaPace
    started_ms: int | None
    pid: int | None
    seal: str
    seal_proof: str | None


class ReplicaSteering(Protocol):
    """What an administrator may ask of an engine that is made of replicas.

    Raises Invalid for a number that there is not (`no_such_replica`), and for the last that answers (`last_replica`).
    """

    def statuses(self) -> tuple[ReplicaStatus, ...]: ...

    def check(self, action: SteeringAction, number: int) -> None:
        """Raise what asking for it now would raise; nothing changes."""
        ...

    def drain(self, number: int) -> None:
        """Send it nothing new; what it works on goes on."""
        ...

    def resume(self, number: int) -> None:
        """Send it requests again."""
        ...

    def restart(self, number: int) -> None:
        """Drain it, then start it again: once it works on nothing, or `drain_s` later. Does not wait for that."""
        ...


@dataclass(slots=True)
class Tally:
    """Which engine works on one request, and what it says it has computed so far. An adapter writes it, whoever asked
    reads it.

    Once a call has ended, in whatever way, it is what the engine counted; or the last that it said, and so the least
    that it can have been, where the engine itself was lost. `made_by` is the engine that the request was meant for
    until one begins, and then that one, as it was when it began: later it may be another, under another seal.
    """

    made_by: EngineInfo
    prompt_tokens: int = 0  # computed, or taken from what was computed before
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_known: bool = False  # whether the engine has said anything
    waited_s: float = 0.0  # for an engine to be started, in which none worked on the request

    @property
    def usage(self) -> Usage | None:
        """None where nothing is known to have been computed."""
        return Usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens) if self.is_known else None

    def count(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """What there is by now."""
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        self.cached_tokens, self.is_known = cached_tokens, True

    def begin(self, made_by: EngineInfo) -> None:
        """That engine begins, and what another computed is lost."""
        self.made_by = made_by
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.is_known = False


class Engine(Protocol):
    """Runs one model. Raises Invalid for what this model cannot do, Unavailable when the engine is lost.

    A chat whose `model` names one of `info.adapters` is answered with that adapter, every other one with the model as
    it is. A prompt that was computed is reused for chats of the same `salt` (`engine/salts.py`) and adapter only.
    No answer has more tokens than were asked for, or than the context holds, and no usage is beyond what was asked.
    Whoever must know which engine answered asks the request's `Tally`: `info` is of the engine that there is now.
    """

    @property
    def info(self) -> EngineInfo: ...

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, while nothing can be asked of it: nobody new is let in meanwhile."""
        ...

    def evidence(self) -> tuple[Perimeter, ...]:
        """What can be seen of its perimeters, one for each replica that is up. Blocks. Raises Unavailable while there
        is nothing to look at."""
        ...

    def keep_evidence(self) -> None:
        """Keep what receipts give digests of, of this start and of each that follows, from now on: before the first
        receipt, and not before it is sure that there may be one. Blocks. Raises OSError."""
        ...

    @property
    def steering(self) -> ReplicaSteering | None:
        """None for an engine that is not made of replicas."""
        ...

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        """Have `resize` called with `info.slots` whenever that has changed."""
        ...

    def stream(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> AsyncGenerator[Pieces | Completion, None]:
        """Pieces as they are made, those that are there at once together; then one Completion with the whole text."""
        ...

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        """The whole answer at once."""
        ...

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        """One vector a text."""
        ...

    async def close(self) -> None:
        """Let go of connections; calls under way fail with Unavailable."""
        ...
