"""vLLM in the island: what it asks of the kernel before it answers, in a second; and vLLM itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.seal.islands import options

from allod.seal.evidence import describe
from allod.seal.launch import SealedProcess, SealOptions, start

pytest.importorskip("psutil", reason="psutil comes with the train extra")
pytest.importorskip("zmq", reason="pyzmq comes with the dev group")

STAND_IN = """
import tempfile
from multiprocessing.shared_memory import SharedMemory
import psutil, zmq

context = zmq.Context()
receiver, sender = context.socket(zmq.PULL), context.socket(zmq.PUSH)
for address in ("ipc://" + tempfile.gettempdir() + "/queue", "tcp://127.0.0.1:5555"):
    receiver.bind(address), sender.connect(address), sender.send(b"over " + address[:3].encode())
    print(receiver.recv().decode())
ring = SharedMemory(create=True, size=4096)
ring.buf[:4] = b"ring"
again = SharedMemory(ring.name)
print(bytes(again.buf[:4]).decode(), [child.name() != "" for child in psutil.Process().children()])
ring.unlink()
memory, own = psutil.virtual_memory(), psutil.Process().memory_info()
print(memory.total > memory.available > own.rss > 0, psutil.cpu_count() == len(psutil.cpu_times(percpu=True)))
allowed = [line for line in open("/proc/self/status") if line.startswith("Mems_allowed_list")]
print(len(allowed), any("libzmq" in line for line in open("/proc/self/maps")))
"""


def test_queues_shared_memory_and_the_machines_memory(tmp_path: Path) -> None:
    """libzmq aborts where it may not set how its threads are scheduled; psutil fails without a /proc of its own."""
    asked = options(tmp_path, STAND_IN, environment={"TMPDIR": str(tmp_path / "scratch")})
    process = start(replace(asked, command=(sys.executable, "-P", *asked.command[2:])))
    status = process.wait(30)
    process.terminate()
    said = (tmp_path / "log").read_text()
    assert status == 0, said
    assert said.splitlines() == ["over ipc", "over tcp", "ring [True]", "True True", "1 True"]


VLLM = Path(os.environ.get("ALLOD_VLLM", sys.executable))  # the Python of an environment that has it: it brings a lot
ARGUMENTS = (
    *("--served-model-name", "tiny", "--max-model-len", "64", "--max-num-seqs", "4"),
    *("--dtype", "float32"),  # as it was exported: alone and among others it then says the same
    "--enforce-eager",  # no compiler in there
    "--enable-prompt-tokens-details",
    *("--distributed-executor-backend", "external_launcher"),  # one worker, in the engine's process: no lock on a file
)
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "TORCHDYNAMO_DISABLE": "1",  # else the first who asks for logprobs has it look for a compiler, of which it dies
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding is seen by others, and refused
    "OMP_NUM_THREADS": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what external_launcher insists on; the engine is a process all the same
    **dict.fromkeys(("RANK", "LOCAL_RANK"), "0"),
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",  # every island has its own loopback
    "PATH": "/usr/bin:/bin",
}
PROGRAMS = (Path("/bin/sh"), Path("/usr/bin/lscpu"))  # it asks for the processors with a shell
START_S = 400
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "one and another"}], "max_tokens": 8}
WISHES: dict[str, dict[str, object]] = {
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "sampling": {"temperature": 0.8, "seed": 1, "top_k": 5, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.2, "repetition_penalty": 1.1},
    "several": {"n": 2, "temperature": 1},
    "the prompt's": {"prompt_logprobs": 1},
    "a schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    },
}


def has_vllm() -> bool:
    return not subprocess.run(
        [VLLM, "-c", "import importlib.util as u; assert u.find_spec('vllm')"], check=False, stderr=subprocess.DEVNULL
    ).returncode


def lies_in(python: Path) -> tuple[Path, ...]:
    """What an environment's Python needs to be read."""
    code = (
        "import sys, sysconfig as s; print(*{sys.prefix, *s.get_paths().values(), sys.base_prefix + '/lib'}, sep='\\n')"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    return tuple(path for path in map(Path, said[:-1]) if path.exists())


def ask(address: Path, path: str, body: object = None) -> tuple[int, str]:
    """One exchange over a Unix socket. Raises OSError while nobody answers there."""
    connection = HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    with closing(connection):
        connection.sock.connect(str(address))
        words = {"content-type": "application/json"}
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, words)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SealedProcess, Path]]:
    """vLLM with a model that a stage of training exported, whole island; its process and its socket."""
    if not has_vllm():
        pytest.skip("vLLM is not installed: ALLOD_VLLM names the Python of an environment that has it")
    pytest.importorskip("torch", reason="torch comes with the train extra")
    from tests.train.exporting import EXPORTED, trained_run
    from tests.train.packing import work_in

    from allod.train.stages import export

    folder = tmp_path_factory.mktemp("vllm")
    run = trained_run(folder / "run", width=128)
    export.run(work_in(run, "export", "tokenizer", "pack", "pretrain", "evaluate", recipe=EXPORTED))
    sockets, scratch = folder / "sockets", folder / "scratch"
    sockets.mkdir(mode=0o700)
    scratch.mkdir()
    address, model = sockets / "engine.sock", run / "export"
    server = ("-m", "vllm.entrypoints.openai.api_server", "--uds", str(address), "--model", str(model))
    process = start(
        SealOptions(
            command=(str(VLLM), *server, *ARGUMENTS),
            profile="island",
            socket_dir=sockets,
            scratch_dir=scratch,
            read_paths=(*lies_in(VLLM), model),
            execute_paths=PROGRAMS,
            environment={**ENVIRONMENT, "HOME": str(scratch), "TMPDIR": str(scratch)},
            log_path=folder / "log",
            max_file_bytes=1 << 42,
        )
    )
    try:
        wait_for(process, address, folder / "log")
        yield process, address
    finally:
        process.terminate()


def wait_for(process: SealedProcess, address: Path, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        with suppress(OSError):
            if ask(address, "/health")[0] == 200:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])


@pytest.mark.slow
def test_vllm_answers_from_a_whole_island(engine: tuple[SealedProcess, Path]) -> None:
    """It is sealed as training is, says alone what it says among others, and counts the tokens that it makes."""
    process, address = engine
    assert process.kind == "island"
    assert [row["name"] for row in describe(process.evidence()) if not row["ok"]] == []
    before = counted(address, "vllm:generation_tokens_total")

    def answer(index: int) -> str:
        told = {"messages": [{"role": "user", "content": f"one and another {index}"}]}
        status, text = ask(address, "/v1/chat/completions", {**CHAT, **told, "temperature": 0, "ignore_eos": True})
        assert status == 200, text
        return str(json.loads(text)["choices"][0]["message"]["content"])

    alone = [answer(index) for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(4))) == alone
    assert counted(address, "vllm:generation_tokens_total") - before == 2 * 4 * 8


@pytest.mark.slow
@pytest.mark.parametrize("wish", WISHES)
def test_nothing_that_a_client_may_ask_ends_it(engine: tuple[SealedProcess, Path], wish: str) -> None:
    """Each is code that is first run when it is asked for, and what that needs must be in there."""
    process, address = engine
    status, text = ask(address, "/v1/chat/completions", {**CHAT, **WISHES[wish]})
    assert status == 200, text
    assert ask(address, "/health")[0] == 200
    assert process.poll() is None


def counted(address: Path, name: str) -> float:
    lines = ask(address, "/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))
