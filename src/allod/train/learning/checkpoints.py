"""Training saved so that a kill at any moment loses only the steps since the last save, and changes no bit of the rest.

`checkpoints/step-N/` holds what torch.distributed.checkpoint writes, and `checkpoint.json`: the step, what the
checkpoint belongs to, and the digest of every file. It is written under a name that begins with a dot and renamed when
all of it is on disk. Another number of ranks may read it than has written it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from allod.core.canonical import canonical_json
from allod.core.files.whole import sync
from allod.train.learning.ranks import Ranks

KEPT = 2
DIGESTS = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Those below `folder`. `key` names what is trained, from what and how: others' checkpoints are passed over."""

    folder: Path
    key: str
    ranks: Ranks

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Keep `state` as it is after `step` steps. All ranks call this together."""
        partial, final = self.folder / f".step-{step}", self.folder / f"step-{step}"
        if self.ranks.is_leader:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)
            partial.mkdir(parents=True)
        self.ranks.wait()
        with _quiet():
            save(state, checkpoint_id=partial, no_dist=self.ranks.count == 1)
        self.ranks.wait()
        if self.ranks.is_leader:
            self._seal(step, partial)
            partial.rename(final)
            sync(self.folder)
            self._prune()
        self.ranks.wait()

    def load(self, state: dict[str, Tensor]) -> int:
        """Read the newest whole checkpoint into `state`. Returns how many steps it is after; 0 if there is none."""
        step = self._newest()
        if step:
            with _quiet():
                load(state, checkpoint_id=self.folder / f"step-{step}", no_dist=self.ranks.count == 1)
        return step

    def remove(self) -> None:
        """Delete all of them: the training is done."""
        self.ranks.wait()
        if self.ranks.is_leader:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _newest(self) -> int:
        """Looked for by the leader, so that all read the same."""
        found = max((step for step in self._steps() if self._is_whole(step)), default=0) if self.ranks.is_leader else 0
        return int(self.ranks.gather([float(found)])[0])

    def _steps(self) -> list[int]:
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return [int(name) for name in names if name.isdecimal()]

    def _is_whole(self, step: int) -> bool:
        folder = self.folder / f"step-{step}"
        try:
            told = json.loads((folder / DIGESTS).read_bytes())
            return bool(told == {"files": _digests(folder), "key": self.key, "step": step})
        except (OSError, ValueError):
            return False

    def _seal(self, step: int, folder: Path) -> None:
        """Say what belongs to the checkpoint, last of all."""
        told = canonical_json({"files": _digests(folder), "key": self.key, "step": step})
        with (folder / DIGESTS).open("wb") as file:
            file.write(told)
            file.flush()
            os.fsync(file.fileno())
        sync(folder)

    def _prune(self) -> None:
        for step in sorted(self._steps())[:-KEPT]:
            shutil.rmtree(self.folder / f"step-{step}", ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but the one that says them."""
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.name != DIGESTS:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _quiet() -> warnings.catch_warnings[None]:
    """The library warns that one process alone saves; that is meant."""
    return warnings.catch_warnings(action="ignore")
