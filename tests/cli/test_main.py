"""The command line: how errors end it, what `--json` prints, and a verification that needs nothing but its files."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Gateway, environment, run_allod

from allod import __version__
from allod.cli.json_text import json_text
from allod.cli.main import VERBS
from allod.core.canonical import canonical_json
from allod.model.catalogue import find
from allod.settings.files import load_catalogue

STEPS = ["bundle", "log", "witnesses", "inclusion", "statement", "opening", "times"]


@pytest.fixture(scope="module")
def bundle(gateway: Gateway) -> dict[str, Any]:
    """A receipt's bundle with everything that opens it, as one value."""
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Why?"}], "seed": 1})
    connection.request("POST", "/v1/chat/completions", body, gateway.headers)
    response = connection.getresponse()
    content = json.loads(response.read())["choices"][0]["message"]["content"]
    connection.request("GET", f"/v1/receipts/{response.headers['x-allod-receipt']}", headers=gateway.headers)
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    answer = canonical_json({"content": content, "tool_calls": []}).decode()
    return {**found, "opening": {**found["opening"], "request": body, "answer": answer}}


def saved(path: Path, bundle: dict[str, Any]) -> str:
    file = path / "answer.receipt.json"
    file.write_text(json.dumps(bundle))
    return str(file)


def assert_is_error(result: subprocess.CompletedProcess[str], status: int, *, hint: bool = True) -> None:
    """`error: what happened`, a blank line, `hint: what to do`; on stderr, and nothing on stdout."""
    assert result.returncode == status, result.stderr
    first, *rest = result.stderr.rstrip("\n").split("\n")
    assert first.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    if hint:
        assert rest[0] == ""
        assert rest[1].startswith("hint: ")


# How errors end it


def test_a_wrong_setting_ends_with_2(tmp_path: Path) -> None:
    """What is wrong, and what is known."""
    (tmp_path / "allod.toml").write_text("[server]\nprot = 1\n")
    result = run_allod(tmp_path, "up")
    assert_is_error(result, 2)
    assert "'prot'" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--port=70000"],
        ["up", "--model=no-such-model"],
        ["model", "get", "no-such-model"],
        ["log", "key"],
        ["log", "fsck"],
        ["ask", "Why?", "--receipt=nowhere/at/all.json"],
        ["verify", "absent.json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(tmp_path: Path, words: list[str]) -> None:
    """Whatever will be wrong again when it is said again."""
    assert_is_error(run_allod(tmp_path, *words), 2, hint=False)


@pytest.mark.parametrize("words", [[], ["sing"], ["up", "--prot=1"], ["verify"], ["up", "--port=many"]], ids=str)
def test_words_that_are_not_understood_end_with_2(tmp_path: Path, words: list[str]) -> None:
    """With the usage, and without a traceback."""
    result = run_allod(tmp_path, *words)
    assert result.returncode == 2
    assert "usage: allod" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("model", ["echo", "auto", "smollm2-135m", "{home}/models/own.gguf"])
def test_a_port_that_is_taken_ends_with_3(gateway: Gateway, tmp_path: Path, model: str) -> None:
    """Unavailable: it would work later, or elsewhere. It is said before the model is fetched, checked or measured."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("own.gguf", find(load_catalogue(), "smollm2-135m").file):
        (models / name).write_bytes(b"what would be refused if anybody looked")
    port = gateway.url.rpartition(":")[2]
    result = run_allod(tmp_path, "up", f"--model={model.format(home=tmp_path)}", f"--port={port}")
    assert_is_error(result, 3)
    assert "--port" in result.stderr


def test_a_second_gateway_in_one_realm_ends_with_3(gateway: Gateway) -> None:
    """A log has one writer; the first gateway goes on."""
    assert_is_error(gateway.allod("up", "--model=echo", "--port=0"), 3, hint=False)
    assert gateway.allod("ask", "Still there?").stdout == "Still there?\n"


def test_a_running_gateway_says_which_model_is_asked_about(gateway: Gateway) -> None:
    """It was started with `--model`, and no setting names one."""
    assert gateway.allod("policy", "explain").stdout.startswith("asked      chat with echo:")


def test_a_file_that_is_no_model_ends_with_2(tmp_path: Path) -> None:
    """The gate's own words."""
    (tmp_path / "model.gguf").write_bytes(b"\x80\x04 a pickle")
    result = run_allod(tmp_path / "home", "up", f"--model={tmp_path / 'model.gguf'}")
    assert_is_error(result, 2)
    assert "no whole GGUF file" in result.stderr


def test_a_traceback_comes_only_when_asked_for(tmp_path: Path) -> None:
    """`--verbose` shows where an error came from, before the same error."""
    plain = run_allod(tmp_path, "verify", "absent.json")
    verbose = run_allod(tmp_path, "verify", "absent.json", "--verbose")
    assert "Traceback" not in plain.stderr
    assert verbose.stderr.startswith("Traceback (most recent call last):\n")
    assert verbose.stderr.endswith(plain.stderr)
    assert plain.returncode == verbose.returncode == 2


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    """And finding out makes no realm."""
    result = run_allod(tmp_path / "home", "--version")
    assert (result.returncode, result.stdout) == (0, f"allod {__version__}\n")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_explains_itself(tmp_path: Path, verb: str) -> None:
    """`--help` costs nothing and makes nothing; the whole help names every verb."""
    result = run_allod(tmp_path / "home", *([verb] if verb else []), "--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in ([verb] if verb else VERBS))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [["model", "list"], ["model", "list", "--json"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path, words: list[str], unbuffered: str) -> None:
    """As with `| head`: standard output that nobody reads ends the command quietly."""
    result = unread(tmp_path, words, unbuffered)
    assert (result.returncode, result.stderr) == (1, b"")


UNHEARD = [
    (["log", "fsck", "--json"], 2),
    (["frob", "--json"], 2),
    (["model", "list", "--json"], 3),
]


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(("words", "status"), UNHEARD, ids=str)
def test_a_full_disk_changes_no_status(tmp_path: Path, words: list[str], status: int, unbuffered: str) -> None:
    """Where the answer cannot be written that is the error; where an error cannot be, on stdout, it is that error."""
    with Path("/dev/full").open("wb") as full:
        result = ended(tmp_path, words, unbuffered, stdout=full, stderr=subprocess.PIPE)
        assert result.returncode == status
        assert result.stderr.startswith(b"error: ")
        assert not any(word in result.stderr for word in (b"Traceback", b"Exception"))
        assert ended(tmp_path, words, unbuffered, stdout=full, stderr=full).returncode == status


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [["log", "fsck", "--json"], ["frob", "--json"]], ids=" ".join)
def test_an_error_that_nobody_reads_is_that_error(tmp_path: Path, words: list[str], unbuffered: str) -> None:
    """With `--json` and `| true`, or with both streams closed."""
    result = unread(tmp_path, words, unbuffered)
    assert result.returncode == 2
    assert not any(word in result.stderr for word in (b"Traceback", b"Exception"))
    command = " ".join([sys.executable, "-m", "allod.cli", *words, ">&-", "2>&-"])
    assert subprocess.run(["/bin/sh", "-c", command], env=environment(tmp_path), check=False).returncode == 2


def unread(home: Path, words: list[str], unbuffered: str) -> subprocess.CompletedProcess[bytes]:
    """How the command ended whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return ended(home, words, unbuffered, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)


def ended(home: Path, words: list[str], unbuffered: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """How the command ended; Python writes at its end what it kept; `unbuffered`, each thing at once."""
    command = [sys.executable, "-m", "allod.cli", *words]
    how = {**environment(home), "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, env=how, check=False, **streams)


# What --json prints


def test_the_catalogue_as_json(tmp_path: Path) -> None:
    """One list, with what is here and what is not."""
    rows = json.loads(run_allod(tmp_path, "model", "list", "--json").stdout)
    assert rows[0]["name"] == "smollm2-135m"
    assert all(row["here"] is False for row in rows)


def test_an_answer_as_json(gateway: Gateway, tmp_path: Path) -> None:
    """The answer, why it ended, and where its receipt is; stdout holds nothing else."""
    file = tmp_path / "r.json"
    result = gateway.allod("ask", "Why not?", "--json", "--receipt", str(file))
    answer = json.loads(result.stdout)
    assert result.stdout == f"{json_text(answer)}\n"
    assert (answer["answer"], answer["finish"], answer["model"]) == ("Why not?", "stop", "echo")
    assert (answer["receipt"], len(answer["receipt_id"])) == (str(file), 32)
    assert gateway.allod("verify", str(file)).returncode == 0


def test_the_logs_health_as_json(gateway: Gateway) -> None:
    """While a gateway writes to it."""
    result = gateway.allod("log", "fsck", "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["is_sound"], report["findings"]) == (0, True, [])
    assert report["head"] > 0


def test_a_verification_as_json(gateway: Gateway, bundle: dict[str, Any], tmp_path: Path) -> None:
    """The seven steps by name; or the one that failed."""
    good = gateway.allod("verify", saved(tmp_path, bundle), "--json")
    report = json.loads(good.stdout)
    assert (good.returncode, report["verified"], report["level"]) == (0, True, "logged")
    assert [step["name"] for step in report["steps"]] == STEPS
    assert [step["number"] for step in report["steps"]] == [1, 2, 3, 4, 5, 6, 7]
    bad = gateway.allod("verify", saved(tmp_path, {**bundle, "statement": "{}"}), "--json")
    report = json.loads(bad.stdout)
    assert (bad.returncode, report["verified"], report["failed"]["name"]) == (1, False, "inclusion")
    assert [step["name"] for step in report["steps"]] == STEPS[:3]


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (["verify", "absent.json"], "unreadable", 2),
        (["log", "fsck"], "no_log", 2),
        (["log", "compare", "absent.json"], "no_log", 2),
        (["log", "accept-clock"], "no_log", 2),
        (["model", "show", "absent"], "model_unknown", 2),
        (["model", "check", "absent"], "model_unknown", 2),
        (["tenant", "show", "absent"], "not_found", 2),
        (["key", "revoke", "absent"], "not_found", 2),
        (["policy", "check", "absent"], "unreadable", 2),
        (["policy", "history"], "no_policy", 2),
        (["train", "absent.toml"], "settings_unreadable", 2),
        (["ask", "Why?", "--receipt=nowhere/at/all.json"], "invalid", 2),
        (["ask"], "usage", 2),
        (["seal", "test", "--profile=none"], "usage", 2),
        (["up", "--port=8400"], "usage", 2),
        (["sing"], "usage", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_as_json(tmp_path: Path, words: list[str], code: str, status: int) -> None:
    """One object on stdout with the code that the reference lists; what a person reads is on stderr all the same."""
    result = run_allod(tmp_path, *words, "--json")
    assert result.returncode == status, result.stderr
    told = json.loads(result.stdout)
    assert result.stdout == f"{json_text(told)}\n"
    error = told["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert error["code"] == code
    assert result.stderr.startswith(f"error: {error['message']}\n")


# Asking


def test_the_answer_is_all_of_stdout(gateway: Gateway) -> None:
    """So that it can be piped on; what is said beside it goes to stderr."""
    result = gateway.allod("ask", "Why not?")
    assert (result.returncode, result.stdout) == (0, "Why not?\n")
    assert "not information" in result.stderr


def test_a_terminal_need_not_know_the_answers_letters(gateway: Gateway) -> None:
    """What it lacks is shown escaped, and `--json` is the same everywhere: one line of ASCII without spaces."""
    env = {**environment(gateway.home), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "allod.cli", "ask", "Grüße 世界"]
    for words, said in (([], "Grüße \\u4e16\\u754c\n"), (["--json"], '{"answer":"Gr\\u00fc\\u00dfe \\u4e16\\u754c","')):
        result = subprocess.run([*command, *words], env=env, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.decode("latin-1").startswith(said)


def test_a_passage_comes_from_stdin(gateway: Gateway) -> None:
    """What is piped in is asked about."""
    result = gateway.allod("ask", "Who?", stdin="Dewi lives in Tywyn.\n")
    assert "Dewi lives in Tywyn." in result.stdout
    assert "Who?" in result.stdout


def test_a_passage_that_is_no_text_is_refused(gateway: Gateway) -> None:
    """A picture piped in by mistake."""
    result = subprocess.run(
        [sys.executable, "-m", "allod.cli", "ask", "Who?"],
        env=environment(gateway.home),
        input=b"\x89PNG\xff",
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith(b"error: ")


def test_an_answer_that_was_cut_off_says_so(gateway: Gateway) -> None:
    """On stderr, with the word that would have made it longer."""
    result = gateway.allod("ask", "one two three four", "--max-tokens=2")
    assert result.stdout == "one two\n"
    assert "--max-tokens" in result.stderr


def test_another_model_than_is_served_does_not_answer(gateway: Gateway) -> None:
    """Who names one means it."""
    named = gateway.allod("ask", "Why not?", "--model=echo")
    assert (named.returncode, named.stdout) == (0, "Why not?\n")
    other = gateway.allod("ask", "Why not?", "--model=smollm2-135m")
    assert (other.returncode, other.stdout) == (2, "")
    assert "does not serve 'smollm2-135m'" in other.stderr


def test_what_the_gateway_refuses_ends_with_its_reason(gateway: Gateway) -> None:
    """Invalid there is wrong usage here."""
    result = gateway.allod("ask", "Why?", "--max-tokens=0")
    assert (result.returncode, result.stdout) == (2, "")
    assert "\nerror: " in result.stderr


def test_a_receipt_is_for_its_owner(gateway: Gateway, tmp_path: Path) -> None:
    """It holds the question and the answer."""
    file = tmp_path / "r.json"
    gateway.allod("ask", "Why?", "--receipt", str(file))
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_receipt_over_an_open_file_is_closed(gateway: Gateway, tmp_path: Path) -> None:
    """A file that others could read before is its owner's alone afterwards."""
    file = tmp_path / "r.json"
    file.write_text("old")
    file.chmod(0o644)
    gateway.allod("ask", "Why?", "--receipt", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert gateway.allod("verify", str(file)).returncode == 0


def test_a_receipt_cannot_be_a_directory(gateway: Gateway, tmp_path: Path) -> None:
    """Said before the question is asked."""
    assert_is_error(gateway.allod("ask", "Why?", "--receipt", str(tmp_path)), 2, hint=False)


def test_a_question_that_is_no_text_is_refused(gateway: Gateway) -> None:
    """Bytes that are no UTF-8 among the words."""
    result = subprocess.run(
        [sys.executable, "-m", "allod.cli", "ask", b"\xff"],
        env=environment(gateway.home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr


# Verifying


def test_a_good_bundle_is_verified_in_numbered_steps(gateway: Gateway, bundle: dict[str, Any], tmp_path: Path) -> None:
    """Seven lines and a word, exit status 0."""
    result = gateway.allod("verify", saved(tmp_path, bundle))
    *steps, last = result.stdout.splitlines()
    assert (result.returncode, last) == (0, "verified")
    assert [line.split(":")[0] for line in steps] == [f"{number} {name}" for number, name in enumerate(STEPS, 1)]


def flipped(text: str, position: int) -> str:
    """The text with one character changed for another of its kind."""
    old = text[position]
    new = "1" if old == "0" else "0" if old.isdigit() else "b" if old == "a" else "a"
    return text[:position] + new + text[position + 1 :]


def with_statement(bundle: dict[str, Any]) -> dict[str, Any]:
    statement = bundle["statement"]
    return {**bundle, "statement": flipped(statement, statement.index('"nonce":"') + 9)}


def with_signature(bundle: dict[str, Any]) -> dict[str, Any]:
    head, _, line = bundle["proof"].rstrip("\n").rpartition("\n")
    words, _, signature = line.rpartition(" ")
    raw = bytearray(base64.b64decode(signature))
    raw[-1] ^= 1
    return {**bundle, "proof": f"{head}\n{words} {base64.b64encode(raw).decode()}\n"}


def with_root(bundle: dict[str, Any]) -> dict[str, Any]:
    lines = bundle["proof"].split("\n")
    at = next(number for number, line in enumerate(lines) if line.isdigit()) + 1
    raw = bytearray(base64.b64decode(lines[at]))
    raw[0] ^= 1
    lines[at] = base64.b64encode(raw).decode()
    return {**bundle, "proof": "\n".join(lines)}


def with_opening(name: str) -> Any:
    def changed(bundle: dict[str, Any]) -> dict[str, Any]:
        return {**bundle, "opening": {**bundle["opening"], name: flipped(bundle["opening"][name], 14)}}

    return changed


@pytest.mark.parametrize(
    ("tamper", "step"),
    [
        (lambda bundle: {**bundle, "note": "x"}, "1 bundle"),
        (lambda bundle: {**bundle, "proof": bundle["proof"][:-20]}, "1 bundle"),
        (with_signature, "2 log"),
        (with_root, "2 log"),
        (with_statement, "4 inclusion"),
        (with_opening("salt"), "6 opening"),
        (with_opening("request"), "6 opening"),
        (with_opening("answer"), "6 opening"),
    ],
    ids=["extra key", "cut proof", "signature", "root", "statement", "salt", "request", "answer"],
)
def test_a_tampered_bundle_fails_at_its_step(
    gateway: Gateway, bundle: dict[str, Any], tmp_path: Path, tamper: Any, step: str
) -> None:
    """One character changed anywhere: exit status 1, and the step that noticed is named."""
    result = gateway.allod("verify", saved(tmp_path, tamper(bundle)))
    assert result.returncode == 1, result.stdout
    number, name = step.split()
    assert result.stdout.splitlines()[-1] == f"not verified: step {number} ({name}) failed"
    assert "verified\n" not in result.stdout.splitlines()


def test_another_realm_does_not_believe_it(gateway: Gateway, bundle: dict[str, Any], tmp_path: Path) -> None:
    """Under another log's trust file it is not verified; under no trust file nothing is."""
    file = saved(tmp_path, bundle)
    trust = (gateway.home / "trust.policy").read_text()
    assert_is_error(run_allod(tmp_path / "other", "verify", file), 2)
    (tmp_path / "trust.policy").write_text("log allod.example/receipts/other+00000000+AQ==\nquorum none\n")
    assert run_allod(tmp_path, "verify", file, "--trust", str(tmp_path / "trust.policy")).returncode != 0
    (tmp_path / "trust.policy").write_text(trust)
    assert run_allod(tmp_path / "other", "verify", file, "--trust", str(tmp_path / "trust.policy")).returncode == 0


def test_a_home_is_the_same_for_every_verb(gateway: Gateway, bundle: dict[str, Any], tmp_path: Path) -> None:
    """`~` in ALLOD_HOME means the user's home when verifying, too."""
    (tmp_path / "realm").symlink_to(gateway.home)
    result = subprocess.run(
        [sys.executable, "-m", "allod.cli", "verify", saved(tmp_path, bundle)],
        env={**environment(tmp_path), "HOME": str(tmp_path), "ALLOD_HOME": "~/realm"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "data", [b"", b"not json", b"[]", b"\xff" * 100, b"[" * 1_000_000], ids=lambda data: repr(data[:9])
)
def test_what_is_no_bundle_fails_at_the_first_step(gateway: Gateway, tmp_path: Path, data: bytes) -> None:
    """Whatever the file holds, the answer is no and not a traceback."""
    (tmp_path / "file").write_bytes(data)
    result = gateway.allod("verify", str(tmp_path / "file"))
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "not verified: step 1 (bundle) failed"


def test_verifying_needs_no_network(gateway: Gateway, bundle: dict[str, Any], tmp_path: Path) -> None:
    """In a namespace without any network, with the bundle and the trust file and nothing else of the realm."""
    saved(tmp_path, bundle)
    (tmp_path / "trust.policy").write_text((gateway.home / "trust.policy").read_text())
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-m", "allod.cli", "verify"]
    result = subprocess.run(
        [*command, str(tmp_path / "answer.receipt.json")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["verified"]), result.stderr


def test_verifying_writes_nothing(gateway: Gateway, bundle: dict[str, Any], tmp_path: Path) -> None:
    """An auditor's machine is left as it was."""
    file = saved(tmp_path, bundle)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    time.sleep(0.01)
    run_allod(tmp_path, "verify", file)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# What is not asked for is not loaded


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["nonsense"]])
def test_the_list_of_verbs_loads_none(words: list[str]) -> None:
    """What takes a second to import is imported by the verb that needs it."""
    code = (
        "import sys\nfrom allod.cli.main import main\ntry:\n    main(sys.argv[1:])\nfinally:\n    print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False).stdout
    names = [name.split(".") for name in loaded.split() if name.startswith("allod.")]
    assert {room for _, room, *_ in names} == {"cli", "core"}
    assert [module for _, room, *module in names if room == "cli"] == [[], ["main"]]
