"""The engine's own process: llama.cpp's server on one Unix socket. Started, inside the seal where it serves; never
imported.

python -m allod.engine.adapters.llama_process <<< '{"model": ..., "socket": ..., "threads": 1, ...}'

It stays until it is killed. With `--on-trial` it says `ready` on standard output once it listens, and ends when its
input does: with whoever started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

import xllamacpp

LAST_WORDS_S = 0.5  # for the engine's thread that writes its log: what says why is lost with it


def serve_model(options: dict[str, Any]) -> xllamacpp.Server:
    """A server that has loaded the model and listens, while this value lives.

    Threads that spin would starve a small machine: whoever starts this process to serve sets OMP_WAIT_POLICY and
    GOMP_SPINCOUNT before.
    """
    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.hostnames = [options["socket"]]
    params.n_parallel = options["slots"]
    params.n_ctx = options["slots"] * options["context_tokens"]
    params.kv_unified = options["kv_unified"]
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    params.n_threads_http = options["http_threads"]
    params.embedding = options["embeddings"]
    params.n_batch = params.n_ubatch = options["batch_tokens"]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in options["adapters"]]
    params.lora_init_without_apply = True  # each request says which of them it wants
    params.n_gpu_layers = options["gpu_layers"]
    params.cache_ram_mib = options["cache_ram_mib"]
    params.cache_prompt = False  # nothing that was computed is reused unless a request says so
    params.cache_idle_slots = False
    params.n_cache_reuse = 0
    params.slot_save_path = ""
    params.cors_origins = ""
    params.ui = False
    params.sse_ping_interval = 0  # a word of the engine's is progress, not a sign of life from beside it
    params.endpoint_slots = True  # how the gateway learns what was computed for who left early
    params.endpoint_metrics = True  # and how it is asked for a word: only what computes can say it
    params.endpoint_props = False
    params.fit_params = False  # all that it would fit is said here: it would load the model once more to find out
    params.offline = True
    params.verbosity = 1
    try:
        return xllamacpp.Server(params)  # once the socket listens
    except RuntimeError as error:
        time.sleep(LAST_WORDS_S)
        sys.exit(str(error))  # the engine has said why before that


def end_with_input() -> NoReturn:
    """Stay until standard input ends."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # taking the server apart can wait for ever, with every lock held: nothing of it is worth keeping


if __name__ == "__main__":
    server = serve_model(json.loads(sys.stdin.readline()))  # said once it is known, while all the above is loaded
    if sys.argv[1:] == ["--on-trial"]:
        end_with_input()
    threading.Event().wait()
