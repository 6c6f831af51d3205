"""Counters for Prometheus. Names begin with `allod_`; no label holds anything that a client wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from allod.engine.engine import ReplicaPace, ReplicaStatus


class _PaceFamilies:
    """How fast replicas answer; what was not measured of one has no line."""

    def __init__(self) -> None:
        labels = ("model", "replica")
        self._tokens = GaugeMetricFamily(
            "allod_replica_tokens_per_second",
            "Tokens of the answers that ended in the last minute, a second",
            labels=labels,
        )
        self._first = GaugeMetricFamily(
            "allod_replica_first_token_seconds",
            "From the sending of a stream to the replica until its first piece, of the last 128",
            labels=(*labels, "quantile"),
        )
        self._cached = GaugeMetricFamily(
            "allod_replica_cached_share", "Part of the last 128 prompts that was not computed again", labels=labels
        )
        self.families = (self._tokens, self._first, self._cached)

    def add(self, of: tuple[str, str], pace: ReplicaPace) -> None:
        """One replica's."""
        if pace.tokens_per_s is not None:
            self._tokens.add_metric(of, pace.tokens_per_s)
        for quantile, first_ms in (("0.5", pace.first_token_ms_p50), ("0.9", pace.first_token_ms_p90)):
            if first_ms is not None:
                self._first.add_metric((*of, quantile), first_ms / 1000)
        if pace.cached_share is not None:
            self._cached.add_metric(of, pace.cached_share)


class _Replicas(Collector):
    """Asked when the counters are read: each replica, by the name of its model and its number."""

    def __init__(self, replicas: Callable[[], Iterable[tuple[str, ReplicaStatus]]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "replica")
        up = GaugeMetricFamily("allod_replica_up", "Whether a replica is asked", labels=labels)
        running = GaugeMetricFamily("allod_replica_requests", "Requests that a replica works on", labels=labels)
        slots = GaugeMetricFamily("allod_replica_slots", "Requests that it can work on", labels=labels)
        answered = CounterMetricFamily("allod_replica_answers", "Requests that it has answered", labels=labels)
        failed = CounterMetricFamily("allod_replica_failures", "Requests that it has failed", labels=labels)
        starts = CounterMetricFamily("allod_replica_starts", "Times that it came up", labels=labels)
        pace = _PaceFamilies()
        for model, status in self._replicas():
            of = (model, str(status.number))
            up.add_metric(of, status.state in ("up", "suspect"))
            running.add_metric(of, status.num_running)
            slots.add_metric(of, status.slots)
            answered.add_metric(of, status.num_answered)
            failed.add_metric(of, status.num_failed)
            starts.add_metric(of, status.num_starts)
            pace.add(of, status.pace)
        yield from (up, running, slots, answered, failed, starts, *pace.families)


class Metrics:
    """One gateway's counters, in a registry of its own."""

    def __init__(
        self,
        *,
        requests_inside: Callable[[], int],
        num_unreadable: Callable[[], int],
        replicas: Callable[[], Iterable[tuple[str, ReplicaStatus]]] = tuple,
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("allod_requests", "Requests by path and status", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "allod_request_seconds",
            "Seconds from the request's arrival to its answer's end",
            registry=registry,
            buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self._tokens = Counter("allod_tokens", "Language tokens", ["kind"], registry=registry)
        inside = Gauge("allod_requests_inside", "Requests running or waiting", registry=registry)
        inside.set_function(requests_inside)
        unreadable = Gauge(
            "allod_log_unreadable_entries",
            "Entries of the log that are no valid receipts and were charged to nobody, since the start",
            registry=registry,
        )
        unreadable.set_function(num_unreadable)
        registry.register(_Replicas(replicas))
        self._requests_by: dict[tuple[str, int], Counter] = {}
        self._prompt_tokens = self._tokens.labels("prompt")
        self._completion_tokens = self._tokens.labels("completion")

    def count_request(self, path: str, status: int, start_ms: int) -> None:
        """One finished request."""
        child = self._requests_by.get((path, status))
        if child is None:
            child = self._requests_by[path, status] = self._requests.labels(path, str(status))
        child.inc()
        self._seconds.observe(time.time() - start_ms / 1000)

    def count_tokens(self, *, prompt: int, completion: int) -> None:
        """One answer's language tokens."""
        self._prompt_tokens.inc(prompt)
        self._completion_tokens.inc(completion)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
