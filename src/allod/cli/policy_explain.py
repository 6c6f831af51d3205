"""`allod policy explain`: what would be decided for a request, by which rules, and what would change it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from allod.app.policies import nation_of, open_policies
from allod.core.errors import Invalid
from allod.core.nations import Nation
from allod.govern.policy import Policy, load_policy
from allod.govern.policy_asked import Asked, Model, Site, describe
from allod.govern.policy_explain import explain
from allod.settings import Settings, load_catalogue

MAX_POLICY_BYTES = 1 << 20


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """The words that make up a request."""
    parser.add_argument("--file", type=Path, metavar="FILE", help="by this policy instead of the one in force")
    parser.add_argument("--action", choices=("chat", "embed"), default="chat")
    parser.add_argument("--tier", default="", help="of the request; the lowest unless said")
    parser.add_argument("--markings", type=_words, default=[], metavar="A,B")
    parser.add_argument("--purpose", metavar="NAME")
    parser.add_argument("--tenant", default="local", metavar="ID")
    parser.add_argument("--key", default="local", metavar="ID")
    parser.add_argument("--clearance", metavar="TIER", help="of the key; the highest unless said")
    parser.add_argument("--models", type=_words, metavar="A,B", help="the only ones that the key may use")
    parser.add_argument("--model", metavar="NAME")
    parser.add_argument("--place", metavar="CODE", help="where the site is; this realm's unless said")
    parser.add_argument("--accredited", metavar="TIER", help="the site's highest tier; this realm's unless said")
    parser.add_argument("--seal", default="sealed", metavar="KIND", help="sealed, partial or none")


def explain_request(words: argparse.Namespace, settings: Settings) -> int:
    """0 if it would be permitted, else 1."""
    nation = nation_of(settings)
    policy = _policy(words.file, settings, nation)
    asked = _asked(words, settings, nation)
    told = explain(policy, asked)
    decision = told.decision
    if words.json:
        rules = [{"name": rule.name, "effect": rule.effect, "reason": rule.reason} for rule in told.rules]
        found = {"asked": describe(asked), "policy": policy.digest, "permitted": decision.permitted, "rules": rules}
        print(json.dumps({**found, "fault": decision.fault, "changes": told.changes}))
        return 0 if decision.permitted else 1
    print(f"asked      {describe(asked)}\npolicy     {policy.digest}")
    print(f"decision   {'permit' if decision.permitted else 'forbid'}: {decision.reason}")
    for rule in told.rules:
        print(f"\n{rule.source}")
    print(f"\n{told.advice}")
    return 0 if decision.permitted else 1


def _asked(words: argparse.Namespace, settings: Settings, nation: Nation) -> Asked:
    purposes = None if words.purpose is None else [words.purpose]
    accredited = words.accredited or settings.realm.tier
    return Asked(
        action=words.action,
        tenant_id=words.tenant,
        key_id=words.key,
        clearance=nation.tier(words.clearance) if words.clearance else nation.tiers[-1],
        models=None if words.models is None else frozenset(words.models),
        model=_model(words.model or settings.model.name, nation),
        label=nation.label(words.tier, markings=words.markings, purposes=purposes),
        site=Site(
            id=settings.realm.site,
            jurisdiction=words.place or settings.realm.jurisdiction,
            tier=nation.tier(accredited) if accredited else nation.tiers[0],
            seal=words.seal,
        ),
    )


def _model(name: str, nation: Nation) -> Model:
    for entry in load_catalogue():
        if entry.name == name:
            return Model(name, nation.lowest, entry.licence, entry.country, entry.informative)
    return Model(name, nation.lowest)


def _policy(file: Path | None, settings: Settings, nation: Nation) -> Policy:
    return open_policies(settings).current() if file is None else load_policy(read_text(file), nation)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def read_text(path: Path) -> str:
    """A text file of bounded length. Raises Invalid."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_POLICY_BYTES + 1)
        if len(data) <= MAX_POLICY_BYTES:
            return data.decode()
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", code="unreadable") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not text", code="unreadable") from error
    raise Invalid(f"{path} is longer than {MAX_POLICY_BYTES} bytes", code="too_large")
