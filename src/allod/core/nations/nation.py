"""Nation profiles: the tiers, markings, places and purposes that one nation's labels are made of.

A profile is data (`nations/<code>.toml`, read by `profile.read_nation`): another nation is another file.
`Nation.label` is the one way from words to a Label; a word that the profile does not know is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from allod.core.errors import Invalid
from allod.core.labels import ANY, Label, Tier
from allod.core.places import fault_of_place

# The check-digit rules that a profile may name; `govern.identifiers.CHECKS` holds one function for each.
CHECK_RULES = frozenset({"format", "luhn", "mod11", "mod97"})
DIGITS_ONLY = frozenset({"luhn", "mod11"})  # rules that cannot calculate with letters


@dataclass(frozen=True, slots=True)
class Marking:
    """A handling instruction, descriptor or caveat. `jurisdictions`: the only ones it leaves, if it restricts."""

    name: str
    meaning: str
    jurisdictions: frozenset[str] | None = ANY


@dataclass(frozen=True, slots=True)
class Identifier:
    """A number that names a person. `pattern` finds candidates, `check` names the check-digit rule that they must pass
    (one of `CHECK_RULES`), `marking` is what a text that holds one must carry."""

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
    places: frozenset[str] = frozenset()  # ISO 3166 codes that labels and policies may name
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

        An empty `tier` is the lowest. The words of `Label.as_json` make the same label again. Words that contradict
        each other leave no place or purpose (`Label.is_impossible`). Raises Invalid (`unknown_label`) with the `param`
        that is wrong.
        """
        tier, implied = self.aliases.get(tier, (tier, frozenset()))
        step = self.tier(tier) if tier else self.tiers[0]
        named = _check_known("markings", frozenset(markings) | implied, self.markings)
        label = Label(
            tier=step,
            markings=named,
            jurisdictions=None if jurisdictions is None else _check_known("jurisdictions", jurisdictions, self.places),
            purposes=None if purposes is None else _check_known("purposes", purposes, self.purposes),
        )
        for places in (self.tier_places.get(step.name), *(self.markings[name].jurisdictions for name in named)):
            if places is not None:
                label = label.join(Label(self.tiers[0], jurisdictions=places))
        return label


def _check_known(param: str, words: Iterable[str], known: Collection[str]) -> frozenset[str]:
    named = frozenset(words)
    unknown = sorted(word for word in named if word not in known)
    if unknown and param == "jurisdictions" and (fault := fault_of_place(unknown[0])):
        raise Invalid(fault, code="unknown_label", param=param)
    if unknown:
        raise Invalid(
            f"unknown {param.removesuffix('s')} {unknown[0]!r}",
            code="unknown_label",
            param=param,
            hint=f"known {param}: {', '.join(sorted(known)) or 'none'}",
        )
    return named
