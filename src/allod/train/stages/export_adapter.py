"""Stage `export_adapter`: a LoRA adapter as the engine loads it beside its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.core.files.plain import digest_of_plain_file
from allod.model.gguf.adaptable import ADAPTABLE
from allod.model.gguf.header import read_header
from allod.model.gguf.writer import Tensors, write_adapter
from allod.train.exporting.engine import TrialEngine
from allod.train.exporting.history import BASE, history_keys
from allod.train.stage_task import StageFacts, StageTask

ADAPTER = "adapter.gguf"
EXPORT = "export.json"
_CONTEXT = 512  # for the engine, which is only to load it
_PLAIN: Mapping[str, Any] = {  # what the engine's own LoRA can do, in peft's words
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
}


def run(task: StageTask) -> StageFacts:
    """Writes `adapter.gguf`, in f32, and `export.json`.

    Reads what `adapt` left: the adapter in peft's two files, and `base.json` with the heads of its base. Where
    `task.inputs["base"]` holds `weights.gguf`, the engine loads the adapter over it. Raises Invalid
    (`adapter_unsupported`) for what no engine would load as it was learnt, `engine_refused` if it does not.
    """
    folder, path = task.inputs["adapt"], task.output / ADAPTER
    learnt, base = _config(folder), _read(folder / "base.json")
    keys = history_keys(folder, task.recipe.name)
    texts = {"general.name": task.recipe.name, **keys}
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
            tensors: Tensors = {name: partial(file.get_tensor, name) for name in sorted(file.keys())}
            write_adapter(
                path,
                tensors,
                architecture=_architecture(base),
                heads=base["num_attention_heads"],
                kv_heads=base["num_key_value_heads"],
                alpha=learnt["lora_alpha"],
                keys=texts,
            )
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise _refusal(f"it cannot be read: {error}") from error
    header = read_header(path, is_adapter=True)
    if "base" in task.inputs:
        TrialEngine(task.inputs["base"] / "weights.gguf", context=_CONTEXT, adapter=path).close()
    digest = digest_of_plain_file(path)
    told: dict[str, JsonValue] = {"file": path.name, "kind": "f32", "sha256": digest, "bytes": path.stat().st_size}
    (task.output / EXPORT).write_bytes(canonical_json({"base": keys.get(BASE), "files": [told]}) + b"\n")
    return {"rank": learnt["r"], "parameters": header.num_parameters}


def _architecture(base: Mapping[str, Any]) -> str:
    if base["model_type"] not in ADAPTABLE:
        raise _refusal(
            f"its base is a {base['model_type']}, and the engine applies adapters to {' and '.join(ADAPTABLE)}"
        )
    return str(base["model_type"])


def _config(folder: Path) -> Mapping[str, Any]:
    """peft's configuration, if it is of an adapter that the engine can apply."""
    value = _read(folder / "adapter_config.json")
    odd = [name for name, wanted in _PLAIN.items() if value.get(name, wanted) != wanted]
    odd += [name for name in ("rank_pattern", "alpha_pattern", "modules_to_save") if value.get(name)]
    if odd:
        raise _refusal(f"its {odd[0]} is {value[odd[0]]!r}")
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _refusal(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise _refusal(f"{path.name} holds no object")
    return value


def _refusal(why: str) -> Invalid:
    return Invalid(f"the adapter cannot be exported: {why}", code="adapter_unsupported")
