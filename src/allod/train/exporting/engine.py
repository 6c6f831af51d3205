"""The engine that will serve what was trained, asked while it is being exported: its tokens, its probabilities.

llama.cpp's server in a process of its own, which can be ended whatever it is doing, on a Unix socket that nobody else
can open. It tells no probabilities of a prompt, so `surprises` makes it say the prompt, a token at a time, and reads
what it thought of each.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from allod.core.errors import Invalid, Unavailable

ANSWER_TIMEOUT_S = 600
_END_TIMEOUT_S = 10
_ALL = 1 << 20  # more tokens than any vocabulary has
_FORCED = 1e4  # added to a token's logit: nothing else is then said; probabilities are told from before
_TAIL_CHARACTERS = 600
_ALONE = {  # one who asks, on no accelerator, and no prompt kept but in the slot
    "slots": 1,
    "http_threads": 1,
    "batch_tokens": 512,
    "gpu_layers": 0,
    "kv_unified": False,
    "cache_ram_mib": 0,
    "embeddings": False,
}


class TrialEngine:
    """One model in the engine, with room for `context` tokens and, maybe, an adapter over it."""

    def __init__(self, weights: Path, *, context: int, threads: int = 1, adapter: Path | None = None) -> None:
        """Load `weights`, a GGUF file. Raises Invalid (`engine_refused`) where the engine does not."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="allod-engine-")))
            address = str(folder / "engine.sock")  # short: a socket's path has room for a hundred bytes
            options = {
                "model": str(weights),
                "adapters": [] if adapter is None else [str(adapter)],
                "socket": address,
                "context_tokens": context,
                "threads": threads,
                **_ALONE,
            }
            process = stack.enter_context(_start(folder / "errors"))
            stack.callback(_end, process)
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it has ended, and said why
                process.stdin.write(json.dumps(options).encode() + b"\n")
                process.stdin.flush()
            if process.stdout.readline() != b"ready\n":
                why = (folder / "errors").read_text(errors="replace").strip()[-_TAIL_CHARACTERS:]
                raise Invalid(f"the engine does not load {(adapter or weights).name}: {why}", code="engine_refused")
            self._connection = stack.enter_context(UnixConnection(address))
            self._stack = stack.pop_all()
        self._lora = [] if adapter is None else [{"id": 0, "scale": 1.0}]
        self._whole: dict[int, bool] = {}

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text`, names of special tokens as plain text."""
        answer = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": False})
        return list(answer["tokens"])

    def surprises(self, tokens: Sequence[int]) -> list[float]:
        """Minus the log-probability, in nats, of every token but the first, after all that come before it."""
        return [self._surprise(tokens[:index], tokens[index]) for index in range(1, len(tokens))]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` likeliest tokens after `prompt`, one after another; fewer where a text or a turn ends."""
        return list(self._complete(prompt, n_predict=count, cache_prompt=False)["tokens"])

    def _surprise(self, before: Sequence[int], token: int) -> float:
        """The engine says nothing of a token that ends within a character, and goes on until the character is whole.
        Then a whole one is said in its place, and the token looked up among all that might have been."""
        is_whole = self._is_whole(token)
        said = self._force(before, token if is_whole else self._whole_token(), n_probs=1 if is_whole else _ALL)
        for item in (said, *said.get("top_logprobs", ())):
            if item["id"] == token:
                return -float(item["logprob"])
        raise Unavailable("the engine said another token than it was made to", code="engine_response")

    def _force(self, before: Sequence[int], token: int, *, n_probs: int) -> dict[str, Any]:
        answer = self._complete(before, n_predict=1, n_probs=n_probs, logit_bias=[[token, _FORCED]], cache_prompt=True)
        said: dict[str, Any] = answer["completion_probabilities"][0]
        return said

    def _is_whole(self, token: int) -> bool:
        """Whether the token's bytes are whole characters."""
        if token not in self._whole:
            self._whole[token] = "\ufffd" not in self._ask("/detokenize", {"tokens": [token]})["content"]
        return self._whole[token]

    def _whole_token(self) -> int:
        return self.tokens("a")[0]

    def _complete(self, prompt: Sequence[int], **options: Any) -> dict[str, Any]:
        greedy = {"temperature": 0, "top_k": 1, "return_tokens": True, "lora": self._lora}
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
        """End the engine."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, kept open."""

    def __init__(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        super().__init__("engine", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _start(errors: Path) -> subprocess.Popen[bytes]:
    """The engine's process, which ends when its standard input does."""
    command = [sys.executable, "-P", "-m", "allod.engine.adapters.llama_process", "--on-trial"]
    with errors.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(_END_TIMEOUT_S)
