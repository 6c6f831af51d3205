"""The stage `dedupe`: of documents that say the same the first stays, and what is held out was never learnt."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.train.tiny import source

from allod.core.errors import Unavailable
from allod.train.corpus.documents import DocumentWriter, new_document, read_documents
from allod.train.recipe import Recipe
from allod.train.stage_task import StageTask

pytest.importorskip("rensa")

from allod.train.stages.dedupe import run

WORDS = [
    first + last for first in ("bal", "cor", "den", "fer", "gol", "hin", "jun") for last in ("ac", "em", "ist", "ode")
]


def prose(seed: int, num_words: int = 400) -> str:
    """Words without sense, the same for the same seed."""
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def changed(text: str, every: int) -> str:
    """The text with another word in each place that `every` divides."""
    return " ".join("other" if place % every == 0 else word for place, word in enumerate(text.split(), start=1))


def deduped(
    folder: Path, texts: dict[str, str], *, held_out: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, object]]:
    """The ids that stay, and the report."""
    before, after = folder / "clean", folder / "dedupe"
    before.mkdir()
    after.mkdir()
    with DocumentWriter(before) as writer:
        for name, text in texts.items():
            writer.write(new_document("notes", name, text))
    recipe = Recipe("test", (source("notes", held_out),))
    run(StageTask(recipe, {"clean": before}, after, lambda what, done, total: None, lambda: False))
    report = json.loads((after / "report.json").read_bytes())
    return [document.id.removeprefix("notes/") for document in read_documents(after)], report


def test_the_first_of_exact_duplicates_stays(tmp_path: Path) -> None:
    """Case, punctuation and line ends make no other text."""
    text = prose(1)
    kept, report = deduped(tmp_path, {"a": text, "b": prose(2), "c": text.title().replace(" ", ",\n")})
    assert kept == ["a", "b"]
    assert report["dropped"] == [{"id": "notes/c", "rule": "exact", "of": "notes/a"}]


def test_the_first_of_near_duplicates_stays(tmp_path: Path) -> None:
    """A word changed here and there makes no other text; one in five does."""
    text = prose(1)
    kept, report = deduped(tmp_path, {"a": text, "b": changed(text, 100), "c": changed(text, 5)})
    assert kept == ["a", "c"]
    assert report["dropped"] == [{"id": "notes/b", "rule": "near", "of": "notes/a"}]


def test_many_different_documents_all_stay(tmp_path: Path) -> None:
    """The same few words in another order are another text."""
    texts = {f"{number:03}": prose(number) for number in range(200)}
    kept, report = deduped(tmp_path, texts)
    assert kept == sorted(texts)
    assert report["by_rule"] == {"exact": 0, "near": 0, "held_out": 0}


def test_a_held_out_document_stays_and_its_copy_goes(tmp_path: Path) -> None:
    """A copy among the training documents would make the measurement worthless, wherever it stands."""
    text = prose(1)
    kept, report = deduped(tmp_path, {"a": text, "b": prose(2), "z": changed(text, 100)}, held_out=("z",))
    assert kept == ["b", "z"]
    assert report["dropped"] == [{"id": "notes/a", "rule": "near", "of": "notes/z"}]


def test_a_document_that_holds_a_held_out_one_goes(tmp_path: Path) -> None:
    """A whole novel in one file is no near-duplicate of its chapter, and yet it gives it away."""
    chapter = prose(1)
    texts = {"novel": f"{prose(2, 4000)} {chapter} {prose(3, 4000)}", "z": chapter}
    kept, report = deduped(tmp_path, texts, held_out=("z",))
    assert kept == ["z"]
    assert report["dropped"] == [{"id": "notes/novel", "rule": "held_out", "of": "notes/z"}]


def test_a_quotation_may_stay(tmp_path: Path) -> None:
    """A sentence that is quoted gives nothing away."""
    chapter = prose(1)
    quoting = f"{prose(2)} {' '.join(chapter.split()[:60])} {prose(3)}"
    kept, _ = deduped(tmp_path, {"a": quoting, "z": chapter}, held_out=("z",))
    assert kept == ["a", "z"]


def test_very_short_documents_are_compared_too(tmp_path: Path) -> None:
    """Fewer words than a run has, or none at all, are still the same or not."""
    kept, _ = deduped(tmp_path, {"a": "one two", "b": "one two", "c": "one three", "d": "12 34", "e": "56"})
    assert kept == ["a", "c", "d", "e"]


GOLDEN = [117276832, 3938086388, 3585110208, 1632380632, 2908182877, 1788819281, 3731748297, 3528955194]
SCRIPT = """
import json, sys
from rensa import RMinHash
from allod.train.stages.dedupe import SEED
sketch = RMinHash(num_perm=8, seed=SEED)
sketch.update(["it was the best", "was the best of"])
print(json.dumps(sketch.digest()))
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_sketches_are_the_same_in_every_process(seed: str) -> None:
    """Which documents stay must not depend on the process: a change of these numbers is a new version of the stage."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == GOLDEN


def test_it_stops_when_the_machine_is_wanted_back(tmp_path: Path) -> None:
    """A signal ends the stage at the next document, with the error that says so."""
    with DocumentWriter(tmp_path) as writer:
        writer.write(new_document("notes", "a", "text"))
    work = StageTask(
        Recipe("t", (source("notes"),)), {"clean": tmp_path}, tmp_path, lambda what, done, total: None, lambda: True
    )
    with pytest.raises(Unavailable) as caught:
        run(work)
    assert caught.value.code == "interrupted"
