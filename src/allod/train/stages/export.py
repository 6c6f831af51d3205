"""Stage `export`: what was learnt, as others read it: a safetensors set, and GGUF files tried in the engine."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from allod.core.canonical import JsonValue, canonical_json
from allod.core.files.plain import digest_of_plain_file
from allod.model.gguf.header import read_header
from allod.model.gguf.writer import Tensors, check_kind, write_model
from allod.model.network.llama import Network
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.tokenizer_files import TOKENIZER, TOKENIZER_CONFIG
from allod.model.network.weights import CONFIG, config, load_model, tensors_to_write, write_tensors
from allod.model.releases.licences import joint_licence
from allod.train.exporting.engine import TrialEngine
from allod.train.exporting.export_checks import (
    Sample,
    check_surprises,
    check_tokens,
    engine_surprises,
    network_surprises,
    num_same_answers,
    sample_of,
    texts_to_read,
)
from allod.train.exporting.history import history_keys
from allod.train.recipe import Recipe
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

WEIGHTS = "model.safetensors"  # the one name under which transformers and vLLM look for weights
GENERATION_CONFIG = "generation_config.json"
EXPORT = "export.json"
F16 = "f16"


def run(task: StageTask) -> StageFacts:
    """Writes the safetensors set, `<name>-<kind>.gguf` for f16 and every kind of the recipe, and `export.json`.

    Raises Invalid: `quantise_unsupported`; `tokenizer_mismatch` where the engine reads one text otherwise than the
    tokenizer; `weights_mismatch` where it thinks otherwise of held-out tokens than the network.
    """
    recipe = task.recipe
    network = load_model(task.inputs["tune" if recipe.tune.steps else "pretrain"])
    for kind in kinds_of(recipe):
        check_kind(kind, network.shape)
    keys = history_keys(task.inputs["evaluate"], recipe.name)
    tokenizer = Tokenizer.load(task.inputs["tokenizer"])
    _write_set(task, network, tokenizer, keys)
    trial = _trial(task, network, tokenizer)
    files = [_export(task, trial, kind, keys) for kind in kinds_of(recipe)]
    (task.output / EXPORT).write_bytes(canonical_json(trial.report(files)) + b"\n")
    return {
        "bits_per_token": trial.bits,
        **{f"bits_per_token_{file['kind']}": str(file["bits_per_token"]) for file in files},
        "tokens_measured": trial.sample.num_predicted,
        "texts_read_alike": len(trial.texts),
    }


def kinds_of(recipe: Recipe) -> tuple[str, ...]:
    """The kinds of GGUF that are made: f16, then the recipe's."""
    return tuple(dict.fromkeys((F16, *recipe.export.quantise)))


@dataclass(frozen=True, slots=True)
class _Trial:
    """What every file is measured against. `surprises`: bits of each token of the sample, by the network in f32."""

    network: Network
    tokenizer: Tokenizer
    tokenizer_folder: Path
    sample: Sample
    texts: list[str]
    surprises: list[float]

    @property
    def bits(self) -> float:
        return fmean(self.surprises)

    def report(self, files: list[dict[str, JsonValue]]) -> dict[str, JsonValue]:
        """What `export.json` says."""
        return {
            "files": files,
            "reference": {
                "kind": "f32",
                "bits_per_token": _decimal(self.bits),
                "split": self.sample.split,
                "num_tokens": self.sample.num_predicted,
                "context": len(self.sample.windows[0]),
            },
        }


def _trial(task: StageTask, network: Network, tokenizer: Tokenizer) -> _Trial:
    pack = task.inputs["pack"]
    sample = sample_of(pack, context=network.shape.context)
    task.report("measuring f32", 0, 0)
    return _Trial(
        network=network,
        tokenizer=tokenizer,
        tokenizer_folder=task.inputs["tokenizer"],
        sample=sample,
        texts=texts_to_read(pack, tokenizer),
        surprises=network_surprises(network, sample),
    )


def _write_set(task: StageTask, network: Network, tokenizer: Tokenizer, keys: dict[str, str]) -> None:
    """What transformers and vLLM read."""
    ends = {
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": [tokenizer.im_end, tokenizer.end_of_text],
        "pad_token_id": tokenizer.end_of_text,
    }
    write_tensors(tensors_to_write(network), task.output / WEIGHTS, metadata={"format": "pt", **keys})
    _write_json(task.output / CONFIG, {**config(network.shape), **ends})
    _write_json(task.output / GENERATION_CONFIG, ends)
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        shutil.copyfile(task.inputs["tokenizer"] / name, task.output / name)


def _export(task: StageTask, trial: _Trial, kind: str, keys: dict[str, str]) -> dict[str, JsonValue]:
    """Write one GGUF file and try it. Returns what `export.json` says of it."""
    stop_if_asked(task)
    task.report(f"writing {kind}", 0, 0)
    path = task.output / f"{task.recipe.name}-{kind}.gguf"
    texts = {"general.name": task.recipe.name, "general.license": _licence(task.recipe), **keys}
    network = trial.network
    write_model(path, network.shape, _tensors(network), trial.tokenizer_folder, kind=kind, keys=texts)
    read_header(path)
    task.report(f"trying {kind}", 0, 0)
    with TrialEngine(path, context=network.shape.context + 1, threads=torch.get_num_threads()) as engine:
        check_tokens(engine, trial.tokenizer, trial.texts)
        surprises = engine_surprises(engine, trial.sample)
        ends = (trial.tokenizer.im_end, trial.tokenizer.end_of_text)
        same, prompts = num_same_answers(engine, network, trial.sample, ends)
    if kind == F16:
        check_surprises(surprises, trial.surprises)
    bits = fmean(surprises)
    return {
        "file": path.name,
        "kind": kind,
        "sha256": digest_of_plain_file(path),
        "bytes": path.stat().st_size,
        "bits_per_token": _decimal(bits),
        "bits_above_f32": _decimal(bits - trial.bits),
        "tokenizer": {"texts": len(trial.texts), "mismatches": 0},
        "greedy": {"prompts": prompts, "same_as_f32": same},
    }


def _tensors(network: Network) -> Tensors:
    return {name: tensor.to("cpu", torch.float32).numpy for name, tensor in tensors_to_write(network).items()}


def _licence(recipe: Recipe) -> str:
    """What the sources ask for, all together."""
    return joint_licence([source.licence for source in recipe.sources])


def _decimal(value: float) -> str:
    """To four places: what follows depends on the machine's order of sums."""
    return f"{value:.4f}"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
