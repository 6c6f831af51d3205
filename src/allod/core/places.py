"""Places, as ISO 3166 codes: a country (`GB`), or a part of one (`GB-SCT`).

ISO 3166-1 reserves a few codes that look like a country's and are none. A label, a site or a source that named one
would be of nowhere: no rule that speaks of the country would ever meet it.
"""

from __future__ import annotations

import re

PLACE = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
# Exceptionally reserved, and what is meant by them; empty where no one country is.
RESERVED = {
    "AC": "SH", "CP": "FR", "CQ": "GG", "DG": "IO", "EA": "ES", "EU": "", "EZ": "", "FX": "FR", "IC": "ES", "SU": "",
    "TA": "SH", "UK": "GB", "UN": "",
}  # fmt: skip


def fault_of_place(code: object) -> str | None:
    """Why this is no place; None where it is one. It says which code is meant by a reserved one."""
    if not isinstance(code, str) or PLACE.fullmatch(code) is None:
        return f"{code!r} is no code of ISO 3166, such as GB or GB-SCT"
    country, dash, part = code.partition("-")
    if country not in RESERVED:
        return None
    meant = RESERVED[country]
    said = f"{code!r} is reserved in ISO 3166 and the code of no country"
    return f"{said}: say {meant}{dash}{part}" if meant else f"{said}: name the countries that are meant"
