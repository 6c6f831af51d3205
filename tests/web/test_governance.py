"""What the pages for governance read, over HTTP: who may read it, and that it is what the log and the ledger say."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, TypeVar
from urllib.error import HTTPError

import pytest
from openai import OpenAI
from tests.conftest import Gateway, run_gateway

from allod.core.canonical import canonical_json

T = TypeVar("T")
NUMBERS = count()  # no two tenants have one name
PATHS = ["shares", "policy", "receipts", "explain"]
SECRET = "a question that nobody else may see"


class Office(NamedTuple):
    """A gateway and its administrator."""

    gateway: Gateway
    admin_key: str

    def send(self, path: str, body: Any = None, *, key: str | None = None, **headers: str) -> tuple[int, Any]:
        """The status and what was answered; POST where there is a body."""
        said = {name: value for name, value in headers.items() if value}  # a label that is empty would be refused
        headers = {"authorization": f"Bearer {self.admin_key if key is None else key}", **said}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.gateway.url}{path}", data, headers), timeout=30
            ) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            return error.code, {**json.load(error), "receipt": error.headers.get("x-allod-receipt")}

    def read(self, path: str, body: Any = None) -> Any:
        status, answer = self.send(f"/v1/governance/{path}", body)
        assert status == 200, answer
        return answer

    def ask(self, text: str, *, key: str | None = None, **headers: str) -> tuple[int, Any]:
        body = {"model": "echo", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
        return self.send("/v1/chat/completions", body, key=key or self.gateway.key, **headers)

    def tenant(self, name: str, **terms: Any) -> tuple[str, str, str]:
        """A new tenant: its id, and the id and the secret of its key, which works already."""
        _, project = self.send("/v1/organization/projects", {"name": name, "allod": terms})
        _, account = self.send(f"/v1/organization/projects/{project['id']}/service_accounts", {"name": "desk"})
        key = account["api_key"]
        for _ in range(100):
            if self.send("/v1/models", key=key["value"])[0] == 200:
                return project["id"], key["id"], key["value"]
            time.sleep(0.05)
        raise AssertionError("the key does not work within five seconds")

    def share(self, tenant_id: str) -> Any:
        (found,) = [one for one in self.read("shares")["data"] if one["id"] == tenant_id]
        return found


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """In a realm that is accredited for SECRET, in Scotland."""
    home = tmp_path_factory.mktemp("office")
    (home / "allod.toml").write_text('[realm]\ntier = "SECRET"\njurisdiction = "GB-SCT"\n')
    with run_gateway(home, "echo") as running:
        yield Office(running, (running.home / "admin.key").read_text().strip())


# Who may read


@pytest.mark.parametrize("path", PATHS)
def test_only_an_administrator_may_read(office: Office, path: str) -> None:
    """A key for use is told what it is; no key at all is told nothing."""
    body: dict[str, str] | None = {} if path == "explain" else None
    status, answer = office.send(f"/v1/governance/{path}", body, key=office.gateway.key)
    assert (status, answer["error"]["code"]) == (403, "wrong_kind_of_key")
    assert office.send(f"/v1/governance/{path}", body, key="allod-admin-wrong")[0] == 401


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("shares?limits=5", None, "limits"),
        ("shares?limit=0", None, "limit"),
        ("shares?limit=101", None, "limit"),
        ("policy?check=yes", None, "check"),
        ("receipts?decision=maybe", None, "decision"),
        ("receipts?decision=", None, "decision"),
        ("receipts?before=-1", None, "before"),
        ("receipts?before=9999999999999999999", None, "before"),
        ("receipts?limit=5&limit=6", None, "limit"),
        ("explain", {"teir": "SECRET"}, "teir"),
        ("explain", {"markings": "SENSITIVE"}, "markings"),
        ("explain", {"action": "delete"}, "action"),
        ("explain", {"tier": "COSMIC"}, "tier"),
        ("explain", {"markings": ["SECRETIVE"]}, "markings"),
        ("explain", {"purpose": "fun"}, "purpose"),
        ("explain", b'{"markings":' + b"[" * 50_000, None),
        ("explain", b"\xff", None),
        ("explain?tier=SECRET", {}, "tier"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_understood_is_refused(office: Office, path: str, body: Any, param: str | None) -> None:
    """By name, with 400: a filter that is misspelt must not answer with everything."""
    status, answer = office.send(f"/v1/governance/{path}", body)
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize("words", [{"tenant": "proj_none"}, {"key": "key_none"}, {"model": "gpt-9"}], ids=str)
def test_what_is_not_there_is_not_found(office: Office, words: dict[str, str]) -> None:
    """A tenant, a key or a model that this realm does not know."""
    assert office.send("/v1/governance/explain", words)[0] == 404
    assert office.send("/v1/governance/receipts?tenant=proj_none")[0] == 404


def timed(ask: Callable[[], T]) -> tuple[T, float]:
    """What came of it, and how many seconds it took."""
    start_s = time.monotonic()
    return ask(), time.monotonic() - start_s


# Shares


def test_shares_are_what_the_ledger_says(office: Office) -> None:
    """Once it has been charged: answers, refusals, tokens, and how much of each limit that is."""
    terms = {"weight": 7, "quota": {"tokens_per_minute": 5000, "concurrent": 9}, "budgets": {"month": {"tokens": 900}}}
    tenant_id, _, key = office.tenant("Survey", **terms)
    assert office.ask("one two three", key=key)[0] == 200
    assert office.ask("one", key=key, **{"x-allod-tier": "TOP SECRET"})[0] == 403
    deadline = time.monotonic() + 60
    while (found := office.share(tenant_id))["today"]["refused"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    today = {name: found["today"][name] for name in ("requests", "refused", "prompt_tokens", "completion_tokens")}
    assert today == {"requests": 1, "refused": 1, "prompt_tokens": 3, "completion_tokens": 3}
    assert (found["name"], found["weight"], found["num_running"]) == ("Survey", 7, 0)
    limits = {(one["unit"], one["period"]): (one["limit"], one["used"]) for one in found["limits"]}
    assert limits.pop(("tokens", "minute"))[0] == 5000  # by now another minute may have begun
    assert limits == {("requests", "now"): (9, 0), ("tokens", "month"): (900, 6)}


def test_shares_show_the_busy_and_count_the_others(office: Office) -> None:
    """As many as were asked for; the number of all of them beside."""
    office.tenant("First")
    office.tenant("Second")
    answer = office.read("shares?limit=2")
    assert len(answer["data"]) == 2
    assert answer["num_tenants"] == len(office.read("shares")["data"]) > 2


# Policy


def test_the_policy_is_the_one_in_the_log(office: Office) -> None:
    """Text, rules, version and digest: those of the command line, and of every receipt."""
    answer = office.read("policy")
    assert answer["text"] == office.gateway.allod("policy", "show").stdout
    history = json.loads(office.gateway.allod("policy", "history", "--json").stdout)
    assert [one["digest"] for one in answer["history"]] == [one["digest"] for one in reversed(history)]
    assert answer["in_force"] == answer["history"][0]
    office.ask("anything")
    assert office.read("receipts?limit=1")["data"][0]["policy"] == answer["digest"]
    assert answer["check"] is None
    assert all(rule["reason"] in rule["source"] for rule in answer["rules"])


def test_the_check_is_made_once_and_agrees_with_the_command_line(office: Office) -> None:
    """The second reading does not ask the policy again."""
    check, first_s = timed(lambda: office.read("policy?check=true")["check"])
    told = json.loads(office.gateway.allod("policy", "show", "--json").stdout)
    assert check["digest"] == told["digest"]
    assert check["is_sound"]
    again = [timed(lambda: office.read("policy?check=true")["check"]) for _ in range(3)]
    assert [found for found, _ in again] == [check] * 3
    assert min(taken_s for _, taken_s in again) < first_s / 2


# Why


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"tier": "SECRET"},
        {"tier": "TOP SECRET"},
        {"markings": ["SENSITIVE", "LEGAL"]},
        {"markings": ["UK EYES ONLY"], "purpose": "research"},
        {"purpose": "casework"},
        {"tier": "OFFICIAL-SENSITIVE", "purpose": "training"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "terms", [{}, {"label": {"purposes": ["research"]}, "scope": {"clearance": "OFFICIAL"}}], ids=str
)
def test_explain_says_what_the_main_path_does(office: Office, words: dict[str, Any], terms: dict[str, Any]) -> None:
    """The same request, really made: the same decision, by the same rules, for the same label; and so `allod` says."""
    tenant_id, key_id, key = office.tenant(f"Anybody {next(NUMBERS)}", **terms)
    headers = {f"x-allod-{name}": ", ".join(said) if isinstance(said, list) else said for name, said in words.items()}
    office.ask("word", key=key, **headers)
    (receipt,) = office.read(f"receipts?tenant={tenant_id}")["data"]
    seal = office.send("/v1/seal", key=key)[1]["kind"]
    for told in (
        office.read("explain", {**words, "tenant": tenant_id}),
        office.read("explain", {**words, "tenant": tenant_id, "key": key_id}),
        explained(office, words, f"--tenant={tenant_id}", f"--key={key_id}", f"--seal={seal}"),
    ):
        assert [told[name] for name in ("decision", "policy", "label")] == [
            receipt[name] for name in ("decision", "policy", "label")
        ]
        assert [rule["name"] for rule in told["rules"]] == receipt["rules"]
        assert told["changes"] or told["decision"] == "permit"


def explained(office: Office, words: dict[str, Any], *more: str) -> Any:
    """What `allod policy explain` says of the same request, beside the gateway."""
    said = [f"--{name}={','.join(value) if isinstance(value, list) else value}" for name, value in words.items()]
    ran = office.gateway.allod("policy", "explain", "--json", "--model=echo", *said, *more)
    told = json.loads(ran.stdout)
    assert ran.returncode == (0 if told["decision"] == "permit" else 1)
    return told


def test_an_explanation_has_one_json_form(office: Office) -> None:
    """Member for member and in one order, whoever is asked; the command line adds whether it assumed the seal."""
    tenant_id, key_id, key = office.tenant("Explained twice", scope={"clearance": "OFFICIAL"})
    seal = office.send("/v1/seal", key=key)[1]["kind"]
    over_http = office.read("explain", {"tier": "SECRET", "tenant": tenant_id, "key": key_id})
    told = explained(office, {"tier": "SECRET"}, f"--tenant={tenant_id}", f"--key={key_id}", f"--seal={seal}")
    assert told.pop("seal_assumed") is False
    assert told["decision"] == "forbid"
    assert json.dumps(told) == json.dumps(over_http)


@pytest.mark.parametrize("place", ["tenant", "key"])
def test_explain_counts_the_scope(office: Office, place: str) -> None:
    """What the gateway refuses because of the tenant's models, or the key's, neither of the two calls permitted."""
    scope = {"scope": {"models": ["another"]}}
    tenant_id, _, _ = office.tenant(f"Scoped by its {place}", **(scope if place == "tenant" else {}))
    path = f"/v1/organization/projects/{tenant_id}/service_accounts"
    key_id = office.send(path, {"name": "desk", "allod": scope if place == "key" else {}})[1]["api_key"]["id"]
    body = {"tenant": tenant_id, "key": key_id, "model": "echo"}
    told = office.read("explain", body)
    assert (told["decision"], [rule["name"] for rule in told["rules"]]) == ("forbid", ["model-not-in-scope"])
    again = explained(office, {"tenant": tenant_id, "key": key_id})
    assert (again["decision"], again["changes"]) == ("forbid", told["changes"])


def test_changes_made_on_the_command_line_are_found_over_http(office: Office) -> None:
    """By the resource's id, in the shape of the interface's own: one search finds all that was done to a tenant."""
    over_http, _, _ = office.tenant("By hand", weight=3)
    made = json.loads(office.gateway.allod("tenant", "add", "By hand, too", "--weight=3", "--json").stdout)["id"]
    office.gateway.allod("tenant", "set", made, "--weight=4", "--name=Renamed, too")
    office.send(f"/v1/organization/projects/{over_http}", {"name": "Renamed", "allod": {"weight": 4}})
    key = json.loads(office.gateway.allod("key", "add", made, "--json").stdout)["id"]
    office.gateway.allod("key", "revoke", key)

    def found(resource: str) -> list[Any]:
        told = json.dumps(office.send(f"/v1/organization/audit_logs?resource_ids[]={resource}")[1]["data"])
        events = json.loads(told.replace(", too", ""))  # no two tenants have one name
        return [{"type": event["type"], **event[event["type"]], "id": "X"} for event in reversed(events)]

    (created, updated), (created_over_http, updated_over_http) = found(made), found(over_http)
    assert created == created_over_http
    assert updated == updated_over_http
    assert (updated["changes_requested"]["title"], updated["changes_requested"]["allod"]["weight"]) == ("Renamed", 4)
    assert [event["type"] for event in found(key)] == ["api_key.created", "api_key.deleted"]


def test_a_tenant_has_one_json_form(office: Office) -> None:
    """Member for member and in one order, the command line shows what the interface shows; beside it, what was used."""
    terms = {"label": {"markings": ["SENSITIVE"]}, "scope": {"models": ["echo", "a"]}, "quota": {"concurrent": 3}}
    made, _, _ = office.tenant("Both ways", **terms, weight=3, budgets={"day": {"tokens": 100}})
    words = ["--markings=SENSITIVE", "--models=echo,a", "--concurrent=3", "--weight=3", "--budget=day tokens=100"]
    words.append("--model-quota=echo tokens-per-minute=900 concurrent=2")
    again = json.loads(office.gateway.allod("tenant", "add", "Both ways, too", *words, "--json").stdout)
    _, over_http = office.send(f"/v1/organization/projects/{again['id']}")
    told = {name: value for name, value in again.items() if name not in ("rate_limits", "used")}
    assert json.dumps(told) == json.dumps(over_http)
    _, limits = office.send(f"/v1/organization/projects/{again['id']}/rate_limits")
    assert json.dumps(again["rate_limits"]) == json.dumps(limits["data"])
    _, first = office.send(f"/v1/organization/projects/{made}")
    assert json.dumps(first["allod"]) == json.dumps(again["allod"])
    listed = office.gateway.allod("tenant", "list", "--json").stdout.strip()
    asked = urllib.request.Request(
        f"{office.gateway.url}/v1/organization/projects?limit=100",
        headers={"Authorization": f"Bearer {office.admin_key}"},
    )
    with urllib.request.urlopen(asked, timeout=30) as page:
        assert f'"data":{listed},'.encode() in page.read(), "byte for byte"


def test_a_key_has_one_json_form(office: Office) -> None:
    """A tenant's, an account's and an admin's: the command line shows what the interface shows, and a little beside."""
    tenant_id, _, _ = office.tenant("Key holder", scope={"models": ["echo"]})
    words = ["--name=CI", "--models=echo", "--clearance=OFFICIAL", "--expires=30d"]
    made = json.loads(office.gateway.allod("key", "add", tenant_id, *words, "--json").stdout)
    _, over_http = office.send(f"/v1/organization/projects/{tenant_id}/api_keys/{made['id']}")
    assert json.dumps(as_over_http(made)) == json.dumps(over_http)
    for owner, path in ((tenant_id, f"projects/{tenant_id}/api_keys"), (None, "admin_api_keys")):
        listed = json.loads(office.gateway.allod("key", "list", "--json").stdout)
        told = [as_over_http(key) for key in listed if key["project_id"] == owner]
        assert json.dumps(told) == json.dumps(office.send(f"/v1/organization/{path}")[1]["data"])


def test_openais_client_and_the_command_line_read_the_same(office: Office) -> None:
    """To the byte, in canonical JSON: a tenant, and a key of its."""
    made, key, _ = office.tenant("Two clients", label={"purposes": ["research"]}, weight=7)
    with OpenAI(base_url=f"{office.gateway.url}/v1", api_key="", admin_api_key=office.admin_key) as client:
        projects: Any = client.admin.organization.projects
        tenant, shown = projects.retrieve(made), projects.api_keys.retrieve(key, project_id=made)
    tenants = json.loads(office.gateway.allod("tenant", "list", "--json").stdout)
    (told,) = json.loads(office.gateway.allod("key", "list", made, "--json").stdout)
    assert canonical_json(tenant.to_dict()) in [canonical_json(listed) for listed in tenants]
    assert canonical_json(shown.to_dict()) == canonical_json(as_over_http(told))


def as_over_http(key: dict[str, Any]) -> dict[str, Any]:
    beside = ("project_id", "revoked_at", "ended", "value")
    return {name: value for name, value in key.items() if name not in beside}


def test_explain_refuses_keys_and_tenants_that_open_nothing(office: Office) -> None:
    """Whatever the policy says of them, they are not let in."""
    tenant_id, key_id, _ = office.tenant("Short-lived")
    other_id, _, _ = office.tenant("Other")
    assert office.send("/v1/governance/explain", {"tenant": other_id, "key": key_id})[1]["error"]["code"] == "not_found"
    urllib.request.urlopen(
        urllib.request.Request(
            f"{office.gateway.url}/v1/organization/projects/{tenant_id}/api_keys/{key_id}",
            headers={"authorization": f"Bearer {office.admin_key}"},
            method="DELETE",
        ),
        timeout=20,
    ).close()
    assert (
        office.send("/v1/governance/explain", {"tenant": tenant_id, "key": key_id})[1]["error"]["code"] == "key_ended"
    )
    office.send(f"/v1/organization/projects/{tenant_id}/archive", {})
    told = office.send("/v1/governance/explain", {"tenant": tenant_id})[1]
    assert told["error"]["code"] == "project_archived"


# Receipts


def test_receipts_are_read_back_page_by_page(office: Office) -> None:
    """Newest first, each once, with whose it was; by decision and tenant; and nothing of what was said."""
    tenant_id, _, key = office.tenant("Registry")
    for number in range(7):
        headers = {"x-allod-tier": "TOP SECRET"} if number % 3 == 2 else {}
        office.ask(f"{SECRET} {number}", key=key, **headers)
        office.ask("somebody else's")
    pages, before = [], None
    while True:
        answer = office.read(f"receipts?limit=3&tenant={tenant_id}" + (f"&before={before}" if before else ""))
        pages.append(answer["data"])
        assert SECRET not in json.dumps(answer)
        before = answer["before"]
        if before is None:
            break
    found = [one for page in pages for one in page]
    assert [len(page) for page in pages][:2] == [3, 3]
    assert [one["decision"] for one in found] == ["permit", "forbid", "permit", "permit", "forbid", "permit", "permit"]
    assert [one["entry"] for one in found] == sorted((one["entry"] for one in found), reverse=True)
    assert {one["tenant"]["name"] for one in found} == {"Registry"}
    assert found[0]["tokens"] == {"prompt": 8, "completion": 8}
    assert found[1]["tokens"] == {"prompt": None, "completion": None}
    refused = office.read(f"receipts?tenant={tenant_id}&decision=forbid")["data"]
    assert refused == [one for one in found if one["decision"] == "forbid"]
    assert {one["tenant"]["name"] for one in office.read("receipts?limit=4")["data"]} == {"Registry", "This machine"}


def test_an_administrator_gets_the_bundle_closed(office: Office) -> None:
    """The receipt verifies; the opening is its tenant's alone."""
    office.ask("anything")
    (latest,) = office.read("receipts?limit=1")["data"]
    status, bundle = office.send(f"/v1/receipts/{latest['id']}")
    assert (status, bundle.keys()) == (200, {"statement", "proof"})
    assert office.send("/v1/trust", key="nothing")[0] == 401
    own = office.send(f"/v1/receipts/{latest['id']}", key=office.gateway.key)[1]
    assert own["statement"] == bundle["statement"]
    assert "salt" in own["opening"]
