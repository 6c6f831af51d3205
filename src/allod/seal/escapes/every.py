"""All the escapes by name, in the order in which they are tried."""

from __future__ import annotations

from types import MappingProxyType

from allod.seal.escapes import backdoors, files, network, process, unix

EVERY = MappingProxyType(
    {probe.name: probe for probe in (*network.PROBES, *unix.PROBES, *backdoors.PROBES, *process.PROBES, *files.PROBES)}
)
