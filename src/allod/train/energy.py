"""The energy of a stage: metered by the processor's own counters, else modelled from a site's figure, else unavailable.

The counters (RAPL, Documentation/power/powercap) are of whole processor packages, whatever ran there, and hold nothing
of accelerators, fans or losses. So they are used only for what ran on this machine alone, and the method says what
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allod.core.canonical import JsonValue

COUNTERS = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts from when it is made. A counter starts again at zero every few minutes of full load: `sample` often."""

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._counters = sorted(counters.glob("intel-rapl:[0-9]"))
        self._microjoules = 0
        self._last = self._read()

    def sample(self) -> None:
        """Take in what the counters have gained since the last time."""
        now = self._read()
        if now is None or self._last is None:
            self._last = None  # lost for good: half a sum would be no sum
            return
        for name, (value, limit) in now.items():
            self._microjoules += (value - self._last[name][0]) % (limit + 1)
        self._last = now

    def millijoules(self) -> int | None:
        """What was used so far; None where there are no counters that we may read."""
        self.sample()
        return None if self._last is None else self._microjoules // 1000

    def _read(self) -> dict[str, tuple[int, int]] | None:
        try:
            found = {
                path.name: (
                    int((path / "energy_uj").read_text()),
                    int((path / "max_energy_range_uj").read_text()),
                )
                for path in self._counters
            }
        except (OSError, ValueError):
            return None
        return found or None


def energy(metered_mj: int | None, *, seconds: float, node_watts: int, nodes: int) -> Mapping[str, JsonValue]:
    """What a manifest says: millijoules, METERED, MODELLED or UNAVAILABLE, and how it was come by."""
    if metered_mj is not None:
        return {
            "millijoules": metered_mj,
            "label": "METERED",
            "method": "RAPL, processor packages of this machine, all that ran on it",
        }
    if node_watts:
        method = f"{node_watts} W a node by the site's profile, {nodes} nodes, elapsed time"
        return {"millijoules": int(node_watts * nodes * seconds * 1000), "label": "MODELLED", "method": method}
    return {"millijoules": None, "label": "UNAVAILABLE", "method": None}
