"""A tenant's limits per model, in their one JSON form, OpenAI's rate limit.

The dialect's limits are numbers: the largest one that JSON keeps exact, 2^53 - 1, stands for "no limit".
"""

from __future__ import annotations

from allod.app.administration.terms import Json
from allod.core.canonical import MAX_SAFE_INTEGER
from allod.govern.tenancy.tenants import Quota, Tenant

NO_LIMIT = MAX_SAFE_INTEGER
ID_PREFIX = "rl-"
NAME_OF = {"max_requests_per_1_minute": "requests_per_minute", "max_tokens_per_1_minute": "tokens_per_minute"}


def describe_rate_limit(tenant: Tenant, model: str) -> Json:
    """How fast the tenant may go with that model."""
    quota = tenant.model_quotas.get(model, Quota())
    limits = {field: getattr(quota, name) or NO_LIMIT for field, name in NAME_OF.items()}
    return {
        "id": f"{ID_PREFIX}{model}",
        "object": "project.rate_limit",
        "model": model,
        **limits,
        "allod": {"concurrent": quota.concurrent},
    }
