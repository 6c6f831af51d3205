"""Our gateway as it is served, in front of the mock engine: real log with fdatasync, real key, receipts for everything.

python benchmarks/allod_gateway.py --port N --socket PATH --home DIR
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import uvloop

import mock_engine
from allod.app.gateway.realm import ServedEngine, run_realm
from allod.app.home import load_settings
from allod.app.listening import listen
from allod.core.canonical import digest_of
from allod.engine.adapters.echo import NOWHERE
from allod.engine.adapters.llama import LlamaEngine
from allod.engine.engine import EngineInfo
from allod.serve.served_model import ServedModel
from allod.settings.tree import Settings
from allod.web.server import answer

MODEL = ServedModel(
    name=mock_engine.MODEL, owner="mock", digest=digest_of("mock"), licence="none", country="", informative=False
)
INFO = EngineInfo(
    name="mock",
    build=digest_of("mock build"),
    config=digest_of({}),
    replay="none",
    model_digest=MODEL.digest,
    template_digest=digest_of("mock template"),
    context_tokens=4096,
    slots=64,  # admission lets twice as many through: the engine is not what is measured
    can_chat=True,
    can_embed=False,
    place=NOWHERE,
)


async def serve(settings: Settings, socket_path: str) -> None:
    """Until the process is ended."""
    listener = listen(settings.server.host, settings.server.port)
    settings = replace(settings, server=replace(settings.server, port=listener.getsockname()[1]))
    engine = LlamaEngine(INFO, socket_path)
    async with run_realm(settings, ServedEngine(engine, (MODEL,))) as realm:
        await answer(realm, listener)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--home", type=Path, required=True)
    words = parser.parse_args()
    uvloop.run(serve(load_settings({"server.port": words.port}, home=words.home), words.socket))
