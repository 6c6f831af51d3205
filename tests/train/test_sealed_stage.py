"""A stage in its own process inside the island: what it gives back, how it fails, and how it is stopped.

The stages here are planted ones, in a package of the test's own: the recipe cannot name one.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.seal.nodes import fake_gpu

from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.seal.evidence import proof_of
from allod.train.recipe import Recipe, Source
from allod.train.recipe_reading import recipe_json
from allod.train.sealed_stage import StageResult, run_sealed
from allod.train.stage_task import Limits

SOURCE = str(Path(__file__).parents[2] / "src")
RECIPE = Recipe(
    name="r",
    sources=(Source("s", kind="text", licence="MIT", jurisdiction="GB", origin="o", date="2020", path="s.txt"),),
)
WAITS = """
import time
from allod.train.stopping import stop_if_asked
def run(work):
    work.report("waiting", 0, 0)
    while True:
        time.sleep(0.02)
        {first}
        stop_if_asked(work)
"""

Run = Callable[..., StageResult]


@pytest.fixture
def plant(tmp_path: Path) -> Run:
    """`plant(code)` runs a stage of that code; `heard` of the result's progress goes to a list that is given."""
    package, output = tmp_path / "planted" / "stages_of_a_test", tmp_path / "output"
    for folder in (package, output):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()

    def run(code: str, *, heard: list[tuple[str, int, int]] | None = None, **more: object) -> StageResult:
        (package / "clean.py").write_text(code)
        inputs = {"source": str(tmp_path / "source")}
        return run_sealed(
            "clean",
            {"recipe": recipe_json(RECIPE), "inputs": inputs, "output": str(output)},
            read_paths=(package.parent,),
            write_path=output,
            report=lambda what, done, total: (heard if heard is not None else []).append((what, done, total)),
            log_path=tmp_path / "log",
            package="stages_of_a_test",
            **{"stop": lambda: False, **more},  # type: ignore[arg-type]
        )

    return run


def test_facts_and_progress_come_back(plant: Run, tmp_path: Path) -> None:
    """With the evidence of the seal that it ran in, and what it used."""
    heard: list[tuple[str, int, int]] = []
    result = plant(
        "def run(work):\n"
        "    work.report('counting', 1, 2)\n"
        "    (work.output / 'clean.txt').write_text(work.recipe.name)\n"
        "    print('to the log'); assert str(work.inputs['source']).endswith('source')\n"
        "    return {'documents': 2, 'ratio': 0.5, 'name': 'x', 'none': None}",
        heard=heard,
    )
    assert result.facts == {"documents": 2, "ratio": 0.5, "name": "x", "none": None}
    assert heard == [("counting", 1, 2)]
    assert (tmp_path / "output" / "clean.txt").read_text() == "r"
    assert (tmp_path / "log").read_text() == "to the log\n"
    assert result.seal_kind == "island"
    assert result.seal_proof == proof_of(result.seal_evidence)
    assert result.cpu_s > 0
    assert result.max_rss > 1 << 20
    assert 0 < result.ended_ms - result.started_ms < 60_000


def test_much_progress_is_thinned_out(plant: Run) -> None:
    """A stage may report each document; nobody reads more than a few lines a second."""
    heard: list[tuple[str, int, int]] = []
    plant("def run(work):\n    for n in range(100_001): work.report('x', n, 100_000)\n    return {}", heard=heard)
    assert 2 <= len(heard) < 50
    assert heard[-1] == ("x", 100_000, 100_000)


def test_a_stage_that_connects_fails(plant: Run) -> None:
    """By name, by number, or to the machine's own loopback: there is nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for address in ("('192.0.2.1', 80)", "('example.org', 443)", str(server.getsockname())):
            with pytest.raises(Unavailable) as caught:
                plant(f"import socket\ndef run(work): socket.create_connection({address}, 3)")
            assert caught.value.code == "stage_died"
            assert "[Errno" in str(caught.value.hint)


def test_a_stage_reads_only_what_it_was_given(plant: Run, tmp_path: Path) -> None:
    """The secret beside its inputs is not there, and it writes to its own output alone."""
    (tmp_path / "secret").write_text("s")
    result = plant(
        "from pathlib import Path\ndef run(work):\n"
        f"    there = Path({str(tmp_path / 'secret')!r}).exists()\n"
        "    try: (work.output.parent / 'x').write_text('x'); wrote = 1\n"
        "    except OSError: wrote = 0\n"
        "    return {'there': int(there), 'wrote': wrote}"
    )
    assert result.facts == {"there": 0, "wrote": 0}


@pytest.mark.parametrize("kind", [Invalid, Denied, Unavailable])
def test_an_error_of_the_stage_is_raised_here(plant: Run, kind: type[AllodError]) -> None:
    """Same class, code, message and hint, as if there were no process in between."""
    with pytest.raises(kind) as caught:
        plant(
            f"from allod.core.errors import {kind.__name__}\n"
            f"def run(work): raise {kind.__name__}('what', code='a_code', hint='do this')"
        )
    assert (caught.value.message, caught.value.code, caught.value.hint) == ("what", "a_code", "do this")


def test_a_full_disk_is_named(plant: Run) -> None:
    """Not a traceback: what it is and what to do."""
    with pytest.raises(Unavailable) as caught:
        plant("import errno\ndef run(work): raise OSError(errno.ENOSPC, 'no space left')")
    assert caught.value.code == "disk_full"
    assert caught.value.hint


@pytest.mark.parametrize(("code", "how"), [("os.abort()", "SIGABRT"), ("os._exit(9)", "status 9")])
def test_a_stage_that_dies_says_how_and_its_last_words(plant: Run, code: str, how: str) -> None:
    """The signal, and the end of this try's log, not of an earlier one's."""
    with pytest.raises(Unavailable):
        plant("import os, sys\ndef run(work): sys.stderr.write('earlier'); os.abort()")
    with pytest.raises(Unavailable, match=how) as caught:
        plant(f"import os\ndef run(work): os.write(2, b'last words'); {code}")
    assert caught.value.code == "stage_died"
    assert "last words" in str(caught.value.hint)
    assert "earlier" not in str(caught.value.hint)


@pytest.mark.parametrize(
    "said",
    ["[1]", "{", '{"facts": {"a": [1]}, "max_rss": 1}', '{"facts": 1}', '{"error": {"kind": "Exit"}}', "x" * (2 << 20)],
)
def test_what_is_no_message_is_no_answer(plant: Run, said: str) -> None:
    """The stage has read the corpus; what comes from it is looked at with suspicion."""
    with pytest.raises(Unavailable, match="no message"):
        plant(
            "import os\n"
            "def run(work):\n"
            "    for descriptor in range(3, 9):\n"
            f"        try: os.write(descriptor, {said!r}.encode() + b'\\n')\n"
            "        except OSError: pass\n"
            "    return {}"
        )


def test_an_unknown_stage_is_not_looked_for(plant: Run, tmp_path: Path) -> None:
    """Names are checked against the list before anything is imported."""
    with pytest.raises(Invalid) as caught:
        run_sealed(
            "os",
            {"recipe": {}, "inputs": {}, "output": "/"},
            read_paths=(),
            write_path=tmp_path / "output",
            report=lambda what, done, total: None,
            stop=lambda: False,
            log_path=tmp_path / "log",
        )
    assert caught.value.code == "unknown_stage"


def test_a_wish_to_stop_reaches_the_stage(plant: Run) -> None:
    """It saves, says so, and is raised as interrupted."""
    heard: list[tuple[str, int, int]] = []
    with pytest.raises(Unavailable) as caught:
        plant(WAITS.format(first="pass"), heard=heard, stop=lambda: bool(heard))
    assert caught.value.code == "interrupted"


def test_a_stage_that_does_not_stop_is_ended(plant: Run) -> None:
    """After its grace, with all that it started."""
    begun = time.monotonic()
    heard: list[tuple[str, int, int]] = []
    with pytest.raises(Unavailable) as caught:
        plant(WAITS.format(first="continue"), heard=heard, stop=lambda: bool(heard), grace_s=0.5)
    assert caught.value.code == "interrupted"
    assert time.monotonic() - begun < 20


def test_a_second_interrupt_ends_it_at_once(plant: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception on our side does not leave the stage behind, nor its scratch folder."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    heard: list[tuple[str, int, int]] = []

    def stop() -> bool:
        if heard:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        plant(WAITS.format(first="continue"), heard=heard, stop=stop)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_bytes_do_not_depend_on_the_caller(plant: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is the same whoever starts it: hash seed, clock, threads; and no secret of ours."""
    monkeypatch.setenv("SECRET_TOKEN", "s")
    code = (
        "import os\n"
        "def run(work):\n"
        "    names = ' '.join(sorted(os.environ))\n"
        "    return {'hash': hash('a'), 'names': names, 'threads': os.environ['OMP_NUM_THREADS']}"
    )
    one, other = plant(code, threads=2), plant(code, threads=2)
    assert one.facts == other.facts
    assert "SECRET_TOKEN" not in str(one.facts["names"])
    assert one.facts["threads"] == "2"


def test_it_dies_with_us(tmp_path: Path) -> None:
    """kill -9 of the process that follows it leaves no stage behind."""
    folder = tmp_path / "stages_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "clean.py").write_text(WAITS.format(first="(work.output / 'alive').write_text(str(time.time()))"))
    (tmp_path / "output").mkdir()
    follower = (
        "import json, sys; from pathlib import Path; from allod.train.sealed_stage import run_sealed\n"
        "here = Path(sys.argv[1])\n"
        "run_sealed('clean', {'recipe': json.loads(sys.argv[2]), 'inputs': {}, 'output': str(here / 'output')},"
        " read_paths=(here,), write_path=here / 'output', report=lambda *_: None, stop=lambda: False,"
        " log_path=here / 'log', package='stages_of_a_test')"
    )
    words = [sys.executable, "-c", follower, str(tmp_path), json.dumps(recipe_json(RECIPE))]
    alive = tmp_path / "output" / "alive"
    with subprocess.Popen(words, env={"PYTHONPATH": SOURCE}) as process:
        deadline = time.monotonic() + 20
        while not alive.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert alive.exists()
        process.send_signal(signal.SIGKILL)
    time.sleep(0.5)
    last = alive.read_text()
    time.sleep(0.3)
    assert alive.read_text() == last


@pytest.mark.parametrize(
    ("code", "limits", "why"),
    [
        ("return {'n': len(bytearray(1 << 30))}", Limits(512 << 20, 60), "needed more than 512 MiB of memory"),
        ("import time; time.sleep(120)", Limits(1 << 30, 2), "took longer than 2 s"),
    ],
)
def test_limits_that_are_met_end_it_and_are_named(plant: Run, code: str, limits: Limits, why: str) -> None:
    """Whatever it does, it has so much memory and so much time."""
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=why) as caught:
        plant(f"def run(work): {code}", limits=limits)
    assert caught.value.code == "stage_limit"
    assert time.monotonic() - begun < 60


def test_a_limit_of_memory_is_the_kernels(plant: Run) -> None:
    """Code that has taken the stage over cannot raise it, and what it starts has it, too."""
    raised = (
        "import os, resource\n"
        "def run(work):\n"
        "    try: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)); raised = 1\n"
        "    except (ValueError, OSError): raised = 0\n"
        "    child = os.fork()\n"
        "    if not child: os._exit(resource.getrlimit(resource.RLIMIT_AS)[1] >> 20 & 0xff)\n"
        "    return {'raised': raised, 'child': os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
    )
    assert plant(raised, limits=Limits(513 << 20, 60)).facts == {"raised": 0, "child": 1}


def test_within_its_limits_it_goes_on(plant: Run) -> None:
    """A stage that needs less never hears of them."""
    assert plant("def run(work): return {'n': len(bytearray(1 << 20))}", limits=Limits(512 << 20, 60)).facts["n"]


def test_a_stage_that_ends_badly_after_its_last_word_has_ended_well(plant: Run) -> None:
    """What it made is there and what it measured is said; what its libraries do afterwards changes nothing."""
    result = plant("import atexit, os\ndef run(work):\n    atexit.register(os.abort)\n    return {'steps': 3}")
    assert result.facts == {"steps": 3}


def test_it_may_be_followed_from_any_thread(plant: Run) -> None:
    """The stage's life hangs on our process, not on the thread that asked."""
    results: list[StageResult] = []
    thread = threading.Thread(target=lambda: results.append(plant("def run(work): return {'a': 1}")))
    thread.start()
    thread.join(30)
    assert results[0].facts == {"a": 1}


def test_a_stage_that_never_stops_talking_can_be_stopped(plant: Run) -> None:
    """Whoever listens to a flood still looks whether the operator wants it to end."""
    begun, heard = time.monotonic(), list[tuple[str, int, int]]()
    with pytest.raises(Unavailable) as caught:
        plant(
            "import os, signal, stat\n"
            "def run(work):\n"
            "    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
            '    line = b\'{"progress": ["x", 1, 2]}\\n\' * 500\n'
            "    (fd,) = [fd for fd in range(3, 20) if is_pipe(fd)]\n"
            "    while True: os.write(fd, line)\n"
            "def is_pipe(fd):\n"
            "    try: return stat.S_ISFIFO(os.fstat(fd).st_mode)\n"
            "    except OSError: return False",
            heard=heard,
            stop=lambda: len(heard) > 1000,
            grace_s=1.0,
        )
    assert caught.value.code == "interrupted", caught.value.hint
    assert time.monotonic() - begun < 60


def test_last_words_steer_no_terminal(plant: Run) -> None:
    """The end of the log is shown to the operator, without what a terminal would obey."""
    with pytest.raises(Unavailable) as caught:
        plant("import os\ndef run(work): os.write(2, b'\\x1b]0;owned\\x07 \\xc2\\x9b2J'); os.abort()")
    assert "owned" in str(caught.value.hint)
    assert all(line.isprintable() for line in str(caught.value.hint).split("\n"))


def test_a_clock_that_is_put_back_loses_no_stage(plant: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that ends before it starts would be refused, after all the work."""
    monkeypatch.setattr(time, "time_ns", iter(range(10**15, 0, -(10**12))).__next__)
    result = plant("def run(work): return {}")
    assert result.started_ms == result.ended_ms


def test_a_stage_with_devices_is_in_an_island_that_has_them(plant: Run, tmp_path: Path) -> None:
    """It opens the node that it was granted, and torch compiles nothing there; its evidence names the node."""
    grants = fake_gpu(tmp_path / "dev")
    node = str(grants.nodes[1])
    code = (
        "import os\ndef run(work):\n"
        f"    os.close(os.open({node!r}, os.O_RDWR))\n"
        "    return {'compiles': os.environ['TORCH_COMPILE_DISABLE'] == '0'}\n"
    )
    result = plant(code, devices=grants)
    assert result.facts == {"compiles": False}
    assert result.seal_kind == "island-gpu"
    assert node in json.dumps(result.seal_evidence)
