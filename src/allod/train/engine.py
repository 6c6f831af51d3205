"""The engine that will serve what was trained, asked while it is being exported: its tokens, its probabilities.

llama.cpp's server in this process, on a Unix socket that nobody else can open. It tells no probabilities of a prompt,
so `surprises` makes it say the prompt, a token at a time, and reads what it thought of each.
"""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xllamacpp

from allod.core.errors import Invalid, Unavailable

_FORCED = 1e4  # added to a token's logit: nothing else is then said; probabilities are told from before


class Engine:
    """One model in the engine, with room for `context` tokens and, maybe, an adapter over it."""

    def __init__(self, weights: Path, *, context: int, threads: int = 1, adapter: Path | None = None) -> None:
        """Load `weights`, a GGUF file. Raises Invalid (`engine_refused`) where the engine does not."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="allod-engine-"))
            address = f"{folder}/engine.sock"
            try:
                self._server = xllamacpp.Server(_parameters(weights, address, context, threads, adapter))
            except RuntimeError as error:
                raise Invalid(f"the engine does not load {weights.name}: {error}", code="engine_refused") from error
            self._connection = stack.enter_context(_Connection(address))
            self._stack = stack.pop_all()

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text`, names of special tokens as plain text."""
        answer = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": False})
        return list(answer["tokens"])

    def surprises(self, tokens: Sequence[int]) -> list[float]:
        """Minus the log-probability, in nats, of every token but the first, after all that come before it."""
        return [self._surprise(tokens[:place], tokens[place]) for place in range(1, len(tokens))]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` likeliest tokens after `prompt`, one after another; fewer where a text or a turn ends."""
        return list(self._complete(prompt, n_predict=count, cache_prompt=False)["tokens"])

    def _surprise(self, before: Sequence[int], token: int) -> float:
        answer = self._complete(before, n_predict=1, n_probs=1, logit_bias=[[token, _FORCED]], cache_prompt=True)
        said = answer["completion_probabilities"][0]
        if said["id"] != token:
            raise Unavailable("the engine said another token than it was made to", code="engine_response")
        return -float(said["logprob"])

    def _complete(self, prompt: Sequence[int], **options: Any) -> dict[str, Any]:
        greedy = {"temperature": 0, "top_k": 1, "return_tokens": True}
        return self._ask("/completion", {"prompt": list(prompt), **greedy, **options})

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            self._connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the engine does not answer: {error}", code="engine_lost") from error
        if response.status != 200:
            raise Unavailable(f"the engine refused: {answer[:200].decode('utf-8', 'replace')}", code="engine_response")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def close(self) -> None:
        """Unload the model."""
        self._stack.close()
        del self._server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class _Connection(http.client.HTTPConnection):
    """One connection to a Unix socket, kept open."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _parameters(weights: Path, address: str, context: int, threads: int, adapter: Path | None) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.hostnames = [address]
    parameters.n_parallel = 1
    parameters.n_ctx = context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.n_threads_http = 1
    parameters.n_gpu_layers = 0
    parameters.cache_ram_mib = 0
    parameters.cors_origins = ""
    parameters.ui = False
    parameters.warmup = False
    parameters.offline = True
    parameters.verbosity = 1
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        parameters.lora_adapters = [lora]
    return parameters
