"""LoRA over an imported model: small matrices that learn beside weights that stay as they are (arXiv:2106.09685).

The model is read from the very GGUF file that is served, so that the adapter learns to correct what the engine runs.
This imports transformers and peft, which takes two seconds; neither may reach a network here (`HF_HUB_OFFLINE=1`).
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.train.tuning.lora_tokens import BaseTokenizer

WEIGHTS = "weights.gguf"
DEVIATION = 2  # `alpha` in ranks: how much what was learnt weighs beside what was there
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Base:
    """The imported model; `encode` is its tokenizer's."""

    def __init__(self, folder: Path) -> None:
        """Read `folder`/weights.gguf. Raises Invalid (`base_not_read`, `base_tokenizer_unknown`) for a file that
        transformers cannot read, or whose texts would be read otherwise than the engine reads them."""
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.encode = BaseTokenizer(folder, WEIGHTS).encode
            self.network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=WEIGHTS, dtype=torch.float32, local_files_only=True
            )
        except (OSError, ValueError, LookupError, struct.error) as error:
            raise Invalid(f"the base model cannot be read: {error}", code="base_not_read") from error

    def shape(self) -> dict[str, JsonValue]:
        """What an engine's format has to know of it: how its rows belong to heads."""
        config = self.network.config
        names = ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "hidden_size")
        return {"model_type": config.model_type, **{name: int(getattr(config, name)) for name in names}}

    def logits(self, tokens: Tensor) -> Tensor:
        """[batch, time] → [batch, time, vocab]."""
        logits: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return logits


class LoraAdapter:
    """What is learnt over a base, on every linear map of its layers. Its first matrices follow from `seed`, the second
    ones are zero: untrained, it changes nothing."""

    def __init__(self, base: Base, name: str, *, rank: int, seed: int) -> None:
        torch.manual_seed(seed)  # peft draws from the process's own generator
        config = LoraConfig(r=rank, lora_alpha=DEVIATION * rank, target_modules=list(_TARGETS), task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that it will drop
            self._network = PeftModel(base.network, config)
        self._config = config
        self._base_name = name
        self.logits: Callable[[Tensor], Tensor] = base.logits  # the layers were replaced in place
        self.parameters = [each for each in self._network.parameters() if each.requires_grad]

    def save(self, folder: Path) -> Path:
        """Write `adapter_model.safetensors` and `adapter_config.json` as peft reads them, and nothing that depends on
        where or when. Returns the path of the weights."""
        state = peft.get_peft_model_state_dict(self._network)
        path = folder / "adapter_model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in sorted(state.items())}, path, {"format": "pt"})
        config = {
            **self._config.to_dict(),  # type: ignore[no-untyped-call]
            "base_model_name_or_path": self._base_name,
            "inference_mode": True,
            "target_modules": sorted(_TARGETS),  # a set, in no order
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        return path
