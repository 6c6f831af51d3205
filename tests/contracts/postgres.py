"""A real PostgreSQL of the tests' own: on a Unix socket in a directory of its own, started and stopped at will."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)
_MISSING = {
    "PostgreSQL (apt-get install postgresql)": PROGRAMS is None,
    "setpriv (apt-get install util-linux)": os.geteuid() == 0 and shutil.which("setpriv") is None,
    "psycopg (pip install psycopg[binary])": find_spec("psycopg") is None,
}
WHY_NOT = ", ".join(name for name, is_missing in _MISSING.items() if is_missing)  # empty where nothing is missing


class Server:
    """One server. It refuses to run as root, so there it runs as the account `postgres`."""

    # One that does not sort by code point, as most servers are set up.
    _LANGUAGE = ("--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._num_places = 0
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
        subprocess.run(
            self._command("initdb", "-D", self._data, "-U", "allod", "--auth=trust", "--no-sync", *self._LANGUAGE),
            check=True,
            capture_output=True,
            env=self._environment,
            timeout=120,
        )

    def conninfo(self, schema: str = "public") -> str:
        """How to reach it."""
        return f"host={self._directory} user=allod dbname=postgres options='-c search_path={schema}'"

    def start(self) -> None:
        """Start it and wait until it answers. It does not wait for the disk: no test here pulls the plug."""
        with (self._directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                self._command(
                    "postgres", "-D", self._data, "-k", self._directory, "-c", "listen_addresses=", "-c", "fsync=off"
                ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment,
            )
        for _ in range(600):
            if self._run("pg_isready", "-q", "-h", self._directory).returncode == 0:
                return
            assert self._process.poll() is None, (self._directory / "out").read_text()[-2000:]
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL did not start in half a minute")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends its sessions and stops it; SIGQUIT stops it as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes stand still: connections stay open, nothing answers."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        family = [self._process.pid, *map(int, children)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)

    def make_place(self) -> str:
        """How to reach an empty schema of its own: much cheaper than a database of its own."""
        self._num_places += 1
        name = f"place_{self._num_places}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.conninfo(name)

    def execute(self, statement: str, conninfo: str | None = None) -> str:
        """Run it with the server's own client."""
        done = self._run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, conninfo or self.conninfo())
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}

    def _command(self, program: str, *words: str | Path) -> list[str]:
        assert PROGRAMS is not None
        account = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return [*account, str(PROGRAMS / program), *map(str, words)]

    def _run(self, program: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self._command(program, *words), env=self._environment, capture_output=True, timeout=60, check=False
        )


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A started server whose directory is removed at the end. Its path is short: a socket's name is bounded."""
    directory = Path(tempfile.mkdtemp(prefix="allod-pg-"))
    server = None
    try:
        server = Server(directory)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)  # nothing of it is wanted any more
        shutil.rmtree(directory, ignore_errors=True)
