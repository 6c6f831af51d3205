"""vLLM behind the engine port: OpenAI's dialect over a Unix socket, and what tells whether it gets on.

Its API answers for itself, also while the process that computes stands still: `/health` and `/metrics` are 200 then
(vllm-project/vllm#36451), and they say that it has no requests. So what counts as a word of the engine's is progress:
its counter of steps has moved, or nobody waits for its words. Requests are kept apart by `cache_salt`. It drops the
work of who closes the connection.
"""

from __future__ import annotations

import asyncio
import re

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.engine.adapters.openai import Dialect, OpenAiEngine
from allod.engine.address import UnixAddress
from allod.engine.engine import EngineInfo
from allod.engine.http import EngineHttp

METRICS = "/metrics"
COUNTS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}  # for who leaves early
LOOK_EVERY_S = 1.0  # while it is asked how far it is
_find_steps = re.compile(rb"^vllm:iteration_tokens_total_count\{.*\} (\S+)$", re.M).findall


class VllmEngine(OpenAiEngine):
    """One started server, of one model that it calls as we do."""

    def __init__(self, info: EngineInfo, socket_path: str, model: str, deadlines: Deadlines) -> None:
        dialect = Dialect(
            model=model, answers_as=frozenset({model}), salt_field="cache_salt", more=COUNTS, probe_path="/health"
        )
        super().__init__(info, EngineHttp(UnixAddress(socket_path), deadlines), dialect, deadlines)
        self._num_steps = -1.0
        self._moved_s = 0.0

    @property
    def heard_s(self) -> float:
        """When it was last seen to get on, or to have nothing to do, by the loop's clock."""
        return self._moved_s

    async def probe(self) -> None:
        """Return once it is seen to get on. Raises Unavailable where not even its API answers."""
        while True:
            response = await self._http.request("GET", METRICS, first_s=self._deadlines.hung_s)
            before, self._num_steps = self._num_steps, count_steps(response.body)
            if not self._http.is_waited_for or self._num_steps != before:
                self._moved_s = asyncio.get_running_loop().time()
                return
            await asyncio.sleep(LOOK_EVERY_S)


def count_steps(body: bytes) -> float:
    """How many it has made since its start, as `/metrics` says. Raises Unavailable (`engine_response`)."""
    try:
        counts = [float(count) for count in _find_steps(body)]
    except ValueError:
        counts = []
    if not counts:
        raise Unavailable("the engine's counters are not readable", code="engine_response")
    return sum(counts)
