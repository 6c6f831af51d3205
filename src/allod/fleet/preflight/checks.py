"""Whether a run may begin at a site: pure checks of what is asked for against what was found there.

Most of what goes wrong on a large machine goes wrong silently: a driver too old for its torch trains on the CPU, a
missing plugin sends gradients over TCP at a tenth of the speed, a run dies with its walltime. So a run that would is
refused before it begins, with every reason at once. `probe.py` finds the facts, where the run itself would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from allod.core.errors import Denied
from allod.core.labels import Label
from allod.fleet.site import Site


class Severity(StrEnum):
    """REFUSED forbids the run, NOTED is to be known, PASSED was looked at and is well."""

    PASSED = "passed"
    NOTED = "noted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PreflightFinding:
    """What one check found. `check` is its stable name; `reason` is a sentence with the figures in it."""

    check: str
    severity: Severity
    reason: str


@dataclass(frozen=True, slots=True)
class SourceTerms:
    """On what terms a source of the corpus is held."""

    name: str
    licence: str
    label: Label


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequirements:
    """What a run needs. `label` is the run's. `jurisdiction` is where it would be processed: the site's if empty."""

    label: Label
    sources: tuple[SourceTerms, ...] = ()
    nodes: int = 1
    ranks_per_node: int = 1
    needs_gpus: bool = False
    is_sealed: bool = True
    estimate_s: int = 0
    jurisdiction: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What was found. None: nobody looked, which is reported as such. `gpus_reason` is torch's own for seeing none."""

    machine: str | None = None
    num_gpus: int | None = None
    gpus_reason: str = ""
    all_reduce_mb_s: int | None = None
    free_bytes: int | None = None
    reached: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None


def check(asked: RunRequirements, facts: ProbeResult, site: Site, *, today: date) -> list[PreflightFinding]:
    """Every check's findings, in the order of the table that people see."""
    checks: tuple[Callable[[], list[PreflightFinding]], ...] = (
        lambda: _machine(facts, site),
        lambda: _gpus(asked, facts),
        lambda: _all_reduce(asked, facts, site),
        lambda: _disk(facts, site),
        lambda: _network(asked, facts, site),
        lambda: _walltime(asked, site),
        lambda: _price(asked, site),
        lambda: _nodes(facts, site, today),
        lambda: _terms(asked, asked.jurisdiction or site.jurisdiction),
    )
    return [finding for check in checks for finding in check()]


def refuse_unless_ready(findings: Sequence[PreflightFinding]) -> None:
    """Raise Denied (`preflight_refused`) with all reasons if any finding forbids the run."""
    reasons = [f"{finding.check}: {finding.reason}" for finding in findings if finding.severity is Severity.REFUSED]
    if reasons:
        raise Denied(
            "this run may not begin here: " + "; ".join(reasons),
            code="preflight_refused",
            hint="mend these, or choose another site",
        )


def _machine(facts: ProbeResult, site: Site) -> list[PreflightFinding]:
    if not site.machine:
        return []
    if facts.machine is None:
        return [_unknown("machine")]
    fits = facts.machine == site.machine
    return [_judge("machine", fits, f"is {facts.machine}" + ("" if fits else f"; {site.name} is {site.machine}"))]


def _gpus(asked: RunRequirements, facts: ProbeResult) -> list[PreflightFinding]:
    if not asked.needs_gpus:
        return []
    if facts.num_gpus is None:
        return [_unknown("gpus")]
    if facts.num_gpus == 0:
        why = facts.gpus_reason or "no reason given"
        return [_judge("gpus", False, f"torch sees none, and would train on the CPU without a word: {why}")]
    enough = facts.num_gpus >= asked.ranks_per_node
    return [_judge("gpus", enough, f"torch sees {facts.num_gpus}, for {asked.ranks_per_node} ranks a node")]


def _all_reduce(asked: RunRequirements, facts: ProbeResult, site: Site) -> list[PreflightFinding]:
    if not site.all_reduce_floor_mb_s or asked.nodes * asked.ranks_per_node == 1:
        return []
    if facts.all_reduce_mb_s is None:
        return [_unknown("all_reduce")]
    fits = facts.all_reduce_mb_s >= site.all_reduce_floor_mb_s
    hint = "" if fits else ": the network's plugin for NCCL is probably not in use"
    speed = f"{_gb(facts.all_reduce_mb_s)} GB/s, at least {_gb(site.all_reduce_floor_mb_s)} wanted"
    return [_judge("all_reduce", fits, speed + hint)]


def _gb(mb: int) -> str:
    return f"{mb / 1000:g}"


def _disk(facts: ProbeResult, site: Site) -> list[PreflightFinding]:
    if not site.min_free_bytes:
        return []
    if facts.free_bytes is None:
        return [_unknown("disk")]
    fits = facts.free_bytes >= site.min_free_bytes
    return [_judge("disk", fits, f"{facts.free_bytes:,} bytes free, at least {site.min_free_bytes:,} wanted")]


def _network(asked: RunRequirements, facts: ProbeResult, site: Site) -> list[PreflightFinding]:
    if not asked.is_sealed:
        return [PreflightFinding("network", Severity.NOTED, "the run is not sealed: what it reaches was not tried")]
    if facts.reached is None:
        return [_unknown("network")]
    if facts.reached:
        return [_judge("network", False, f"sealed, and yet it reaches {', '.join(facts.reached)}")]
    return [_judge("network", True, f"none of {len(site.unreachable)} addresses was reached")]


def _walltime(asked: RunRequirements, site: Site) -> list[PreflightFinding]:
    if not site.walltime_s:
        return []
    fits = asked.estimate_s <= site.walltime_s
    return [_judge("walltime", fits, f"{site.walltime_s} s, and the run is estimated at {asked.estimate_s} s")]


def _price(asked: RunRequirements, site: Site) -> list[PreflightFinding]:
    """What the pretraining asked for would cost and emit by the site's own figures; nothing where it has none."""
    if not asked.estimate_s:
        return []
    said = []
    cost = site.cost_micros(num_nodes=asked.nodes, seconds=asked.estimate_s)
    if cost is not None and site.price is not None:
        said.append(f"{cost / 1_000_000:.2f} {site.price.currency}")
    grams = site.assumed_grams(num_nodes=asked.nodes, seconds=asked.estimate_s)
    if grams is not None:
        said.append(f"{grams:,} g of CO2 (MODELLED)")
    return [PreflightFinding("price", Severity.NOTED, f"pretraining would cost {' and '.join(said)}")] if said else []


def _nodes(facts: ProbeResult, site: Site, today: date) -> list[PreflightFinding]:
    findings = [
        PreflightFinding(
            "nodes", Severity.NOTED, f"{back.node} is no longer excluded, since {back.until}: {back.reason}"
        )
        for back in site.exclusions_expired(today)
    ]
    excluded = [each for each in site.exclusions if each.until >= today and each.node in (facts.nodes or ())]
    findings += [
        _judge("nodes", False, f"{each.node} is excluded until {each.until}: {each.reason}") for each in excluded
    ]
    return findings


def _terms(asked: RunRequirements, place: str) -> list[PreflightFinding]:
    findings = []
    if not asked.label.allows_place(place):
        findings.append(_judge("label", False, f"the run's label does not allow processing in {place}"))
    for source in asked.sources:
        for fault in _faults_of(source, asked.label, place):
            findings.append(_judge("terms", False, f"source {source.name}: {fault}"))
    if not findings:
        findings.append(_judge("terms", True, f"{len(asked.sources)} sources fit the run's label and {place}"))
    return findings


def _faults_of(source: SourceTerms, label: Label, place: str) -> list[str]:
    faults = []
    if source.licence.strip().upper() in ("", "NONE", "NOASSERTION"):
        faults.append("it has no licence")
    if not source.label.allows_place(place):
        faults.append(f"it may not be processed in {place}")
    if not label.covers(source.label):
        lacking = sorted(source.label.markings - label.markings)
        what = f" and marked {', '.join(lacking)}" if lacking else ""
        faults.append(
            f"it is {source.label.tier.name}{what}, and the run's label ({label.tier.name}) does not cover it"
        )
    return faults


def _judge(name: str, fits: bool, reason: str) -> PreflightFinding:
    return PreflightFinding(name, Severity.PASSED if fits else Severity.REFUSED, reason)


def _unknown(name: str) -> PreflightFinding:
    """Fail closed: what nobody could look at is not well."""
    return PreflightFinding(name, Severity.REFUSED, "could not be looked at")
