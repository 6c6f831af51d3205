"""What a policy may speak of: a Cedar schema made from a nation's profile.

Tiers, markings, purposes and places are enumerated, so that a misspelt one is an error and not a rule that never holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.core.labels import Tier
from allod.core.nations.nation import Nation

SEALS = ("sealed", "partial", "none")
WHOLE_SEALS = ("sealed", "island")  # kinds of seal with nothing missing: of one process, and of a group of them

_SCHEMA = """\
// The words of policies in the realm of {name}. A word that is not here is an error.

entity Tier enum [{tiers}];  // from the lowest up
entity Marking enum [{markings}];
entity Purpose enum [{purposes}];
entity Place enum [{places}];
entity Seal enum [{seals}];

type Level = {{ tier: Tier, rank: Long }};  // rank 0 is the lowest tier

entity Tenant;
entity Key in [Tenant] {{
  clearance: Level,
  models?: Set<Model>,  // the only ones that it may use; absent: not restricted
}};
entity Model {{
  licence?: String,
  country?: String,  // its publisher's
  informative: Bool,  // whether its answers are worth reading
}};

type Label = {{  // the request's and the model's together
  tier: Tier,
  rank: Long,
  markings: Set<Marking>,
  purposes?: Set<Purpose>,  // absent: any
  jurisdictions?: Set<Place>,  // where it may be processed; absent: anywhere
}};
type Site = {{
  id: String,
  places: Set<Place>,  // the place and what it is part of; empty: not known
  accredited: Level,  // the highest that it may process
  seal: Seal,  // of the engine that would answer
}};

action use;
action chat, embed in [use] appliesTo {{
  principal: [Key], resource: [Model], context: {{ label: Label, site: Site }}
}};
"""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A nation's words as policies see them: `tiers` from the lowest up, `places` all that have a name."""

    schema: str
    tiers: tuple[Tier, ...]
    places: frozenset[str]


def vocabulary_of(nation: Nation) -> Vocabulary:
    """Raises Invalid (`nation_words`) for a word that cannot stand in a policy."""
    places = nation.places.union(
        *nation.tier_places.values(),
        *(marking.jurisdictions for marking in nation.markings.values() if marking.jurisdictions is not None),
    )
    schema = _SCHEMA.format(
        name=_printable(nation.name),
        tiers=_list_words(tier.name for tier in nation.tiers),
        markings=_list_words(sorted(nation.markings)),
        purposes=_list_words(sorted(nation.purposes)),
        places=_list_words(sorted(places)),
        seals=_list_words(SEALS),
    )
    return Vocabulary(schema, nation.tiers, places)


def _list_words(words: Iterable[str]) -> str:
    """Cedar has no enumeration of nothing: a nation without markings gets one that no label can carry."""
    return ", ".join(map(_quote, words)) or '"(none)"'


def _quote(word: str) -> str:
    return '"' + _printable(word).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _printable(word: str) -> str:
    if not word.isprintable():
        raise Invalid(f"{word!r} cannot stand in a policy", code="nation_words")
    return word
