"""The engine's own process while a model is tried: llama.cpp's server on one Unix socket. Started, never imported.

python -m allod.train.exporting.engine_process \\
    '{"weights": ..., "socket": ..., "context": 256, "threads": 1, "adapter": null}'

It says `ready` on standard output once it listens, and ends when standard input does: with whoever started it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

LAST_WORDS_S = 0.5  # for the engine's thread that writes its log


def serve(options: dict[str, Any]) -> None:
    """Load the model, listen, and stay until standard input ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = options["weights"]
    parameters.hostnames = [options["socket"]]
    parameters.n_parallel = 1
    parameters.n_ctx = options["context"]
    parameters.cpuparams.n_threads = options["threads"]
    parameters.cpuparams_batch.n_threads = options["threads"]
    parameters.n_threads_http = 1
    parameters.n_gpu_layers = 0
    parameters.cache_ram_mib = 0
    parameters.cors_origins = ""
    parameters.ui = False
    parameters.warmup = False
    parameters.fit_params = False
    parameters.offline = True
    parameters.verbosity = 1
    if options["adapter"] is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = options["adapter"], 1.0
        parameters.lora_adapters = [lora]
    try:
        server = xllamacpp.Server(parameters)  # returns when the socket listens; it lives as long as this name
    except RuntimeError:
        time.sleep(LAST_WORDS_S)
        sys.exit(1)  # the engine has said why, on standard error
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    assert server is not None
    os._exit(0)  # taking the server apart can wait for ever, with every lock held: nothing of it is worth keeping


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
