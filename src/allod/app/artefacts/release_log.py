"""The artefacts log's releases: what it names, and a release appended once its stages are leaves of it.

ALLOD_HOME/releases/<hex>.json   the bundle of a release's statement; made after it is in the log
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from allod.app.artefacts.log import ArtefactsLog, append_missing
from allod.core.digests import hex_of
from allod.core.errors import Invalid
from allod.core.files.secret import make_private_directory
from allod.core.files.whole import write_whole
from allod.core.statements.training import TrainingStatement, check_artefact_statement
from allod.prove.receipts.from_log import bundle_for
from allod.prove.releases.release import LoggedRelease, Releases, read_releases

Make = Callable[[LoggedRelease | None], bytes | None]
"""A release's statement, given the newest one of the same file; None: that one is it."""


class ReleaseLog:
    """The releases in a realm's artefacts log. For one thread at a time; blocks."""

    def __init__(self, log: ArtefactsLog) -> None:
        self._log = log
        self._bundles = log.home / "releases"

    def releases(self) -> Releases | None:
        """Every release; None in a realm that never had an artefacts log. Raises what the log's `read` raises."""
        return read_releases(self._log.read) if self._log.has_history else None

    def check_leaves(self, stages: Iterable[TrainingStatement]) -> None:
        """Raise Invalid (`stage_unlogged`) unless each of these stages' manifests is a leaf, and what `releases`
        raises."""
        releases = self.releases()
        _check_leaves(stages, releases.trainings if releases else frozenset())

    def append(self, digest: str, stages: Iterable[TrainingStatement], make: Make) -> LoggedRelease:
        """Append the release of the file with this digest; then keep its bundle. What is there already is not appended
        again.

        Raises Invalid (`stage_unlogged`) unless each of its stages' manifests is a leaf already: a stage is logged when
        it ends, by whoever made it. Raises what the log's `append` and `read` raise, too.
        """
        with self._log.open() as log:
            releases = read_releases(self._log.read)
            _check_leaves(stages, releases.trainings)
            found = releases.of(digest)
            statement = make(found)
            if statement is not None:
                append_missing(log, [statement])
                artefact = check_artefact_statement(statement)
                found = LoggedRelease(log.find(artefact.id).leaf, artefact)
            if found is None:
                raise Invalid("there is nothing to log", code="no_release")
            make_private_directory(self._bundles)
            bundle = bundle_for(log, found.artefact.id).decode()
            write_whole(self._bundles / f"{hex_of(digest)}.json", bundle)
        return found


def _check_leaves(stages: Iterable[TrainingStatement], trainings: Collection[str]) -> None:
    for stage in stages:
        if stage.digest not in trainings:
            raise Invalid(
                f"the stage {stage.stage} was not made here: its manifest is no leaf of the realm's artefacts log",
                code="stage_unlogged",
                hint="delete that stage's folder and run `allod train` again: it makes it anew",
            )
