"""The sealed process of an engine, which is started before all else: what tells it what to load is loaded beside it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from allod.app.gateway.model_choice import path_at_hand
from allod.seal.ahead import Ahead
from allod.seal.devices.choosing import choose_devices
from allod.seal.launch import SealOptions, python_read_paths
from allod.settings.tree import Settings

SOCKET_DIR_PREFIX = "allod-"
ENGINE_LOG = "engine.log"  # in the home; of the only engine, or the first


def engine_seal(settings: Settings, socket_dir: Path, *files: Path, log_name: str = ENGINE_LOG) -> SealOptions:
    """llama.cpp's process, which may read these `files` once it is told what to do with them.

    With `[model] devices` it is an island with them. Raises Invalid and Unavailable (`seal_device`) without them.
    """
    devices = choose_devices(settings.model.devices)
    return SealOptions(
        profile="island-gpu" if devices.nodes else "sealed",
        devices=devices,
        command=(sys.executable, "-P", "-m", "allod.engine.adapters.llama_process"),
        socket_dir=socket_dir,
        read_paths=(*python_read_paths(), *files),
        environment={"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        log_path=settings.home / log_name,
        hears=True,
        unsafe_no_seal=settings.unsafe_no_seal,
    )


@contextmanager
def start_ahead(settings: Settings) -> Iterator[Ahead | None]:
    """The process for the catalogue's model that the settings name, which reads nothing until it is told.

    None for another model, whose files are yet to be found out, and in a home that has run no engine.
    """
    path = path_at_hand(settings)
    if path is None or not (settings.home / ENGINE_LOG).exists():  # a start that is refused leaves no new file
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix=SOCKET_DIR_PREFIX) as directory,
        closing(Ahead(engine_seal(settings, Path(directory), path))) as ahead,
    ):
        yield ahead
