"""A site for tests, and one real cluster that all of them share."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.slurm import WHY_NOT, Cluster, running_slurm

from allod.fleet.site import Site
from allod.fleet.site_profile import read_site

SITES = Path(__file__).parents[2] / "src" / "allod" / "sites"


def load(name: str) -> Site:
    """A profile that comes with Allod."""
    file = SITES / f"{name}.toml"
    return read_site(tomllib.loads(file.read_text()), where=file.name)


@pytest.fixture
def isambard() -> Site:
    return load("isambard-ai")


@pytest.fixture
def loopback() -> Site:
    """The cluster of the tests, as a profile would say it."""
    return Site(
        name="loopback",
        source="tried",
        scheduler="slurm",
        jurisdiction="GB",
        partition="workq",
        gpus_per_node=2,
        unreachable=("192.0.2.1:9",),
    )


@pytest.fixture
def laptop() -> Site:
    return replace(load("local"), jurisdiction="GB")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with running_slurm() as cluster:
        yield cluster
