"""From documents to a served, signed model by the command line alone: every stage real, on this project's own pages."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import environment, run_allod, run_gateway
from tests.scenarios.pages import STAGES, derivations, lay_out, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def recipe(place: Path) -> Path:
    return lay_out(place / "recipes")


@pytest.fixture(scope="module")
def trained(place: Path, recipe: Path) -> dict[str, Any]:
    """One run to its end, in a realm of its own."""
    return train(place / "home", recipe)


def test_every_stage_leaves_its_manifest(trained: dict[str, Any]) -> None:
    """Nine stages, each with a manifest that names its parents; what was measured is in it."""
    assert list(derivations(trained)) == STAGES
    folder = Path(trained["folder"])
    manifest = json.loads((folder / "pretrain" / "manifest.json").read_bytes())["predicate"]
    assert [given["name"] for given in manifest["inputs"]] == ["pack", "tokenizer"]
    assert manifest["inputs"][0]["derivation"] == derivations(trained)["pack"]
    assert manifest["seal"]["kind"] in ("island", "sealed")
    assert manifest["energy"]["label"] in ("METERED", "UNAVAILABLE")
    assert manifest["measured"]["tokens"] > 0
    assert (folder / "pretrain" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "pretrain" / "losses.jsonl").read_text().splitlines()) == 12


def test_a_second_start_makes_nothing_again(place: Path, recipe: Path, trained: dict[str, Any]) -> None:
    """All manifests match: the same release, and not a file touched."""
    before = {path: path.stat().st_mtime_ns for path in Path(trained["folder"]).glob("*/*")}
    again = train(place / "home", recipe)
    assert again["released"] == trained["released"]
    assert derivations(again) == derivations(trained)
    assert {path: path.stat().st_mtime_ns for path in Path(trained["folder"]).glob("*/*")} == before


def test_elsewhere_the_same_digests(place: Path, trained: dict[str, Any]) -> None:
    """Another realm, another folder, the recipe that the first run wrote down: the same digests at every stage."""
    other = train(place / "other-home", Path(trained["folder"]) / "recipe.toml", "--dir", str(place / "other-run"))
    assert derivations(other) == derivations(trained)
    assert other["released"]["digest"] == trained["released"]["digest"]


def test_one_word_changes_what_is_downstream_and_nothing_else(place: Path, trained: dict[str, Any]) -> None:
    """One word of one page: other digests from there on; what was made of the other source alone stays as it was."""
    changed = lay_out(place / "changed")
    page = changed.parent / "docs" / "seal.md"
    page.write_text(page.read_text().replace("network", "neighbourhood", 1))
    other = train(place / "home", changed, "--dir", str(place / "changed-run"), "--until", "pack")
    mine, theirs = derivations(trained), derivations(other)
    assert all(mine[stage] != theirs[stage] for stage in theirs)
    listed = [
        {row["name"]: row["sha256"] for row in json.loads((folder / "source" / "files.json").read_bytes())}
        for folder in (Path(trained["folder"]), place / "changed-run")
    ]
    differing = {name for name in listed[0] if listed[0][name] != listed[1][name]}
    assert differing == {"docs-00000.jsonl", "index.jsonl", "sources.json"}


def test_an_answer_leads_back_to_its_documents(place: Path, trained: dict[str, Any]) -> None:
    """Served by its name; the answer's receipt verifies down to the sources and their licences."""
    home = place / "home"
    receipt = place / "answer.receipt.json"
    with run_gateway(home, "pages") as gateway:
        asked = gateway.allod("ask", "--receipt", str(receipt), "Why?")  # its context is short
        assert asked.returncode == 0, asked.stderr
    verified = run_allod(home, "verify", "--lineage", str(receipt))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.rstrip().endswith("verified")
    for word in (trained["released"]["digest"], *derivations(trained).values(), "Apache-2.0", "the pages of this"):
        assert word in verified.stdout
    shown = run_allod(home, "model", "show", "pages")
    assert "the specifications of this project" in shown.stdout
    affected = run_allod(home, "model", "affected-by", "docs/seal.md", "--json")
    assert "pages" in affected.stdout
    manifest = home / "store" / "models" / trained["released"]["digest"][7:] / "lineage" / "clean" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.chmod(0o600)
    manifest.write_bytes(whole.replace(b'"stage":"clean"', b'"stage":"clear"'))
    try:
        refused = run_allod(home, "verify", "--lineage", str(receipt))
        assert refused.returncode == 1
        assert "not verified" in refused.stdout
    finally:
        manifest.write_bytes(whole)


def test_killed_anywhere_it_goes_on(place: Path, recipe: Path, trained: dict[str, Any]) -> None:
    """`kill -9` of the whole group at random moments; what is restarted ends with the same digests."""
    home, run = place / "killed-home", place / "killed-run"
    command = [sys.executable, "-m", "allod.cli", "train", str(recipe), "--dir", str(run)]
    chance = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen(
            command, env=environment(home), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(chance.uniform(1.0, 12.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert derivations(train(home, recipe, "--dir", str(run))) == derivations(trained)


def test_two_ranks_in_one_island_are_one(place: Path, recipe: Path, trained: dict[str, Any]) -> None:
    """Two processes that share the work, sealed together, learn the same bits as one alone."""
    words = ("--dir", str(place / "ranks-run"), "--ranks", "2", "--until", "pretrain")
    both = train(place / "ranks-home", recipe, *words)
    assert derivations(both)["pretrain"] == derivations(trained)["pretrain"]
    manifest = json.loads((place / "ranks-run" / "pretrain" / "manifest.json").read_bytes())["predicate"]
    assert (manifest["environment"]["ranks"], manifest["seal"]["kind"]) == (2, "island")


@pytest.mark.parametrize("words", [("--ranks", "0"), ("--nodes", "2"), ("--threads", "0"), ("--on", "nowhere")])
def test_machines_that_there_are_not_are_refused(place: Path, recipe: Path, words: tuple[str, str]) -> None:
    """Before anything begins, and without a trace in the run's folder."""
    run = place / f"no{words[0]}"
    refused = run_allod(place / "no-home", "train", str(recipe), "--dir", str(run), *words)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("error: ")
    assert not list(run.glob("[!.]*"))


def test_a_wish_to_stop_saves_what_was_learnt(place: Path, recipe: Path) -> None:
    """Ctrl-C ends it with 3 and a hint, not with a traceback; the next start goes on from the checkpoint."""
    home, run = place / "stopped-home", place / "stopped-run"
    command = [sys.executable, "-m", "allod.cli", "train", str(recipe), "--dir", str(run), "--until", "pretrain"]
    process = subprocess.Popen(command, env=environment(home), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if list(run.glob(".partial-pretrain-*/checkpoints/*")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3
    assert b"stopped" in said
    assert b"Traceback" not in said
    assert list(run.glob(".partial-pretrain-*/checkpoints/*"))
    assert train(home, recipe, "--dir", str(run), "--until", "pretrain")["stages"][-1]["stage"] == "pretrain"


@pytest.mark.parametrize(
    ("sin", "code", "says"),
    [
        ("not-utf8", 2, "UTF-8"),
        ("empty", 2, "holds nothing"),
        ("no-licence", 2, "licence is missing"),
        ("unknown-licence", 2, "licence"),
        ("unknown-key", 2, "unknown key 'colour'"),
        ("impossible-size", 2, "size"),
        ("no-such-stage", 2, "no stage"),
    ],
)
def test_bad_input_is_named(place: Path, sin: str, code: int, says: str) -> None:
    """One clear error with the thing that is wrong in it; nothing counts as done."""
    recipe = lay_out(place / f"bad-{sin}")
    text, words = recipe.read_text(), ["--until", "source"]
    if sin == "not-utf8":
        (recipe.parent / "docs" / "seal.md").write_bytes(b"caf\xe9 \xff\xfe")
    elif sin == "empty":
        shutil.rmtree(recipe.parent / "docs")
        (recipe.parent / "docs").mkdir()
    elif sin == "no-licence":
        recipe.write_text(text.replace('licence = "Apache-2.0"\n', "", 1))
    elif sin == "unknown-licence":
        recipe.write_text(text.replace('licence = "Apache-2.0"', 'licence = "Proprietary-Do-Not-Use"', 1))
    elif sin == "unknown-key":
        recipe.write_text('colour = "red"\n' + text)
    elif sin == "impossible-size":
        recipe.write_text(text.replace('size = "1m"', 'size = "9999999m"'))
    else:
        words = ["--until", "polish"]
    run = place / f"bad-{sin}" / "run"
    refused = run_allod(place / "bad-home", "train", str(recipe), "--dir", str(run), *words)
    assert refused.returncode == code, refused.stderr
    said = refused.stderr[refused.stderr.index("error: ") :]
    assert says in said
    assert "Traceback" not in refused.stderr
    assert not (run / "source").exists()
