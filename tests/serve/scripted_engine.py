"""An engine of a few lines that speaks like llama.cpp and ends when it is asked to: process and seal are real."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from allod.core.deadlines import Deadlines
from allod.engine.adapters.echo import EchoEngine
from allod.engine.adapters.llama import LlamaEngine
from allod.engine.engine import EngineInfo
from allod.engine.replicas.replica import ReplicaOptions
from allod.seal.launch import SealOptions, python_read_paths

READ_PATHS = python_read_paths()

# Answers with the question's text. `end` and `half` are words to end on: before anything is answered, or after one
# piece. `once` before them ends only the first process that hears it, which leaves a socket as its mark (a sealed
# process can make nothing else). `wait` is not answered at all; `talk` takes five seconds, `tell` one, and `mumble`, a
# word in a second and a half, six, in which no probe is answered, nor is one in the three seconds that `sulk` takes;
# `grow` takes 256 MiB first. With `after` as its mode the second start fails, with `slowly` each takes two seconds; a
# `mute` one answers no chat, `garbage` answers none that can be read, `full` ends of each.
ENGINE = textwrap.dedent(
    r"""
    import json, os, socket, sys, threading, time
    place, mode = sys.argv[1:]
    def is_first(name):
        try: socket.socket(socket.AF_UNIX).bind(place + "/" + name)
        except OSError: return False
        return True
    if mode == "never":
        print("srv load_model: failed to open the file: no such model", file=sys.stderr)
        raise RuntimeError("Failed to init server")
    talking = []
    if mode == "after" and not is_first("started"): sys.exit("out of memory")
    if mode == "silent": time.sleep(60)
    if mode == "slowly": time.sleep(2.1)
    def event(**choice): return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    def answer(connection, head, body):
        if b"GET /" in head:
            while talking and b"/metrics" in head: time.sleep(0.1)
            return b"[]"
        if mode == "mute": time.sleep(60)
        if mode == "garbage": return b"\x00 not an answer"
        if mode == "full": os._exit(1)
        asked = json.loads(body)
        text = asked["messages"][-1]["content"]
        *once, word = text.split()
        if word == "wait": time.sleep(60)
        if word == "sulk":
            talking.append(word)
            time.sleep(3)
            talking.clear()
        if word == "grow": talking.append(bytearray(os.urandom(1 << 20) * 256))
        if word in ("talk", "tell", "mumble", "grow"):
            talking.append(word)
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range({"mumble": 4, "tell": 10}.get(word, 50)):
                data = event(delta={"content": "word "})
                connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))
                time.sleep(1.5 if word == "mumble" else 0.1)
            talking.clear()
            data = event(finish_reason="stop") + b"data: [DONE]\n\n"
            connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
            return None
        if not once or is_first("once"):
            if word == "end": os._exit(1)
            if word == "half":
                begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
                data = event(delta={"content": "half"})
                connection.sendall(begun + b"%x\r\n%b\r\n" % (len(data), data))
                time.sleep(0.05)
                os._exit(1)
        return event(delta={"content": text}) + event(finish_reason="stop") + b"data: [DONE]\n\n"
    def serve(connection):
        file = connection.makefile("rb")
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline()
                if not line: return
                head += line
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = answer(connection, head, file.read(length))
            if body is not None:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place + "/engine.sock")
    listener.listen()
    while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
    """
)


def llama_at(info: EngineInfo, socket_path: str, deadlines: Deadlines) -> LlamaEngine:
    return LlamaEngine(info, socket_path, deadlines=deadlines)


def scripted_options(folder: Path, mode: str = "well", **changes: Any) -> ReplicaOptions:
    """A replica of it that has its socket and its log in `folder`."""
    place = folder / "sockets"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    seal = SealOptions(
        command=(sys.executable, "-S", "-c", ENGINE, str(place), mode),
        socket_dir=place,
        read_paths=READ_PATHS,
        log_path=folder / "engine.log",
    )
    quick = {"poll_s": 0.02, "restart_wait_s": 0.05, "ready_timeout_s": 10.0}
    given = {"make_engine": llama_at, "info": EchoEngine().info, **quick, **changes}
    return ReplicaOptions(seal=seal, socket_path=str(place / "engine.sock"), **given)
