"""All the escapes by name, in the order in which they are tried."""

from __future__ import annotations

from types import MappingProxyType

from allod.seal.escapes import backdoors, covert, files, network, process, unix

EVERY = MappingProxyType(
    {probe.name: probe for room in (network, unix, backdoors, process, files, covert) for probe in room.PROBES}
)
