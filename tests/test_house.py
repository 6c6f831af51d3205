"""The house rules of the architecture, each kept by a test; and each test shown to fail on a planted sin."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "allod"

FLOORS = {
    "core": 0,
    "model": 1, "seal": 1, "govern": 1, "prove": 1,
    "fleet": 2,
    "engine": 3,
    "train": 4, "serve": 4,
    "settings": 6,
    "app": 7,
    "cli": 8, "web": 8,
}  # fmt: skip

# Every package from outside and the only paths that may import it. A new line here is a decision record, too.
DOORS = {
    "cedarpy": ("govern/policy",),
    "cryptography": ("prove/",),
    "gguf": ("model/gguf/writer.py", "train/tuning/lora_tokens.py"),
    "httptools": ("engine/http.py", "web/server.py"),
    "jinja2": ("model/templates/gate.py", "model/templates/growth.py"),
    "jsonschema_rs": ("serve/schemas/process.py",),
    "llguidance": ("serve/schemas/process.py",),
    "msgspec": (
        "engine/adapters/",
        "serve/schemas/judge.py",
        "serve/tools.py",
        "web/",
    ),
    "numpy": ("model/gguf/writer.py", "train/"),
    "peft": ("train/tuning/lora.py",),
    "psycopg": ("govern/stores/postgres.py",),
    "prometheus_client": ("web/http/metrics.py",),
    "rensa": ("train/stages/dedupe.py",),
    "rich": ("cli/",),
    "rustbpe": ("train/stages/tokenizer.py",),
    "safetensors": ("model/network/weights.py", "train/"),
    "tokenizers": ("model/network/tokenizer.py", "train/tuning/lora_tokens.py"),
    "torch": (
        "fleet/preflight/all_reduce.py",
        "fleet/preflight/torch_gpu.py",
        "fleet/ranks.py",
        "model/network/llama.py",
        "model/network/weights.py",
        "train/",
    ),
    "transformers": ("train/tuning/lora.py", "train/tuning/lora_tokens.py"),
    "uvicorn": ("web/server.py",),
    "uvloop": ("web/starting.py",),
    "xllamacpp": ("engine/adapters/llama_process.py",),
}

FORBIDDEN_NAMES = {"utils", "util", "common", "base", "manager", "helpers", "helper", "misc"}
ASYNC_ROOMS = ("engine/", "serve/", "web/", "app/")  # app puts async things together and is no room


def modules(source: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every module as (path below the package, syntax tree)."""
    for file in sorted(source.rglob("*.py")):
        yield file.relative_to(source).as_posix(), ast.parse(file.read_text(), str(file))


def imports(path: str, tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "allod" else str(node.module)


def room_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def imports_that_do_not_go_down(source: Path) -> list[str]:
    sins = []
    for path, tree in modules(source):
        room = room_of(path)
        for name in imports(path, tree):
            parts = name.split(".")
            if parts[0] != "allod" or len(parts) == 1 or parts[1] in (room, "__version__"):
                continue
            if room == "__init__" or FLOORS[parts[1]] >= FLOORS[room]:
                sins.append(f"{path} imports {name}")
    return sins


def imports_past_their_door(source: Path) -> list[str]:
    sins = []
    for path, tree in modules(source):
        for name in imports(path, tree):
            package = name.split(".")[0]
            if package == "allod" or package in sys.stdlib_module_names:
                continue
            if not path.startswith(DOORS.get(package, ())):
                sins.append(f"{path} imports {package}")
    return sins


def other_readers_of_the_environment(source: Path) -> list[str]:
    names = {"environ", "environb", "getenv", "getenvb", "tomllib"}
    return [
        f"{path}:{node.lineno} reads the environment or TOML"
        for path, tree in modules(source)
        if path not in ("settings/environment.py", "settings/files.py")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names and getattr(node.value, "id", "") == "os")
        or (isinstance(node, (ast.Import, ast.ImportFrom)) and names & {alias.name for alias in node.names})
    ]


def forbidden_names(source: Path) -> list[str]:
    return [str(file) for file in source.rglob("*") if file.stem in FORBIDDEN_NAMES]


def async_outside_its_rooms(source: Path) -> list[str]:
    return [
        f"{path}:{node.lineno} is async"
        for path, tree in modules(source)
        if not path.startswith(ASYNC_ROOMS)
        for node in ast.walk(tree)
        if isinstance(node, (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith))
    ]


LISTENER = """
import contextlib, importlib, io, sys, threading
sys.dont_write_bytecode = True
names, outside = sys.argv[1].split(","), sys.argv[2].split(",")
for name in outside:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
noticed = []
def listen(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event.startswith(("socket.", "subprocess.", "os.system", "os.fork", "os.exec", "signal.", "urllib.")):
        noticed.append(event)
sys.addaudithook(listen)
threads, printed = threading.active_count(), io.StringIO()
for name in names:
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        importlib.import_module(name)
    if noticed or printed.tell() or threading.active_count() != threads:
        sys.exit(f"{name}: {noticed} {printed.getvalue()}")
"""


def imports_that_do_something(source: Path) -> list[str]:
    """The first module whose import writes, connects, starts or prints. Outside packages are imported beforehand."""
    outside = [*(name for name in DOORS if name != "xllamacpp"), "asyncio", "ctypes", "urllib.request", "sqlite3"]
    names = [
        ".".join(("allod", *Path(path).with_suffix("").parts)).removesuffix(".__init__")
        for path, _ in modules(source)
        if not path.endswith("__main__.py")  # a program; running it is its purpose
    ]
    command = [sys.executable, "-c", LISTENER, ",".join(names), ",".join(outside)]
    environment = {"PYTHONPATH": str(source.parent)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return [result.stderr.strip()] if result.returncode else []


def console_imports_in_a_circle(source: Path) -> list[str]:
    """One circle of the console's modules, if there is any."""
    imported = {
        file.name: set(re.findall(r"""from ["']\./([\w.]+)["']""", file.read_text()))
        for file in (source / "web" / "console").glob("*.js")
    }
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as circle:
        return [" imports ".join(reversed(circle.args[1]))]
    return []


def what_web_shares_imports_of_web(source: Path) -> list[str]:
    """`web/http` is for all dialects, and knows none of them."""
    return [
        f"{path} imports {name}"
        for path, tree in modules(source)
        if path.startswith("web/http/")
        for name in imports(path, tree)
        if name.startswith("allod.web.") and not name.startswith("allod.web.http.")
    ]


RULES = {
    "imports go down": imports_that_do_not_go_down,
    "outside packages come in by their door": imports_past_their_door,
    "one reader of the environment": other_readers_of_the_environment,
    "names say what is inside": forbidden_names,
    "async only where requests are": async_outside_its_rooms,
    "importing does nothing": imports_that_do_something,
    "the console imports in no circle": console_imports_in_a_circle,
    "what web shares knows no dialect": what_web_shares_imports_of_web,
}

SINS = {
    "imports go down": ("core/sin.py", "def f():\n    from allod.serve import gateway\n"),
    "outside packages come in by their door": ("govern/sin.py", "import msgspec\n"),
    "one reader of the environment": ("serve/sin.py", "import os\nHOME = os.environ.get('HOME')\n"),
    "names say what is inside": ("core/helpers.py", "\n"),
    "async only where requests are": ("prove/sin.py", "async def f() -> None: ...\n"),
    "the console imports in no circle": ("web/console/sin.js", 'import { Sin } from "./sin.js";\n'),
    "what web shares knows no dialect": ("web/http/sin.py", "from allod.web.openai import write\n"),
    "importing does nothing": ("core/sin.py", "import socket\nsocket.socket().close()\nprint('imported')\n"),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps(rule: str) -> None:
    """The package as it is breaks no rule."""
    assert RULES[rule](SOURCE) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_sin_is_found(rule: str, tmp_path: Path) -> None:
    """A rule that cannot fail keeps nothing: plant its sin in a copy of the house and see it found."""
    house = tmp_path / "allod"
    shutil.copytree(SOURCE, house, ignore=shutil.ignore_patterns("__pycache__"))
    path, sin = SINS[rule]
    (house / path).write_text(sin)
    found = RULES[rule](house)
    assert len(found) == 1, found
    assert Path(path).stem in found[0]


def test_every_door_is_used() -> None:
    """A door that nobody goes through is a dependency to delete."""
    used = {name.split(".")[0] for path, tree in modules(SOURCE) for name in imports(path, tree)}
    assert set(DOORS) <= used


def loaded_by(module: str) -> set[str]:
    """All that importing it imports, and nothing that measures it."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout.split())


def test_verifying_loads_core_and_prove_alone(tmp_path: Path) -> None:
    """`allod verify` must run where little is trusted: these rooms verify a bundle, and few of their files."""
    case = json.loads((SOURCE.parents[1] / "spec" / "vectors" / "bundles.json").read_text())["good"][0]
    bundle, trust = tmp_path / "a.receipt.json", tmp_path / "trust.policy"
    bundle.write_text(case["bundle"])
    trust.write_text(case["trust"])
    code = "import sys, allod.cli.main as m; print(m.main(sys.argv[1:]), *sorted(sys.modules))"
    command = [sys.executable, "-c", code, "verify", str(bundle), "--trust", str(trust)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    status, *loaded = printed[-1].split()
    assert (printed[-2], status) == ("verified", "0")
    ours = [name for name in loaded if name.startswith("allod.")]
    assert {name.split(".")[1] for name in ours} == {"core", "prove", "cli", "settings"}
    assert len(ours) <= 32


def test_an_engines_process_is_started_before_what_asks_it_is_loaded() -> None:
    """Neither an event loop nor what reads a model's file is there by then."""
    loaded = loaded_by("allod.web.__main__")
    assert "allod.seal.launch" in loaded
    assert not loaded & {
        "asyncio",
        "concurrent",
        "jinja2",
        "logging",
        "uvloop",
        "allod.app.gateway.engine",
        "allod.model.gguf.header",
    }


def test_the_way_into_the_seal_is_light() -> None:
    """Every sealed process waits for it: nothing is loaded there that only makes our code shorter."""
    assert not loaded_by("allod.seal.enter") & {"dataclasses", "inspect", "platform", "subprocess", "threading"}


def test_an_engine_is_told_what_to_load_before_the_rest_is_loaded() -> None:
    """What else serves is imported while it reads its weights; what fetches, trains or signs, by who needs it."""
    loaded = loaded_by("allod.web.starting")
    assert "allod.app.gateway.engine" in loaded
    later = (
        "allod.web.server",
        "allod.engine.adapters.llama",
        "msgspec",
        "allod.govern.policy.decision",
        "allod.prove.formats.signing_key",
        "allod.prove.tlog.log",
        "allod.train",
        "cedarpy",
        "cryptography",
        "http.client",
    )
    assert not [name for name in loaded if name.startswith(later)]


def test_serving_never_needs_what_training_does() -> None:
    """Every module that serves, governs, proves or is a verb is importable where the train extra is not installed."""
    extra = {"torch", "numpy", "safetensors", "tokenizers", "rustbpe", "gguf", "rensa", "peft", "transformers"}
    names = [
        ".".join(("allod", *Path(path).with_suffix("").parts)).removesuffix(".__init__")
        for path, _ in modules(SOURCE)
        if room_of(path) in ("core", "seal", "govern", "prove", "engine", "serve", "settings", "app", "cli", "web")
        and not path.endswith("__main__.py")
    ]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "allod.cli.verbs.train" in loaded
    assert not extra & set(loaded)
