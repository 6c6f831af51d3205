"""How much is taken of what comes from outside, and what reading it may cost. What meets a bound is refused by name."""

from __future__ import annotations

from dataclasses import dataclass

from allod.train.sources.archives import MAX_CONTENT_BYTES
from allod.train.stage_task import Limits


@dataclass(frozen=True, slots=True)
class Bounds:
    """Text in bytes of UTF-8, and documents; folders may be large, packages are small. Then memory and time (`_s`) of
    the sealed processes: of the one that unpacks a package, and of the one that reads all sources of a recipe, which
    gets more for each file and each MiB that there is to read."""

    package_bytes: int = MAX_CONTENT_BYTES  # whatever they were packed into
    folder_bytes: int = 64 << 30
    recipe_bytes: int = 256 << 30
    source_documents: int = 10_000_000
    unpack_memory_bytes: int = 2 << 30
    unpack_s: float = 600
    read_memory_bytes: int = 3 << 30
    read_memory_bytes_a_file: int = 2 << 10
    read_s: float = 600
    read_s_a_mib: float = 10

    def limits_of_package(self) -> Limits:
        """Of one package."""
        return Limits(self.unpack_memory_bytes, self.unpack_s)

    def reading(self, *, num_files: int, num_bytes: int) -> Limits:
        """Of all sources together."""
        memory = self.read_memory_bytes + num_files * self.read_memory_bytes_a_file
        return Limits(memory, self.read_s + self.read_s_a_mib * (num_bytes >> 20))


BOUNDS = Bounds()
