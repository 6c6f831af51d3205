"""Adapting an imported model: what it leaves, that it learns and forgets nothing else, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

for library in ("torch", "transformers", "peft", "gguf"):
    pytest.importorskip(library, reason=f"{library} comes with the train extra")

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from tests.train.adapting import RECIPE, TEXTS, new_work, write_base, write_texts  # noqa: E402

from allod.core.errors import Denied, Invalid, Unavailable  # noqa: E402
from allod.train.stages import adapt  # noqa: E402
from allod.train.tuning.lora import Base  # noqa: E402


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    return {"base": write_base(root / "base"), "dedupe": write_texts(root / "dedupe")}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> tuple[Path, dict[str, Any]]:
    """A finished stage's folder, and what was measured."""
    work = new_work(tmp_path_factory.mktemp("run") / "adapt", inputs)
    return work.output, dict(adapt.run(work))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_held_out_text_becomes_less_surprising(adapted: tuple[Path, dict[str, Any]]) -> None:
    """What was never learnt from is predicted better, by the same text before and after."""
    folder, facts = adapted
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert facts["loss_after"] < 0.9 * facts["loss_before"]
    assert evaluation["loss_after"] == f"{facts['loss_after']:.6f}"
    assert float(evaluation["bits_per_byte"]) < float(evaluation["bits_per_byte_before"])


def test_an_evaluation_is_bound_to_its_adapter(adapted: tuple[Path, dict[str, Any]]) -> None:
    """By the digest of the weights that lie beside it; the base is named, and by no path of this machine."""
    folder, _ = adapted
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["weights"] == f"sha256:{digests(folder)['adapter_model.safetensors']}"
    assert evaluation["base"] == "tiny-base"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-base"


def test_every_document_is_on_its_side(adapted: tuple[Path, dict[str, Any]]) -> None:
    """In the order of its tokens, each split's from 0 on and without a gap; only what was held out is `validation`."""
    lines = [json.loads(line) for line in (adapted[0] / "documents.jsonl").read_text().splitlines()]
    assert len(lines) == len(TEXTS)
    for split in ("train", "validation"):
        place = 0
        for line in (line for line in lines if line["split"] == split):
            assert line["first_token"] == place
            place += line["num_tokens"]
    assert [line["id"] for line in lines if line["split"] == "validation"] == ["help/chart/page-3"]
    assert {line["sha256"] for line in lines} == {sha256(text.encode()).hexdigest() for text in TEXTS.values()}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, about transformers
def test_peft_reads_what_was_written(adapted: tuple[Path, dict[str, Any]], inputs: dict[str, Path]) -> None:
    """Its answer over the same base differs from the base's, and is finite."""
    base = Base(inputs["base"])
    tokens = torch.tensor([base.encode(["To insert a row"])[0]])
    with torch.no_grad():
        plain = base.logits(tokens).clone()
        network = PeftModel.from_pretrained(base.network, adapted[0])
        changed = network(input_ids=tokens).logits
    assert torch.isfinite(changed).all()
    assert not torch.allclose(plain, changed)


def test_the_same_again_is_the_same_to_the_bit(
    adapted: tuple[Path, dict[str, Any]], inputs: dict[str, Path], tmp_path: Path
) -> None:
    """In another directory, with what an interrupted try left lying there, and whatever was drawn before."""
    torch.manual_seed(99)
    work = new_work(tmp_path / "elsewhere" / "adapt", inputs)
    (work.output / "adapter_model.safetensors").write_bytes(b"half of it")
    adapt.run(work)
    assert digests(work.output) == digests(adapted[0])


def test_another_seed_is_another_adapter(
    adapted: tuple[Path, dict[str, Any]], inputs: dict[str, Path], tmp_path: Path
) -> None:
    """The seed decides where it starts and in which order it reads."""
    work = new_work(tmp_path / "adapt", inputs)
    adapt.run(replace(work, recipe=replace(RECIPE, seed=8)))
    assert digests(work.output)["adapter_model.safetensors"] != digests(adapted[0])["adapter_model.safetensors"]


def test_a_text_cannot_speak_in_special_tokens(inputs: dict[str, Path]) -> None:
    """A document that spells one out is letters; the end of a document is the real one, once."""
    base = Base(inputs["base"])
    (tokens,) = base.encode(["a<|endoftext|>b"])
    assert len(tokens) == len("a<|endoftext|>b") + 1
    assert tokens.count(tokens[-1]) == 1


def test_what_did_not_help_is_not_released(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The gate says by how much the loss fell, and by how much it must."""
    work = new_work(tmp_path / "adapt", inputs, steps=1, rate_micro=1, min_gain_percent=20)
    with pytest.raises(Denied, match="20 %") as caught:
        adapt.run(work)
    assert caught.value.code == "evaluation_below_gate"


def test_a_loss_that_is_no_number_ends_it(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would be written then is worth nothing."""
    monkeypatch.setattr(adapt, "next_token_loss", lambda logits, targets: (logits * float("nan")).mean())
    with pytest.raises(Invalid) as caught:
        adapt.run(new_work(tmp_path / "adapt", inputs))
    assert caught.value.code == "loss_not_finite"


def test_it_stops_when_it_is_asked_to(inputs: dict[str, Path], tmp_path: Path) -> None:
    """In the middle of learning; the next try begins again."""
    told: list[str] = []
    work = new_work(tmp_path / "adapt", inputs)
    work = replace(
        work, report=lambda what, done, total: told.append(what), should_stop=lambda: told.count("adapting") > 3
    )
    with pytest.raises(Unavailable) as caught:
        adapt.run(work)
    assert caught.value.code == "interrupted"
    assert told.count("adapting") == 4


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        ({"row/page-1": TEXTS["row/page-1"]}, "nothing_held_out"),
        ({"row/page-1": "A", "chart/page-3": TEXTS["chart/page-3"]}, "corpus_too_small"),
        ({"row/page-1": TEXTS["row/page-1"], "chart/page-3": "A"}, "corpus_too_small"),
    ],
    ids=["nothing held out", "nothing to learn", "nothing to measure"],
)
def test_documents_that_do_not_do(inputs: dict[str, Path], tmp_path: Path, texts: dict[str, str], code: str) -> None:
    """Each with its reason, before anything is learnt."""
    given = {**inputs, "dedupe": write_texts(tmp_path / "dedupe", texts)}
    with pytest.raises(Invalid) as caught:
        adapt.run(new_work(tmp_path / "adapt", given))
    assert caught.value.code == code


def test_a_base_that_is_no_model_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Cut short, it is named as what cannot be read."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "weights.gguf").write_bytes((inputs["base"] / "weights.gguf").read_bytes()[:1000])
    with pytest.raises(Invalid) as caught:
        adapt.run(new_work(tmp_path / "adapt", {**inputs, "base": base}))
    assert caught.value.code == "base_not_read"
