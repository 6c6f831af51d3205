"""Nation profiles: the tiers, markings, places and purposes that one nation's labels are made of.

A profile is data (`nations/<code>.toml`): another nation is another file. `Nation.label` is the one way from words to
a Label; a word that the profile does not know is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from allod.core.errors import Invalid
from allod.core.labels import ANY, Label, Tier


@dataclass(frozen=True, slots=True)
class Marking:
    """A handling instruction, descriptor or caveat. `jurisdictions` are the only ones it leaves, if it restricts them."""

    name: str
    meaning: str
    jurisdictions: frozenset[str] | None = ANY


@dataclass(frozen=True, slots=True)
class Identifier:
    """A number that names a person. `pattern` finds candidates, `check` names the check-digit rule that they must pass
    (one of `govern.identifiers.CHECKS`), `marking` is what a text that holds one must carry."""

    name: str
    pattern: str
    check: str
    marking: str


@dataclass(frozen=True, slots=True)
class Nation:
    """One profile. `tiers` run from the lowest up; `aliases` are tiers that stand for another with markings."""

    code: str
    name: str
    source: str  # where its words come from
    tiers: tuple[Tier, ...]
    tier_places: Mapping[str, frozenset[str]] = field(default_factory=dict)  # tiers that only some places may hold
    aliases: Mapping[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    markings: Mapping[str, Marking] = field(default_factory=dict)
    places: frozenset[str] = frozenset()  # ISO 3166 codes that policies may name
    purposes: Mapping[str, str] = field(default_factory=dict)  # name → meaning
    identifiers: tuple[Identifier, ...] = ()

    @property
    def lowest(self) -> Label:
        """The label of what is not known to need any more."""
        return Label(self.tiers[0])

    def tier(self, name: str) -> Tier:
        """The tier of that name. Raises Invalid (`unknown_label`)."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        known = ", ".join([*(tier.name for tier in self.tiers), *self.aliases])
        raise Invalid(f"unknown tier {name!r}", code="unknown_label", param="tier", hint=f"known tiers: {known}")

    def label(
        self,
        tier: str = "",
        *,
        markings: Iterable[str] = (),
        purposes: Iterable[str] | None = ANY,
        jurisdictions: Iterable[str] | None = ANY,
    ) -> Label:
        """The label that these words make, with what its tier and markings restrict by themselves.

        An empty `tier` is the lowest. Raises Invalid (`unknown_label`) with the `param` that is wrong.
        """
        tier, implied = self.aliases.get(tier, (tier, frozenset()))
        named = frozenset(markings) | implied
        step = self.tier(tier) if tier else self.tiers[0]
        self._check_known("markings", named, self.markings)
        label = Label(
            tier=step,
            markings=named,
            jurisdictions=_set(jurisdictions),
            purposes=self._check_known("purposes", _set(purposes), self.purposes),
        )
        for places in (self.tier_places.get(step.name), *(self.markings[name].jurisdictions for name in named)):
            label = label.join(Label(self.tiers[0], jurisdictions=places))
        return label

    @staticmethod
    def _check_known(param: str, named: frozenset[str] | None, known: Iterable[str]) -> frozenset[str] | None:
        unknown = sorted((named or frozenset()) - set(known))
        if unknown:
            raise Invalid(
                f"unknown {param.removesuffix('s')} {unknown[0]!r}",
                code="unknown_label",
                param=param,
                hint=f"known {param}: {', '.join(sorted(known)) or 'none'}",
            )
        return named


def _set(words: Iterable[str] | None) -> frozenset[str] | None:
    return None if words is None else frozenset(words)
