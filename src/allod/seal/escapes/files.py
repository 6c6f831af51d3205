"""Escapes through files: what Landlock does not see, and what a gateway might be tricked into opening."""

from __future__ import annotations

import os
from pathlib import Path

from allod.seal.escapes.probe import Probe, Target


def _change_mode(target: Target) -> None:
    Path(target.victim_file).chmod(target.mode)


def _write_file(target: Target) -> None:
    Path(target.victim_file).write_bytes(target.payload)


def _hard_link(target: Target) -> None:
    os.link(target.victim_file, os.path.join(target.socket_dir, target.token))  # noqa: PTH118 - a plain string


def _symlink(target: Target) -> None:
    Path(target.socket_dir, target.token).symlink_to("/etc/passwd")


def _plain_file(target: Target) -> None:
    Path(target.socket_dir, target.token).write_bytes(b"not a socket")


PROBES = (
    Probe("change-mode", "chmod a file of the gateway, which Landlock does not see", _change_mode, leaves="mode"),
    Probe("write-file", "write a file of the gateway", _write_file),
    Probe("hard-link", "link a file of the gateway into the socket directory", _hard_link),
    Probe("symlink", "leave a symbolic link in the socket directory", _symlink),
    Probe("plain-file", "leave a plain file in the socket directory", _plain_file),
)
