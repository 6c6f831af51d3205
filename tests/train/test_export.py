"""The stage that exports a model, and the checks that keep a wrong file from being served."""
# ruff: noqa: E402 - imported once it is known that the train extra is there

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

import torch
from safetensors import safe_open
from tests.train.exporting import CONTEXT, EXPORTED, copy_of, trained_run, write_manifest
from tests.train.packing import interrupted_after, work_in

from allod.core.errors import Invalid, Unavailable
from allod.model.gguf import writer as gguf_writer
from allod.model.gguf.header import read_header
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import load_model
from allod.train.exporting.engine import TrialEngine
from allod.train.exporting.export_checks import engine_surprises, network_surprises, sample_of, texts_to_read
from allod.train.exporting.round_trip import MIN_STRINGS, lines_of, strings
from allod.train.recipe import Export, Recipe
from allod.train.stage_task import StageTask
from allod.train.stages import export as stage

INPUTS = ("tokenizer", "pack", "pretrain", "evaluate")


def work_for(run: Path, recipe: Recipe = EXPORTED) -> StageTask:
    return work_in(run, "export", *INPUTS, recipe=recipe)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as `export`."""
    run = trained_run(tmp_path_factory.mktemp("run") / "run")
    stage.run(work_for(run))
    return run


@pytest.fixture(scope="module")
def told(run: Path) -> dict[str, object]:
    """What `export.json` says."""
    told: dict[str, object] = json.loads((run / "export" / "export.json").read_bytes())
    return told


def test_there_is_a_file_of_every_kind(run: Path, told: dict[str, list[dict[str, object]]]) -> None:
    """f16 and what the recipe asks for, each whole, with its digest and size on record."""
    assert [file["file"] for file in told["files"]] == ["tiny-f16.gguf", "tiny-q8_0.gguf", "tiny-q4_0.gguf"]
    for file in told["files"]:
        data = (run / "export" / str(file["file"])).read_bytes()
        assert (file["sha256"], file["bytes"]) == (sha256(data).hexdigest(), len(data))


def test_every_file_carries_the_digest_of_its_history(run: Path) -> None:
    """The derivation of the evaluation, in the header of each GGUF file and of the safetensors file."""
    derivation = json.loads((run / "evaluate" / "manifest.json").read_bytes())["predicate"]["derivation"]
    for path in (run / "export").glob("*.gguf"):
        assert read_header(path).derivation == derivation
    with safe_open(run / "export" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "allod.derivation": derivation, "allod.run": "tiny"}


def test_losses_are_measured_in_the_engine(told: dict[str, list[dict[str, str]]]) -> None:
    """f16 as good as f32; eight bits closer to it than four."""
    above = {file["kind"]: abs(float(file["bits_above_f32"])) for file in told["files"]}
    assert above["f16"] < 0.005
    assert above["f16"] <= above["q8_0"] < above["q4_0"]


def test_the_engine_goes_on_as_the_network_does(told: dict[str, list[dict[str, dict[str, int]]]]) -> None:
    """The same likeliest tokens after every prompt, in f16."""
    greedy = told["files"][0]["greedy"]
    assert greedy["prompts"] == greedy["same_as_f32"] > 0


def test_enough_texts_were_read_alike(told: dict[str, list[dict[str, dict[str, int]]]]) -> None:
    """Of every file."""
    assert all(file["tokenizer"]["texts"] > MIN_STRINGS for file in told["files"])
    assert all(file["tokenizer"]["mismatches"] == 0 for file in told["files"])


def test_the_same_work_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """In another folder."""
    copy = copy_of(run, tmp_path / "copy")
    stage.run(work_for(copy))
    one, other = ({path.name: path.read_bytes() for path in (each / "export").iterdir()} for each in (run, copy))
    assert one == other


def test_transformers_reads_the_set(run: Path) -> None:
    """The same logits as our network, and the same answer to a prompt as the engine."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run / "export", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "export")
    ours = load_model(run / "pretrain")
    tokens = tokenizer("It is a truth universally acknowledged", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert (theirs(tokens).logits - ours(tokens)).abs().max() == 0
        said = theirs.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.shape[1] :].tolist()
    assert theirs.generation_config.eos_token_id == [ours.shape.vocab - 1, ours.shape.vocab - 3]
    with TrialEngine(run / "export" / "tiny-f16.gguf", context=CONTEXT) as engine:
        assert engine.greedy(tokens[0].tolist(), 12) == said


def test_the_engines_surprises_are_the_networks(run: Path) -> None:
    """Token by token, special ones among them."""
    tokenizer = Tokenizer.load(run / "tokenizer")
    chat = tokenizer.encode_chat([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    window = [*tokenizer.encode("Chapter 1 of emma."), tokenizer.end_of_text, *chat]
    with torch.no_grad():
        likely = load_model(run / "pretrain")(torch.tensor([window]))[0, :-1].log_softmax(-1)
    wanted = -likely.gather(1, torch.tensor(window)[1:, None])[:, 0]
    with TrialEngine(run / "export" / "tiny-f16.gguf", context=CONTEXT) as engine:
        found = torch.tensor(engine.surprises(window))
    assert (found - wanted).abs().max() < 0.1
    assert (found - wanted).abs().mean() < 0.02


def test_characters_of_several_tokens_are_measured_too(run: Path) -> None:
    """The engine keeps to itself a token that ends within a character: text in Welsh, arrows and pounds has those."""
    network = load_model(run / "pretrain")
    tokens = Tokenizer.load(run / "tokenizer").encode("ŵy → £5, ☃ and 𝄞")[: network.shape.context]
    with TrialEngine(run / "export" / "tiny-f16.gguf", context=network.shape.context) as engine:
        found = torch.tensor(engine.surprises(tokens))
    with torch.inference_mode():
        logits = network(torch.tensor([tokens]))[0, :-1].float()
    expected = -torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_another_split_of_text_is_found_out(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file says `gpt-2` though the tokenizer cuts as Llama 3: the engine would mangle text in silence."""
    monkeypatch.setattr(gguf_writer, "GGUF_SPLIT", "gpt-2")
    with pytest.raises(Invalid) as caught:
        stage.run(work_for(copy_of(run, tmp_path / "copy")))
    assert caught.value.code == "tokenizer_mismatch"
    assert "tokens [" in caught.value.message


def test_rows_in_the_wrong_order_are_found_out(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """q and k as the network has them: the engine loads that, and thinks something else."""
    monkeypatch.setattr(gguf_writer, "rotary_rows", lambda rows, heads: rows)
    with pytest.raises(Invalid) as caught:
        stage.run(work_for(copy_of(run, tmp_path / "copy")))
    assert caught.value.code == "weights_mismatch"


def test_what_cannot_be_quantised_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    """K-quants of narrow rows, for instance."""
    work = work_for(copy_of(run, tmp_path / "copy"), replace(EXPORTED, export=Export(quantise=("q4_k_m",))))
    with pytest.raises(Invalid) as caught:
        stage.run(work)
    assert caught.value.code == "quantise_unsupported"
    assert not list(work.output.iterdir())


def test_tuned_weights_are_exported_where_there_are_any(run: Path, tmp_path: Path) -> None:
    """`pretrain` is what is exported only if the recipe tunes nothing."""
    copy = copy_of(run, tmp_path / "copy")
    (copy / "pretrain").rename(copy / "tune")
    recipe = replace(EXPORTED, tune=replace(EXPORTED.tune, steps=1), export=Export(quantise=()))
    stage.run(work_in(copy, "export", "tokenizer", "pack", "tune", "evaluate", recipe=recipe))
    assert (copy / "export" / "tiny-f16.gguf").read_bytes() == (run / "export" / "tiny-f16.gguf").read_bytes()


def test_another_history_is_another_file(run: Path, tmp_path: Path) -> None:
    """Equal weights with other ancestors are not the same model."""
    copy = copy_of(run, tmp_path / "copy")
    write_manifest(copy / "evaluate", "evaluate-otherwise")
    stage.run(work_for(copy, replace(EXPORTED, export=Export(quantise=()))))
    assert (copy / "export" / "tiny-f16.gguf").read_bytes() != (run / "export" / "tiny-f16.gguf").read_bytes()


def test_it_stops_when_the_machine_is_wanted_back(run: Path, tmp_path: Path) -> None:
    """Between two files."""
    with pytest.raises(Unavailable) as caught:
        stage.run(interrupted_after(work_for(copy_of(run, tmp_path / "copy")), 3))
    assert caught.value.code == "interrupted"


def test_the_sample_is_of_held_out_text(run: Path) -> None:
    """Windows of the network's context, spread over the validation split, and both ways of measuring agree."""
    sample = sample_of(run / "pack", context=CONTEXT)
    assert sample.split == "validation"
    assert {len(window) for window in sample.windows} == {CONTEXT}
    assert len(set(sample.windows)) == len(sample.windows) > 1
    with TrialEngine(run / "export" / "tiny-f16.gguf", context=CONTEXT + 1) as engine:
        theirs = engine_surprises(engine, sample)
    ours = network_surprises(load_model(run / "pretrain"), sample)
    assert len(theirs) == len(ours) == sample.num_predicted
    assert max(abs(one - other) for one, other in zip(theirs, ours, strict=True)) < 0.2


def test_texts_are_many_different_and_always_the_same(run: Path) -> None:
    """Lines of this corpus, and strings of every script, in runs and mixtures."""
    made = list(strings())
    assert len(set(made)) == len(made) >= MIN_STRINGS
    assert made == list(strings())
    texts = texts_to_read(run / "pack", Tokenizer.load(run / "tokenizer"))
    assert "Inserting row 7\n" in texts
    assert set(made) <= set(texts)
    assert list(lines_of("a\nb\n\nb\n", 9)) == list(lines_of("b\na\n", 9))
