"""OpenAI's own client administers a real gateway: tenants, keys, limits, and what they did and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import openai
import pytest
from tests.conftest import Gateway

Start = Callable[..., AbstractContextManager[Gateway]]
PRICES = "[prices]\nmicros_per_1k_prompt_tokens = 1_000_000\nmicros_per_1k_completion_tokens = 2_000_000\n"


@pytest.fixture
def priced(start_gateway: Start, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with the echo engine, where a token read costs 1,000 micros and a token written 2,000."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "allod.toml").write_text(PRICES)
    with start_gateway("echo") as gateway:
        yield gateway


def client_of(gateway: Gateway, key: str) -> openai.OpenAI:
    """OpenAI's client for the gateway, with a key for use and the realm's first admin key."""
    return openai.OpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=key,
        admin_api_key=(gateway.home / "admin.key").read_text().strip(),
        max_retries=0,
    )


def ask(client: openai.OpenAI, text: str = "one two three") -> openai.types.CompletionUsage:
    answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": text}], max_tokens=5)
    assert answer.usage is not None
    return answer.usage


def within(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether the condition comes to hold in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_refused(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False


def is_let_in(client: openai.OpenAI) -> bool:
    return not is_refused(client)


def start_of_a_minute() -> None:
    """Wait out the end of a minute, so that a quota's window does not change between two requests."""
    left = 60 - time.time() % 60
    if left < 10:
        time.sleep(left + 0.1)


def test_a_tenant_is_governed_with_openais_own_client(priced: Gateway) -> None:
    """Project, service account and key; a limit and what is past it; usage, costs and audit; and the key's end."""
    with client_of(priced, priced.key) as realm:
        admin = realm.admin.organization
        project = admin.projects.create(name="Library")
        assert project.id in [one.id for one in admin.projects.list()]
        account = admin.projects.service_accounts.create(project.id, name="desk")
        assert account.api_key is not None
        with client_of(priced, account.api_key.value) as client:
            assert within(1, lambda: is_let_in(client))
            start_of_a_minute()
            used = [ask(client)]

            limit = admin.projects.rate_limits.update_rate_limit(
                "rl-echo", project_id=project.id, max_requests_per_1_minute=3
            )
            assert limit.max_requests_per_1_minute == 3
            with pytest.raises(openai.RateLimitError) as limited:
                for _ in range(300):
                    used.append(ask(client))
                    time.sleep(0.02)
            assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
            assert limited.value.code == "rate_limited"
            assert len(used) >= 3
            ask(realm)  # another tenant's limit is not this one's

            prompt = sum(one.prompt_tokens for one in used)
            completion = sum(one.completion_tokens for one in used)

            def usage() -> list[tuple[int, int, int]]:
                page = admin.usage.completions(
                    start_time=int(time.time()) - 3600, project_ids=[project.id], group_by=["project_id"]
                )
                return [
                    (one.num_model_requests, one.input_tokens, one.output_tokens)
                    for bucket in page.data
                    for one in bucket.results
                    if one.object == "organization.usage.completions.result" and one.project_id == project.id
                ]

            assert within(5, lambda: usage() == [(len(used), prompt, completion)]), usage()
            costs = admin.usage.costs(start_time=int(time.time()) - 3600, project_ids=[project.id])
            amounts = [
                one.amount.value
                for bucket in costs.data
                for one in bucket.results
                if one.object == "organization.costs.result" and one.amount is not None
            ]
            assert sum(value or 0 for value in amounts) == pytest.approx((prompt * 1000 + completion * 2000) / 1e6)

            key = admin.projects.api_keys.retrieve(account.api_key.id, project_id=project.id)
            assert key.last_used_at is not None
            admin.projects.api_keys.delete(key.id, project_id=project.id)
            assert within(1, lambda: is_refused(client))

        events = [event.type for event in admin.audit_logs.list(project_ids=[project.id])]
        assert events == [
            "api_key.deleted",
            "rate_limit.updated",
            "api_key.created",
            "service_account.created",
            "project.created",
        ]


def test_a_spend_limit_ends_the_spending(priced: Gateway) -> None:
    """In cents of this month: what might be past it is refused, and less than it was spent."""
    with client_of(priced, priced.key) as realm:
        admin = realm.admin.organization
        project = admin.projects.create(name="Library")
        account = admin.projects.service_accounts.create(project.id, name="desk")
        admin.projects.spend_limit.update(
            project.id,
            currency="GBP",  # type: ignore[arg-type]  # the published type knows dollars alone
            interval="month",
            threshold_amount=10,
        )
        assert account.api_key is not None
        with client_of(priced, account.api_key.value) as client:
            assert within(1, lambda: is_let_in(client))
            spent_micros = 0
            with pytest.raises(openai.RateLimitError) as limited:
                for _ in range(50):
                    used = ask(client)
                    spent_micros += 1000 * used.prompt_tokens + 2000 * used.completion_tokens
            assert limited.value.code == "budget_exhausted"
            assert 0 < spent_micros <= 100_000


def test_the_organisation_s_limit_is_for_all_together(priced: Gateway) -> None:
    """Two tenants and the realm's own spend from one purse; lifted, they go on."""
    with client_of(priced, priced.key) as realm:
        admin = realm.admin.organization
        keys = [priced.key]
        for name in ("Library", "Archive"):
            account = admin.projects.service_accounts.create(admin.projects.create(name=name).id, name="desk")
            assert account.api_key is not None
            keys.append(account.api_key.value)
        admin.spend_limit.update(currency="GBP", interval="month", threshold_amount=20)  # type: ignore[arg-type]
        time.sleep(0.6)  # the gateway hears of it within that
        spent_micros, refused = 0, []
        with ExitStack() as stack:
            clients = [stack.enter_context(client_of(priced, key)) for key in keys]
            for number in range(60):
                try:
                    used = ask(clients[number % 3])
                    spent_micros += 1000 * used.prompt_tokens + 2000 * used.completion_tokens
                except openai.RateLimitError as error:
                    refused.append(error.code)
            assert set(refused) == {"budget_exhausted"}
            assert 0 < spent_micros <= 200_000
            admin.spend_limit.delete()
            time.sleep(0.6)
            assert ask(clients[0]).completion_tokens > 0


def test_an_archived_project_opens_nothing(gateway: Gateway) -> None:
    """Its keys are refused within a second, and none can be made."""
    with client_of(gateway, gateway.key) as realm:
        projects = realm.admin.organization.projects
        project = projects.create(name="Short-lived")
        account = projects.service_accounts.create(project.id, name="desk")
        assert account.api_key is not None
        with client_of(gateway, account.api_key.value) as client:
            assert within(1, lambda: is_let_in(client))
            assert projects.archive(project.id).status == "archived"
            assert within(1, lambda: is_refused(client))
        with pytest.raises(openai.BadRequestError):
            projects.service_accounts.create(project.id, name="late")


def test_administration_and_use_are_kept_apart(gateway: Gateway) -> None:
    """An admin key asks no model, and a key for use administers nothing."""
    admin_key = (gateway.home / "admin.key").read_text().strip()
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=admin_key, admin_api_key=gateway.key, max_retries=0
    ) as turned:
        with pytest.raises(openai.PermissionDeniedError):
            ask(turned)
        with pytest.raises(openai.PermissionDeniedError):
            turned.admin.organization.projects.list()


def test_lists_are_followed_to_their_end(gateway: Gateway) -> None:
    """As the client follows them, page after page."""
    with client_of(gateway, gateway.key) as realm:
        admin = realm.admin.organization
        made = {admin.projects.create(name=f"Branch {number}").id for number in range(5)}
        found = [project.id for project in admin.projects.list(limit=2)]
        assert len(found) == len(set(found))
        assert made <= set(found)
        keys = [admin.admin_api_keys.create(name="another").id for _ in range(2)]
        found = [key.id for key in admin.admin_api_keys.list(limit=1)]
        assert len(found) == len(set(found)) > len(keys)
        assert set(keys) <= set(found)
        for key in keys:
            admin.admin_api_keys.delete(key)
        events = [event.id for event in admin.audit_logs.list(limit=2, event_types=["project.created"])]
        assert len(events) == len(set(events)) >= 5
