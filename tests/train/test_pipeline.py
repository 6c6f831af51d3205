"""The pipeline skips what is done, makes what is not, and believes no file that its manifest does not name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.stage_logs import MemoryLog

from allod.core.canonical import JsonValue, digest_of
from allod.core.errors import Invalid, Unavailable
from allod.core.stages import COLLECTED, MODEL_STAGES, ROWS, StageRow
from allod.core.statements.training import Input, source_input
from allod.train import pipeline, stages
from allod.train.pipeline import PipelineStage, run_pipeline, stages_of
from allod.train.recipe import Recipe
from allod.train.recipe_reading import read_recipe
from allod.train.runs import FinishedStage, RunFolder, open_run

PREDICATE: dict[str, JsonValue] = {
    "id": "training_1",
    "at": {"start_ms": 1, "end_ms": 2},
    "run": "tiny",
    "recipe": "sha256:" + "0" * 64,
    "code": {},
    "environment": {},
    "stated": {"site": "here", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 0},
    "observed": {"by": "trainer", "machine": {}},
    "seed": 1,
    "measured": {},
    "energy": {},
    "seal": {},
    "label": {},
}


def recipe(**changes: Any) -> Recipe:
    sources = [
        {
            "name": name,
            "kind": "text",
            "path": name,
            "licence": "CC0-1.0",
            "jurisdiction": "GB",
            "origin": "here",
            "date": "2026",
        }
        for name in ("one", "two")
    ]
    return read_recipe({"name": "tiny", "size": "1m", "steps": 3, "source": sources, **changes}, where="x")


class Run:
    """A pipeline whose stages write down the digests of what they read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts = {"one": "1" * 64, "two": "2" * 64}
        self.performed: list[str] = []
        self.break_at = ""
        self.log = MemoryLog()

    def go(self, asked: Recipe | None = None) -> dict[str, FinishedStage]:
        self.performed = []
        asked = asked or recipe()
        given: Mapping[str, list[Input]] = {
            "source": [
                source_input(
                    name=source.name,
                    sha256=f"sha256:{self.texts[source.name]}",
                    licence=source.licence,
                    jurisdiction="GB",
                    origin="here",
                    date="2026",
                    package="",
                )
                for source in asked.sources
            ]
        }
        with open_run(self.path, self.log) as folder:
            return run_pipeline(asked, folder, given=given, perform=self.perform, finished=lambda *_: None)

    def perform(
        self, stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path
    ) -> Mapping[str, JsonValue]:
        self.performed.append(stage.name)
        (output / "made.txt").write_text(f"{key} {sorted(inputs)}")
        if stage.name == self.break_at:
            raise Unavailable("the lights went out")
        return PREDICATE


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


NAMES = [stage.name for stage in stages_of(recipe())]


def test_a_second_start_does_nothing(run: Run) -> None:
    """Every manifest matches: no stage is run, and the same derivations come out."""
    first = run.go()
    assert run.performed == NAMES
    again = run.go()
    assert run.performed == []
    assert {name: it.statement for name, it in first.items()} == {name: it.statement for name, it in again.items()}


def test_one_word_changes_what_is_downstream(run: Run) -> None:
    """Another text in one source: every stage that follows from it is made again and has another derivation."""
    first = run.go()
    run.texts["two"] = "3" * 64
    second = run.go()
    assert run.performed == NAMES
    assert all(first[name].statement.derivation != second[name].statement.derivation for name in NAMES)


@pytest.mark.parametrize(
    ("changes", "remade_from"),
    [
        ({"seed": 2}, "pack"),
        ({"tokenizer": {"vocab": 400}}, "tokenizer"),
        ({"steps": 4}, "pretrain"),
        ({"tune": {"steps": 7}}, "tune"),
        ({"evaluate": {"questions": "asked", "questions_sha256": "a" * 64}}, "evaluate"),
        ({"evaluate": {"questions": "asked"}}, None),
        ({"export": {"quantise": ["q4_0"]}}, "export"),
        ({"pretrain": {"checkpoint_every_s": 5}}, None),
    ],
)
def test_a_changed_option_remakes_what_depends_on_it(
    run: Run, changes: dict[str, Any], remade_from: str | None
) -> None:
    """An option is part of the key of the stages that it changes, and of no other."""
    run.go()
    run.go(recipe(**changes))
    assert run.performed == ([] if remade_from is None else NAMES[NAMES.index(remade_from) :])


@pytest.mark.parametrize("terms", [{"tier": "OFFICIAL"}, {"markings": ["SENSITIVE"]}])
def test_a_source_of_another_tier_is_another_source(run: Run, terms: dict[str, Any]) -> None:
    """Raised after a run, it must not leave that run's stages, and their lower label, in place."""
    run.go()
    raised = recipe()
    raised = replace(raised, sources=(replace(raised.sources[0], **terms), *raised.sources[1:]))
    run.go(raised)
    assert run.performed == NAMES


def test_another_folder_gives_the_same_derivations(run: Run, tmp_path: Path) -> None:
    """Nothing of a derivation depends on where the run lives."""
    other = Run(tmp_path / "elsewhere")
    assert [it.statement.derivation for it in run.go().values()] == [
        it.statement.derivation for it in other.go().values()
    ]


def test_what_was_interrupted_is_not_done(run: Run) -> None:
    """A stage that failed half-way has no folder; the next start makes it, and keeps those before it."""
    run.break_at = "pack"
    with pytest.raises(Unavailable):
        run.go()
    assert not (run.path / "pack").exists()
    run.break_at = ""
    run.go()
    assert run.performed == NAMES[NAMES.index("pack") :]


@pytest.mark.parametrize("sin", ["changed", "missing", "new", "list", "link"])
def test_a_file_changed_on_disk_is_noticed(run: Run, sin: str) -> None:
    """A finished stage whose files are not its manifest's is named, set aside, and made again at the next start."""
    run.go()
    made = run.path / "pack" / "made.txt"
    if sin == "changed":
        made.write_text(made.read_text().replace("sha256", "sha257"))
    elif sin == "missing":
        made.unlink()
    elif sin == "new":
        made.with_name("extra.txt").write_text("x")
    elif sin == "list":
        (run.path / "pack" / "files.json").write_text("[]")
    else:
        made.rename(made.with_name(".hidden"))
        made.symlink_to(".hidden")
    with pytest.raises(Invalid) as refused:
        run.go()
    assert refused.value.code == "stage_changed"
    assert "pack" in refused.value.message
    run.go()
    assert run.performed == ["pack"]  # the same bytes again: what follows still matches


@pytest.mark.parametrize("field", ["derivation", "key", "inputs", "files"])
def test_a_forged_manifest_is_noticed(run: Run, field: str) -> None:
    """A manifest that claims other parents, another key or other files does not follow from itself."""
    run.go()
    path = run.path / "pretrain" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    if field == "inputs":
        manifest["predicate"]["inputs"][0]["derivation"] = "sha256:" + "f" * 64
    elif field == "files":
        manifest["subject"][0]["digest"]["sha256"] = "f" * 64
    else:
        manifest["predicate"][field] = "sha256:" + "f" * 64
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    with pytest.raises(Invalid) as refused:
        run.go()
    assert refused.value.code == "stage_changed"


def test_a_stage_of_another_run_does_not_count(run: Run, tmp_path: Path) -> None:
    """A whole, valid stage made of other documents is stale, not done."""
    other = Run(tmp_path / "other")
    other.texts["one"] = "9" * 64
    other.go()
    run.go()
    shutil.rmtree(run.path / "clean")
    shutil.copytree(other.path / "clean", run.path / "clean")
    run.go()
    assert "clean" in run.performed


def test_a_kill_between_manifest_and_rename_loses_nothing(run: Run) -> None:
    """An ended folder with a whole manifest is a finished stage that has not got its name yet."""
    done = run.go()
    key = done["pack"].statement.key.removeprefix("sha256:")[:16]
    (run.path / "pack").rename(run.path / f".ended-pack-{key}")
    run.go()
    assert run.performed == []


def test_a_kill_before_the_manifest_keeps_the_work(run: Run) -> None:
    """An ended folder without a manifest is a stage under way again, with what it would resume from."""
    done = run.go()
    key = done["pretrain"].statement.key.removeprefix("sha256:")[:16]
    ended = run.path / f".ended-pretrain-{key}"
    (run.path / "pretrain").rename(ended)
    (ended / "manifest.json").unlink()
    (ended / "checkpoints").mkdir()
    with open_run(run.path, run.log) as folder:
        assert folder.find("pretrain", done["pretrain"].statement.key) is None
        partial = folder.partial("pretrain", done["pretrain"].statement.key, resumes=True)
    assert sorted(path.name for path in partial.iterdir()) == ["checkpoints", "made.txt"]


def test_two_runs_in_one_folder(run: Run) -> None:
    """The second is told who is there; nothing of the first is touched."""
    with open_run(run.path, run.log):
        script = (
            "import sys; from pathlib import Path; from allod.train.runs import open_run\n"
            "try:\n    open_run(Path(sys.argv[1]), None).__enter__()\n"
            "except Exception as error: print(error.code)"
        )
        said = subprocess.run(
            [sys.executable, "-c", script, str(run.path)], capture_output=True, text=True, check=True
        ).stdout
    assert said.strip() == "run_in_use"


def test_resumable_work_is_kept_and_other_work_is_not(run: Run) -> None:
    """Pretraining finds its checkpoints again under the same key; under another key it starts from nothing."""
    with open_run(run.path, run.log) as folder:
        partial = folder.partial("pretrain", "sha256:" + "a" * 64, resumes=True)
        (partial / "checkpoints").mkdir()
        assert (folder.partial("pretrain", "sha256:" + "a" * 64, resumes=True) / "checkpoints").exists()
        other = folder.partial("pretrain", "sha256:" + "b" * 64, resumes=True)
        assert not list(other.iterdir())
        assert not partial.exists()


def test_a_stage_that_left_nothing_is_not_done(tmp_path: Path) -> None:
    """An empty folder is no result."""
    with open_run(tmp_path, MemoryLog()) as folder:
        assert isinstance(folder, RunFolder)
        folder.partial("clean", "sha256:" + "a" * 64, resumes=False)
        with pytest.raises(Invalid, match="left nothing"):
            folder.finish("clean", {**PREDICATE, "key": "sha256:" + "a" * 64})


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({"filter": {"min_words": 2}}, "c12fd9a3a9e739e0de356bed934eb522b4ff83b018cdae2ae85b6a2a4f12707b"),
        ({"adapt": {"base": "b"}}, "69b3f64862e0169b5c5949aca155b9f5258a04246645f9de0fcf6205d64f11c4"),
    ],
)
def test_what_stages_compute_with_is_no_accident(changes: dict[str, Any], digest: str) -> None:
    """It is in every key: with other parameters, whatever they are, all finished runs would be made anew."""
    made = {stage.name: stage.parameters for stage in stages_of(recipe(**changes))}
    assert digest_of(made) == f"sha256:{digest}"


def test_a_row_alone_says_what_a_stage_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds a stage adds nothing to the pipeline, be it drawn by chance or not."""
    row = StageRow(name="draw", inputs=(COLLECTED,), parameters=("dedupe", "held_out", "seed"), role="documents")
    monkeypatch.setattr(pipeline, "MODEL_STAGES", (*MODEL_STAGES[:2], row))
    drawn = stages_of(recipe(seed=7))[-1]
    assert drawn.inputs == ("clean",)
    assert drawn.parameters == {"similarity_percent": 80, "permutations": 128, "held_out": {}, "seed": 7}


def test_every_stage_of_the_table_has_a_file_and_nothing_else_does() -> None:
    """A stage is a row and a file of its name."""
    files = Path(stages.__file__).parent.glob("*.py")
    assert {path.stem for path in files} - {"__init__"} == set(ROWS)
