"""The realm's artefacts log: its files, its key, its lock, and the one verdict on whether it can be believed.

ALLOD_HOME/logs/artefacts        the log            ALLOD_HOME/keys/artefacts.key   its key, made on first use

Policies, releases and acceptances of a clock are views of it: none of them opens or judges the log itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

from allod.app.artefacts.known_heads import heads_of_bundles, is_bundle_kept
from allod.app.home import Home
from allod.core.errors import Invalid, Unavailable
from allod.core.statements.receipt import check_statement
from allod.core.statements.training import TRAININGS, check_training_statement
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.signing_key import SigningKey, load_or_create_signing_key
from allod.prove.formats.tree_head import TreeHead
from allod.prove.tlog.begun import check_not_gone, is_begun
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.reader import LogRead, Visit, read_log
from allod.settings.tree import Settings

TRIES, PAUSE_S = 100, 0.1  # while another process appends: a policy, or another run's stage
Stamp = tuple[int, int, int] | None


class ArtefactsLog:
    """The log of the realm that the settings name. For one thread at a time; blocks.

    Remembers the last tree head that it read: a log that is put back under a running gateway is noticed for that alone.
    """

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self._directory = Home(settings.home).artefacts
        self._key_file = Home(settings.home).artefacts_key
        self._origin = f"{settings.realm.name}/artefacts"
        self._last_read: TreeHead | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the log is there now."""
        return is_begun(self._directory)

    @property
    def has_history(self) -> bool:
        """Whether the realm has, or once had, the log: the log, or bundles that were kept of its entries."""
        return self.is_begun or is_bundle_kept(self.home)

    def check_may_begin(self) -> None:
        """Raise Unavailable (`log_gone`) where the log is no more: no other is begun in its place."""
        kept = "there are bundles of policies or releases" if is_bundle_kept(self.home) else None
        check_not_gone(self._directory, "the artefacts log", kept)

    def signing_key(self) -> SigningKey:
        """The log's key, made on first use. Raises Invalid if it is another log's, or gone."""
        key = load_or_create_signing_key(self._key_file, self._origin, is_first=not self.has_history)
        if key.name != self._origin:
            raise Invalid(
                f"the artefacts log's key is for {key.name}, and the settings say {self._origin}", code="log_origin"
            )
        return key

    @property
    def key(self) -> VerifierKey:
        """What its tree heads are verified with. Raises what `signing_key` raises."""
        return self.signing_key().verifier

    def stamp(self) -> Stamp:
        """What changes when the log grows; None where it is not there. Costs one look at a file's status."""
        try:
            status = (self._directory / "segment").stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, visit: Visit) -> LogRead:
        """Read it as `read_artefacts` does. It must also extend the last tree head that was read here. Raises Invalid
        (`key_gone`) where its key is, too."""
        if not self.has_history:  # nor is a key made for what only reads
            raise Invalid("there is no log here", code="no_log")
        read = read_artefacts(self.home, self.key, visit, last=self._last_read)
        self._last_read = read.head
        return read

    @contextmanager
    def open(self, *, tries: int | None = None) -> Iterator[Log]:
        """The log for this process alone, once nobody else has it.

        Raises Unavailable: (`log_gone`), (`log_locked`) if it stays another's for so many tries.
        """
        self.check_may_begin()
        with closing(self._open(self.signing_key(), tries or TRIES)) as log:
            yield log

    def _open(self, key: SigningKey, tries: int) -> Log:
        for _ in range(tries - 1):
            try:
                return open_log(self._directory, key)
            except Unavailable as error:
                if error.code != "log_locked":
                    raise
                time.sleep(PAUSE_S)
        return open_log(self._directory, key)

    def append(self, statements: Sequence[bytes]) -> None:
        """Append those that are not there yet, all or none. A log that was put back gets no second past.

        Raises what `open` and `read` raise, and Invalid (`statement_differs`) where one of the same id is there and
        says something else.
        """
        with self.open() as log:
            self.read(lambda number, entry: None)
            append_missing(log, statements)

    def manifests_of(self, key: str) -> list[bytes]:
        """The stages' manifests with this key, oldest first; none where there is no log yet. Raises what `read`
        raises."""
        if not self.has_history:
            return []
        found: list[bytes] = []

        def see(number: int, entry: bytes) -> None:
            if check_statement(entry).kind in TRAININGS and check_training_statement(entry).key == key:
                found.append(entry)

        self.read(see)
        return found


def read_artefacts(home: Path, key: VerifierKey, visit: Visit, *, last: TreeHead | None = None) -> LogRead:
    """Show every entry of the artefacts log in `home` to `visit`; what it saw counts once this returns.

    The log must extend the tree head of every bundle that was kept of it, and `last`. Raises Invalid: (`no_log`),
    (`log_damaged`) or (`bad_bundle`) for a log that `key` did not sign, or that was put back.
    """
    known = chain(heads_of_bundles(home, key), [] if last is None else [last])  # read once the log is the key's
    return read_log(Home(home).artefacts, key, visit, known=known)


def append_missing(log: Log, statements: Sequence[bytes]) -> None:
    """Append the statements that are not there yet, all or none. Raises Invalid (`statement_differs`)."""
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
