"""A site's profile: read strictly, and what follows from it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from tests.fleet.conftest import SITES, load

from allod.core.errors import Invalid
from allod.fleet.site import Container, Exclusion, NodePower, NodePrice, Site
from allod.fleet.site_profile import read_site

SMALLEST: dict[str, Any] = {"name": "x", "source": "tried", "scheduler": "slurm", "jurisdiction": "GB"}


def read(**changes: Any) -> Site:
    return read_site({**SMALLEST, **changes}, where="x.toml")


@pytest.mark.parametrize("file", list(SITES.glob("*.toml")), ids=lambda file: file.stem)
def test_a_profile_that_comes_with_allod_is_read(file: Any) -> None:
    """Each is whole, and named as its file is."""
    assert read_site(tomllib.loads(file.read_text()), where=file.name).name == file.stem


def test_isambard_is_as_its_pages_say() -> None:
    """Partition, day of walltime, four GPUs and 72 cores each, Arm, and no question a minute is asked twice."""
    site = load("isambard-ai")
    assert (site.scheduler, site.partition, site.machine) == ("slurm", "workq", "aarch64")
    assert (site.walltime_s, site.gpus_per_node, site.cpus_per_rank) == (86_400, 4, 72)
    assert site.poll_s >= 60
    assert 13_000 < site.all_reduce_floor_mb_s < 149_000
    assert site.environment["NCCL_NET"] == "AWS Libfabric"
    assert site.source.startswith("READ, not tried")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"partitoin": "workq"}, "partitoin"),
        ({"scheduler": "pbs"}, "scheduler"),
        ({"jurisdiction": "UK of GB"}, "jurisdiction"),
        ({"machine": "riscv"}, "machine"),
        ({"poll_s": 0}, "poll_s"),
        ({"poll_s": True}, "poll_s"),
        ({"gpus_per_node": "4"}, "gpus_per_node"),
        ({"partition": "workq --uid=0"}, "partition"),
        ({"account": "a\n#SBATCH --uid=0"}, "account"),
        ({"modules": ["x; reboot"]}, "modules"),
        ({"modules": "x"}, "modules"),
        ({"environment": {"A B": "x"}}, "environment.A B"),
        ({"environment": {"A": "x\ny"}}, "environment.A"),
        ({"environment": {"A": 1}}, "environment.A"),
        ({"container": {"command": "docker", "image": "x"}}, "container.command"),
        ({"container": {"command": "apptainer"}}, "container.image"),
        ({"container": {"command": "apptainer", "image": "x", "binds": ["a,b"]}}, "container.binds"),
        ({"exclusions": [{"node": "n1", "reason": "x"}]}, "exclusions[0].until"),
        ({"exclusions": [{"node": "n1", "reason": "x", "until": "2026-01-01"}]}, "exclusions[0].until"),
        ({"exclusions": [{"node": "n1,n2", "reason": "x", "until": date(2026, 1, 1)}]}, "exclusions[0].node"),
        ({"price": {"currency": "pounds", "micros_per_node_hour": 1}}, "price.currency"),
        ({"power": {"watts_per_node": 1, "grams_per_kwh": 1}}, "power.method"),
        ({"power": {"watts_per_node": 1, "grams_per_kwh": 1, "method": "x", "label": "METERED"}}, "power.label"),
        ({"unreachable": ["example.org"]}, "unreachable"),
        ({"scratch": "relative"}, "scratch"),
    ],
)
def test_what_a_profile_may_not_say_is_refused_with_its_place(changes: dict[str, Any], place: str) -> None:
    """A profile becomes part of a script: nothing in it is guessed, dropped or passed on unread."""
    with pytest.raises(Invalid) as caught:
        read(**changes)
    assert (caught.value.code, caught.value.param) == ("site_malformed", place)


@pytest.mark.parametrize("key", SMALLEST)
def test_what_must_be_said_is_missed(key: str) -> None:
    """A site without a place or a scheduler is none."""
    with pytest.raises(Invalid) as caught:
        read_site({name: value for name, value in SMALLEST.items() if name != key}, where="x.toml")
    assert caught.value.param == key


def test_a_container_is_read_whole() -> None:
    """Command, image and binds."""
    said = {"command": "podman-hpc", "image": "localhost/allod:1", "binds": ["/scratch", "/a:/b"]}
    assert read(container=said).container == Container("podman-hpc", "localhost/allod:1", ("/scratch", "/a:/b"))


def test_a_node_is_excluded_until_its_day_and_then_said_to_be_back() -> None:
    """The last day counts; the day after, the node is used again and named."""
    bad = Exclusion("n1", "slow", date(2026, 11, 30))
    site = replace(read(), exclusions=(bad,))
    assert site.nodes_excluded(date(2026, 11, 30)) == ("n1",)
    assert site.exclusions_expired(date(2026, 11, 30)) == ()
    assert site.nodes_excluded(date(2026, 12, 1)) == ()
    assert site.exclusions_expired(date(2026, 12, 1)) == (bad,)


def test_cost_is_of_nodes_and_seconds_rounded_down_once() -> None:
    """Two nodes for half an hour at 3.000001 an hour."""
    site = replace(read(), price=NodePrice("GBP", 3_000_001))
    assert site.cost_micros(num_nodes=2, seconds=1800) == 3_000_001
    assert site.cost_micros(num_nodes=1, seconds=1800) == 1_500_000
    assert read().cost_micros(num_nodes=1, seconds=1) is None


def test_energy_is_modelled_and_says_so() -> None:
    """A kilowatt for an hour is 3.6 MJ and one kilowatt-hour's grams; part of a gram is a gram."""
    site = replace(read(), power=NodePower(500, 177, "a guess"))
    assert site.power is not None
    assert site.power.label == "MODELLED"
    assert site.assumed_joules(num_nodes=2, seconds=3600) == 3_600_000
    assert site.assumed_grams(num_nodes=2, seconds=3600) == 177
    assert site.assumed_grams(num_nodes=1, seconds=1) == 1
    assert read().assumed_grams(num_nodes=1, seconds=1) is None
