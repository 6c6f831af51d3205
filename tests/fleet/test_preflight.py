"""What the preflight refuses, and with which reason. Pure: facts in, findings out."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from allod.core.errors import Denied
from allod.core.labels import Label, Tier
from allod.fleet.preflight.checks import (
    PreflightFinding,
    ProbeResult,
    RunRequirements,
    Severity,
    SourceTerms,
    check,
    refuse_unless_ready,
)
from allod.fleet.site import Exclusion, NodePower, NodePrice, Site

TODAY = date(2026, 11, 22)
OFFICIAL, SECRET = Tier("OFFICIAL", 0, "gb"), Tier("SECRET", 1, "gb")
AUSTEN = SourceTerms("austen", "CC0-1.0", Label(OFFICIAL))
ASKED = RunRequirements(
    label=Label(OFFICIAL),
    sources=(AUSTEN,),
    nodes=2,
    ranks_per_node=4,
    needs_gpus=True,
    estimate_s=3600,
    is_sealed=True,
)
WELL = ProbeResult(
    machine="aarch64", num_gpus=4, all_reduce_mb_s=149_000, free_bytes=10**12, reached=(), nodes=("nid000001",)
)


def refused(asked: RunRequirements, facts: ProbeResult, site: Site, name: str) -> str:
    """The reason that the check of that name refuses with, and no other does."""
    findings = [one for one in check(asked, facts, site, today=TODAY) if one.severity is Severity.REFUSED]
    assert [one.check for one in findings] == [name], findings
    return findings[0].reason


def test_a_run_that_fits_may_begin(isambard: Site) -> None:
    """Every check passes, and is seen to have been made."""
    findings = check(ASKED, WELL, isambard, today=TODAY)
    assert {one.check for one in findings if one.severity is not Severity.PASSED} == {"price"}
    assert [one.check for one in findings] == [
        *("machine", "gpus", "all_reduce", "disk", "network", "walltime", "price", "terms"),
    ]
    refuse_unless_ready(findings)


def test_no_visible_gpu_is_refused_with_torchs_own_reason(isambard: Site) -> None:
    """torch without forward-compatibility libraries trains on the CPU and says nothing."""
    facts = replace(WELL, num_gpus=0, gpus_reason="The NVIDIA driver on your system is too old")
    assert "driver on your system is too old" in refused(ASKED, facts, isambard, "gpus")


def test_fewer_gpus_than_ranks_are_refused(isambard: Site) -> None:
    """Two ranks on one GPU are no error to torch."""
    assert "sees 3, for 4 ranks" in refused(ASKED, replace(WELL, num_gpus=3), isambard, "gpus")


def test_gpus_that_nobody_asked_for_do_not_matter(isambard: Site) -> None:
    """A run on CPUs may begin anywhere."""
    asked = replace(ASKED, needs_gpus=False)
    assert "gpus" not in {one.check for one in check(asked, replace(WELL, num_gpus=None), isambard, today=TODAY)}


def test_tcp_instead_of_slingshot_is_refused(isambard: Site) -> None:
    """13 GB/s is what a missing plugin gives, silently."""
    reason = refused(ASKED, replace(WELL, all_reduce_mb_s=13_000), isambard, "all_reduce")
    assert reason.startswith("13 GB/s, at least 60 wanted")


def test_one_rank_reduces_nothing(isambard: Site) -> None:
    """So its speed is not asked for."""
    asked = replace(ASKED, nodes=1, ranks_per_node=1)
    refuse_unless_ready(check(asked, replace(WELL, all_reduce_mb_s=None), isambard, today=TODAY))


def test_another_machine_is_refused(isambard: Site) -> None:
    """An x86 image or environment on Arm."""
    assert refused(ASKED, replace(WELL, machine="x86_64"), isambard, "machine") == "is x86_64; isambard-ai is aarch64"


def test_a_full_disk_is_refused(isambard: Site) -> None:
    """Before it is full, not after."""
    assert "1,000 bytes free" in refused(ASKED, replace(WELL, free_bytes=1000), isambard, "disk")


def test_a_network_within_reach_is_refused_though_sealed(isambard: Site) -> None:
    """One answer is one too many, and it is named."""
    reason = refused(ASKED, replace(WELL, reached=("198.41.0.4:53",)), isambard, "network")
    assert reason == "sealed, and yet it reaches 198.41.0.4:53"


def test_a_run_that_is_not_sealed_says_so(isambard: Site) -> None:
    """It may begin; that nobody tried is noted."""
    findings = check(replace(ASKED, is_sealed=False), replace(WELL, reached=None), isambard, today=TODAY)
    assert [one.severity for one in findings if one.check == "network"] == [Severity.NOTED]
    refuse_unless_ready(findings)


def test_a_walltime_below_the_estimate_is_refused(isambard: Site) -> None:
    """What the site allows is what a job has."""
    assert "86400 s, and" in refused(replace(ASKED, estimate_s=86_401), WELL, isambard, "walltime")


def test_an_excluded_node_is_refused_until_its_day(isambard: Site) -> None:
    """Afterwards it is used and named."""
    site = replace(isambard, exclusions=(Exclusion("nid000001", "slow", TODAY),))
    assert refused(ASKED, WELL, site, "nodes") == "nid000001 is excluded until 2026-11-22: slow"
    later = check(ASKED, WELL, site, today=date(2026, 11, 23))
    refuse_unless_ready(later)
    noted = PreflightFinding("nodes", Severity.NOTED, "nid000001 is no longer excluded, since 2026-11-22: slow")
    assert noted in later


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (replace(AUSTEN, licence=""), "it has no licence"),
        (replace(AUSTEN, licence="NOASSERTION"), "it has no licence"),
        (replace(AUSTEN, label=Label(OFFICIAL, jurisdictions=frozenset({"FR"}))), "it may not be processed in GB-ENG"),
        (replace(AUSTEN, label=Label(SECRET)), "it is SECRET, and the run's label (OFFICIAL) does not cover it"),
        (
            replace(AUSTEN, label=Label(OFFICIAL, frozenset({"SENSITIVE"}))),
            "it is OFFICIAL and marked SENSITIVE, and the run's label (OFFICIAL) does not cover it",
        ),
    ],
)
def test_a_source_that_the_label_does_not_cover_is_refused(isambard: Site, source: SourceTerms, reason: str) -> None:
    """A model is labelled no lower than what it came from, and its text goes nowhere that it may not."""
    findings = check(replace(ASKED, sources=(AUSTEN, source)), WELL, isambard, today=TODAY)
    assert f"source austen: {reason}" in [one.reason for one in findings if one.severity is Severity.REFUSED]


def test_a_run_may_not_go_where_its_label_does_not_allow(isambard: Site) -> None:
    """The realm's own place counts where it is said; the site's else."""
    asked = replace(ASKED, sources=(), label=Label(OFFICIAL, jurisdictions=frozenset({"GB"})))
    refuse_unless_ready(check(asked, WELL, isambard, today=TODAY))
    assert "in US" in refused(replace(asked, jurisdiction="US"), WELL, isambard, "label")


def test_what_could_not_be_looked_at_is_refused(isambard: Site) -> None:
    """Not knowing is not well."""
    findings = check(ASKED, ProbeResult(), isambard, today=TODAY)
    unknown = {one.check for one in findings if one.reason == "could not be looked at"}
    assert unknown == {"machine", "gpus", "all_reduce", "disk", "network"}


def test_all_reasons_come_at_once(isambard: Site) -> None:
    """Whoever waits a day in a queue wants to hear of everything the first time."""
    facts = replace(WELL, num_gpus=0, free_bytes=1, reached=("a:1",))
    with pytest.raises(Denied) as caught:
        refuse_unless_ready(check(ASKED, facts, isambard, today=TODAY))
    assert caught.value.code == "preflight_refused"
    assert all(name in caught.value.message for name in ("gpus:", "disk:", "network:"))
    assert "all_reduce" not in caught.value.message


def test_a_price_is_said_before_it_is_paid(isambard: Site) -> None:
    """Cost and carbon of what is asked for, by the site's own figures; nothing where it has none."""
    priced = replace(
        isambard,
        price=NodePrice("GBP", 2_500_000),
        power=NodePower(watts_per_node=1000, grams_per_kwh=200, method="a test"),
    )
    found = check(replace(ASKED, nodes=2, estimate_s=3600), WELL, priced, today=TODAY)
    assert [one.reason for one in found if one.check == "price"] == [
        "pretraining would cost 5.00 GBP and 400 g of CO2 (MODELLED)"
    ]
    assert not [one for one in check(ASKED, WELL, replace(isambard, power=None), today=TODAY) if one.check == "price"]
