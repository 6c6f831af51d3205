"""The realm's artefacts log as releases use it: read whole, appended to, believed for its key alone.

ALLOD_HOME/logs/artefacts        the log, which policies share        ALLOD_HOME/keys/artefacts.key   its key
ALLOD_HOME/releases/<hex>.json   the bundle of a release's statement; made after it is in the log
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from allod.app.artefacts.known_heads import check_log_may_begin, has_history, heads_of_bundles
from allod.app.artefacts.policies import open_policies
from allod.core.errors import Invalid, Unavailable
from allod.core.files.secret import make_private_directory
from allod.core.files.whole import write_whole
from allod.core.statements.receipt import check_statement
from allod.core.statements.training import (
    TRAININGS,
    TrainingStatement,
    check_artefact_statement,
    check_training_statement,
)
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.from_log import bundle_for
from allod.prove.releases.release import LoggedRelease, Releases, read_releases
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.reader import read_log
from allod.settings.tree import Settings

TRIES, PAUSE_S = 100, 0.1  # while another process appends: a policy, or another run's stage

Make = Callable[[LoggedRelease | None], bytes | None]
"""A release's statement, given the newest one of the same file; None: that one is it."""


class ArtefactsLog:
    """The log of the realm that the settings name. For one thread at a time; blocks."""

    def __init__(self, settings: Settings) -> None:
        self._policies = open_policies(settings)
        self._directory = settings.home / "logs" / "artefacts"
        self._bundles = settings.home / "releases"
        self._home = settings.home

    @property
    def key(self) -> VerifierKey:
        """What its tree heads are verified with. Raises Invalid."""
        return self._policies.key().verifier

    @property
    def is_there(self) -> bool:
        """Whether the realm has the log, or what is kept of its entries: then it was there."""
        return has_history(self._home)

    def releases(self) -> Releases:
        """Every release. Raises Invalid: (`no_log`), (`log_damaged`) or (`bad_bundle`) for a log that was put back."""
        key = self.key
        return read_releases(self._directory, key, self._known_heads(key))

    def manifests_of(self, key: str) -> list[bytes]:
        """The stages' manifests with this key, oldest first; none where there is no log yet. Raises what `releases`
        raises."""
        verifier = self.key
        known = self._known_heads(verifier)
        if not known and not self.is_there:
            return []
        found: list[bytes] = []

        def see(number: int, entry: bytes) -> None:
            if check_statement(entry).kind in TRAININGS and check_training_statement(entry).key == key:
                found.append(entry)

        read_log(self._directory, verifier, see, known=known)
        return found

    def append(self, statements: Sequence[bytes]) -> None:
        """Append those that are not there yet, all or none.

        Raises Unavailable (`log_locked`) if the log stays another's, Invalid (`statement_differs`) where one of the
        same id is there and says something else.
        """
        with self._open() as log:
            _append_missing(log, statements)

    def check_leaves(self, stages: Iterable[TrainingStatement]) -> None:
        """Raise Invalid (`stage_unlogged`) unless each of these stages' manifests is a leaf, and what `releases`
        raises."""
        _check_leaves(stages, self.releases().trainings if self.is_there else frozenset())

    def append_release(self, digest: str, stages: Iterable[TrainingStatement], make: Make) -> LoggedRelease:
        """Append the release of the file with this digest; then keep its bundle. What is there already is not appended
        again.

        Raises Invalid (`stage_unlogged`) unless each of its stages' manifests is a leaf already: a stage is logged when
        it ends, by whoever made it. Raises what `append` and `releases` raise, too.
        """
        with self._open() as log:
            releases = self.releases()
            _check_leaves(stages, releases.trainings)
            found = releases.of(digest)
            statement = make(found)
            if statement is not None:
                _append_missing(log, [statement])
                artefact = check_artefact_statement(statement)
                found = LoggedRelease(log.find(artefact.id).leaf, artefact)
            if found is None:
                raise Invalid("there is nothing to log", code="no_release")
            make_private_directory(self._bundles)
            bundle = bundle_for(log, found.artefact.id).decode()
            write_whole(self._bundles / f"{digest.removeprefix('sha256:')}.json", bundle)
        return found

    def _known_heads(self, key: VerifierKey) -> list[TreeHead]:
        """Tree heads that the log has had. Raises Invalid (`bad_bundle`)."""
        return heads_of_bundles(self._home, key)

    @contextmanager
    def _open(self) -> Iterator[Log]:
        """The log for this process alone, once nobody else has it. Raises Unavailable (`log_gone`), too."""
        check_log_may_begin(self._home)
        key = self._policies.key()
        for number in range(TRIES):
            try:
                log = open_log(self._directory, key)
                break
            except Unavailable as error:
                if error.code != "log_locked" or number == TRIES - 1:
                    raise
                time.sleep(PAUSE_S)
        with closing(log):
            yield log


def _check_leaves(stages: Iterable[TrainingStatement], trainings: Collection[str]) -> None:
    for stage in stages:
        if stage.digest not in trainings:
            raise Invalid(
                f"the stage {stage.stage} was not made here: its manifest is no leaf of the realm's artefacts log",
                code="stage_unlogged",
                hint="delete that stage's folder and run `allod train` again: it makes it anew",
            )


def _append_missing(log: Log, statements: Sequence[bytes]) -> None:
    entries = []
    for statement in statements:
        checked = check_statement(statement)
        try:
            logged = log.statement(checked.id)
        except Invalid:
            entries.append(Entry(statement, checked.id))
        else:
            if logged != statement:
                raise Invalid(f"the log has another statement with the id {checked.id}", code="statement_differs")
    if entries:
        log.append(entries)
