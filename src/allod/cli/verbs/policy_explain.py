"""`allod policy explain`: what would be decided for a request, by which rules, and what would change it."""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from allod.app.administration.explanations import describe_explanation
from allod.app.administration.keys import find_file, find_key, list_keys
from allod.app.administration.questions import (
    ASSUMED_SEAL,
    Question,
    Questions,
    controls_of,
)
from allod.app.administration.tenants import find_tenant
from allod.app.artefacts.policies import MAX_POLICY_BYTES, open_policies
from allod.app.gateway.open_store import open_store
from allod.app.gateway.weights import catalogue_models, model_called
from allod.app.home import Home, nation_of
from allod.cli.json_text import json_text
from allod.cli.running import model_of_running
from allod.core.files.named import read_named_text
from allod.core.nations.nation import Nation
from allod.core.times import now_ms
from allod.govern.policy.decision import Policy, load_policy
from allod.govern.policy.explain import explain
from allod.govern.policy.request import Model, PolicyRequest, sentence_of
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import LOCAL
from allod.settings.tree import Settings


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that make up a request, and those that ask what if."""
    parser.add_argument("--file", type=Path, metavar="FILE", help="by this policy instead of the one in force")
    parser.add_argument("--action", choices=("chat", "embed"), default="chat")
    parser.add_argument("--tier", default="", help="of the request; the tenant's own unless said")
    parser.add_argument("--markings", type=_words, default=[], metavar="A,B")
    parser.add_argument("--purpose", metavar="NAME")
    parser.add_argument("--tenant", default=LOCAL, metavar="TENANT", help="its id or its name (local)")
    parser.add_argument(
        "--key", metavar="ID", help="one of its keys; the realm's own for local, else one without limits"
    )
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="the one that the gateway serves, or would by the settings, unless said"
    )
    what_if = parser.add_argument_group("what if")
    what_if.add_argument("--clearance", metavar="TIER", help="the key were cleared up to this")
    what_if.add_argument("--models", type=_words, metavar="A,B", help="these were the only ones that the key may use")
    what_if.add_argument("--place", metavar="CODE", help="the site were there")
    what_if.add_argument("--accredited", metavar="TIER", help="the site were accredited up to this")
    what_if.add_argument("--seal", metavar="KIND", help="the engine's were sealed, partial or none; sealed is assumed")


def explain_request(arguments: argparse.Namespace, settings: Settings) -> int:
    """0 if it would be permitted, else 1."""
    policy = _policy(arguments.file, settings)
    started_with = model_of_running(Home(settings.home)) or settings.model.name
    settings = replace(settings, model=replace(settings.model, name=started_with))
    controls = controls_of(settings, policy, model=arguments.model, seal=arguments.seal or ASSUMED_SEAL)
    with closing(open_store(settings)) as store:
        named = None if arguments.model is None else model_called(arguments.model, settings, policy.nation)
        others = (*catalogue_models(policy.nation).values(), *([named] if named else []))
        questions = Questions(controls, store, others)
        asked = questions.request_for(_question(arguments, named, store, settings), now_ms())
    asked = _what_if(arguments, asked, policy.nation)
    explanation = explain(policy, asked, questions.models.values())
    permitted = explanation.decision.permitted
    if arguments.json:
        print(json_text({**describe_explanation(policy, asked, explanation), "seal_assumed": arguments.seal is None}))
        return 0 if permitted else 1
    assumed = " (assumed: no engine was asked; --seal says otherwise)" if arguments.seal is None else ""
    print(f"asked      {sentence_of(asked)}{assumed}\npolicy     {policy.digest}")
    print(f"decision   {'permit' if permitted else 'forbid'}: {explanation.decision.reason}")
    for rule in explanation.rules:
        print(f"\n{rule.source}")
    print(f"\n{explanation.advice}")
    return 0 if permitted else 1


def _question(arguments: argparse.Namespace, named: Model | None, store: TenantStore, settings: Settings) -> Question:
    tenant = find_tenant(store, arguments.tenant)
    key_id = None if arguments.key is None else find_key(store, arguments.key).id
    if key_id is None and tenant.id == LOCAL:
        key_id = next((key.id for key in list_keys(store, LOCAL) if find_file(key, settings)), None)
    model = named.name if named else arguments.model
    return Question(tenant.id, arguments.tier, arguments.markings, arguments.purpose, arguments.action, model, key_id)


def _what_if(arguments: argparse.Namespace, asked: PolicyRequest, nation: Nation) -> PolicyRequest:
    """The question with what is supposed of its key and its site."""
    tier = nation.tier(arguments.accredited) if arguments.accredited else asked.site.tier
    return replace(
        asked,
        clearance=nation.tier(arguments.clearance) if arguments.clearance else asked.clearance,
        models=asked.models if arguments.models is None else frozenset(arguments.models),
        site=replace(asked.site, jurisdiction=arguments.place or asked.site.jurisdiction, tier=tier),
    )


def _policy(file: Path | None, settings: Settings) -> Policy:
    if file is None:
        return open_policies(settings).current()
    return load_policy(read_named_text(file, limit_bytes=MAX_POLICY_BYTES), nation_of(settings))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]
