"""Training's own libraries inside the island: what they need works, and gives what it gives outside."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from allod.seal.launch import SealOptions, python_read_paths, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]

STEPS = """
import json, sys, tempfile
import torch, numpy, safetensors.torch
torch.manual_seed(1)
network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8))
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
for _ in range(5):
    loss = network(torch.randn(32, 64)).square().mean()
    optimiser.zero_grad(); loss.backward(); optimiser.step()
path = tempfile.gettempdir() + "/weights.safetensors"
safetensors.torch.save_file(network.state_dict(), path)
loaded = safetensors.torch.load_file(path)
assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())
print(json.dumps([torch.backends.cpu.get_cpu_capability(), float(loss.detach()).hex()]))
"""

RANKS = """
import os, sys
import torch, torch.distributed as dist
from allod.fleet.leaving import leave
from torch.distributed.fsdp import fully_shard
import torch.distributed.checkpoint as checkpoint
dist.init_process_group("gloo")
torch.manual_seed(1)
network = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 8))
fully_shard(network)
for _ in range(3):
    network(torch.ones(4, 16)).square().mean().backward()
checkpoint.save({"network": network.state_dict()}, checkpoint_id=os.path.join(sys.argv[1], "checkpoint"))
total = torch.ones(1)
dist.all_reduce(total)
if dist.get_rank() == 0:
    print(int(total), os.path.exists(os.path.join(sys.argv[1], "checkpoint", ".metadata")))
dist.barrier()
dist.destroy_process_group()
leave(0)
"""

OTHERS = """
import tokenizers
tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, show_progress=False)
tokenizer.train_from_iterator(["one and another"] * 1000, trainer)
import xllamacpp
from torch.utils.data import DataLoader
print(len(list(DataLoader(list(range(10)), num_workers=2))))
"""


def environment(folder: Path) -> dict[str, str]:
    names = ("HOME", "TMPDIR")
    return {**dict.fromkeys(names, str(folder)), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def inside(tmp_path: Path, *arguments: str) -> str:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    process = start(
        SealOptions(
            command=(sys.executable, "-P", *arguments),
            profile="island",
            read_paths=(*python_read_paths(), tmp_path),
            scratch_dir=scratch,
            environment=environment(scratch),
            log_path=tmp_path / "log",
            max_file_bytes=1 << 42,
        )
    )
    status = process.wait(180)
    process.terminate()
    assert status == 0, (tmp_path / "log").read_text()
    return (tmp_path / "log").read_text().splitlines()[-1]


def test_training_gives_the_same_numbers_inside_and_outside(tmp_path: Path) -> None:
    """The same instructions are chosen (torch looks at the processor) and the last bit of the loss agrees."""
    words = [sys.executable, "-P", "-c", STEPS]
    outside = subprocess.run(words, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert json.loads(inside(tmp_path, "-c", STEPS)) == json.loads(outside.stdout.splitlines()[-1])


def test_two_ranks_shard_a_network_over_loopback(tmp_path: Path) -> None:
    """torchrun, gloo, FSDP2 and a distributed checkpoint in one island."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert inside(tmp_path, *ranks, str(script), str(tmp_path / "scratch")) == "2 True"


def test_what_else_stages_use_works(tmp_path: Path) -> None:
    """Curves, the tokenizer's threads, the engine in process, and workers that hand each other memory."""
    assert inside(tmp_path, "-c", OTHERS) == "10"
