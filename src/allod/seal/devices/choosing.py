"""The GPUs that somebody asked for, or why they cannot be used."""

from __future__ import annotations

from allod.core.errors import Unavailable
from allod.seal.devices.grants import NO_DEVICES, DeviceGrants, grants_of
from allod.seal.devices.obstacles import obstacles_of
from allod.seal.devices.survey import survey_devices


def choose_devices(wanted: tuple[str, ...], *, cuda: int = 0) -> DeviceGrants:
    """This machine's grants for `wanted` (grants.py), for a program built for `cuda`; none for nothing.

    Raises Invalid (`seal_device`) for one that is not there, Unavailable (`seal_device`) where none can be used.
    """
    if not wanted:
        return NO_DEVICES
    survey = survey_devices()
    if obstacles := obstacles_of(survey, cuda=cuda):
        raise Unavailable(obstacles[0].said, code="seal_device", hint=obstacles[0].hint, param="devices")
    return grants_of(survey, wanted, cuda=cuda)
