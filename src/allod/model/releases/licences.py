"""What a thing made of several asks for."""

from __future__ import annotations

from collections.abc import Sequence


def joint_licence(licences: Sequence[str]) -> str:
    """One SPDX expression that asks for what each of `licences` asks for (SPDX specification, annex D)."""
    if len(set(licences)) == 1:
        return licences[0]
    parts = {
        part for licence in licences for part in ([f"({licence})"] if " OR " in licence else licence.split(" AND "))
    }
    return " AND ".join(sorted(parts))
