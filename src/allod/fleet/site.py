"""A site: the machines that a run may use, and the rules of their house. Data, read from `sites/<name>.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Container:
    """What a job's command runs in. `binds` are `outside:inside` or a path that is the same on both sides."""

    command: str  # podman-hpc or apptainer
    image: str
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A node that is not to be used, up to and including the day `until`."""

    node: str
    reason: str
    until: date


@dataclass(frozen=True, slots=True)
class NodePrice:
    """Millionths of `currency` (ISO 4217) for a node and hour."""

    currency: str
    micros_per_node_hour: int


@dataclass(frozen=True, slots=True)
class NodePower:
    """What a node is assumed to draw and its electricity to emit: nobody measured, and `method` says how it was got."""

    watts_per_node: int
    grams_per_kwh: int
    method: str
    label: str = "MODELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything that starting a run there needs to know. Empty text and zero mean: no such rule.

    `source` says where these facts are from. `machine` is as `platform.machine()` says it. `all_reduce_floor_mb_s` is
    the bus bandwidth between nodes below which a run is refused. `unreachable` are addresses (`host:port`) that a
    sealed run must not reach. `scratch` is where `min_free_bytes` must be free: the job's own folder if it is empty.
    """

    name: str
    source: str
    scheduler: str  # local or slurm
    jurisdiction: str  # ISO 3166
    machine: str = ""
    partition: str = ""
    account: str = ""
    walltime_s: int = 0
    poll_s: int = 1
    gpus_per_node: int = 0
    cpus_per_rank: int = 1
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    container: Container | None = None
    exclusions: tuple[Exclusion, ...] = ()
    price: NodePrice | None = None
    power: NodePower | None = None
    all_reduce_floor_mb_s: int = 0
    unreachable: tuple[str, ...] = ()
    scratch: str = ""
    min_free_bytes: int = 0

    def nodes_excluded(self, today: date) -> tuple[str, ...]:
        """The nodes not to be used today, by name."""
        return tuple(sorted({exclusion.node for exclusion in self.exclusions if today <= exclusion.until}))

    def exclusions_expired(self, today: date) -> tuple[Exclusion, ...]:
        """What no longer counts: whoever keeps the profile should look at these nodes and at its lines."""
        return tuple(exclusion for exclusion in self.exclusions if today > exclusion.until)

    def cost_micros(self, *, num_nodes: int, seconds: int) -> int | None:
        """What that many nodes cost for so long, rounded down once; None where no price is set."""
        if self.price is None:
            return None
        return self.price.micros_per_node_hour * num_nodes * seconds // _SECONDS_PER_HOUR

    def assumed_joules(self, *, num_nodes: int, seconds: int) -> int | None:
        """The energy that the profile assumes; None where it assumes none."""
        return None if self.power is None else self.power.watts_per_node * num_nodes * seconds

    def assumed_grams(self, *, num_nodes: int, seconds: int) -> int | None:
        """Grams of CO2 equivalent for that energy, rounded up."""
        joules = self.assumed_joules(num_nodes=num_nodes, seconds=seconds)
        if joules is None or self.power is None:
            return None
        return -(-joules * self.power.grams_per_kwh // (1000 * _SECONDS_PER_HOUR))
