"""The peer that training is measured against: a plain loop in the manner of nanoGPT, written out here in full.

One file, one network, AdamW: what a careful person writes first. The network has the arithmetic of ours (Llama: RMS
norm, rotary positions, SwiGLU, tied tables) and nanoGPT's habits: queries, keys and values in one product, the loss
inside `forward`, gradients clipped at 1, decay on matrices only. It knows no checkpoints, no lineage and no stopping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from allod.model.network.llama import Shape


class PlainAttention(nn.Module):
    """Causal attention with one product for queries, keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (
            part.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(turned(q, cos, sin), turned(k, cos, sin), v, is_causal=True)
        mixed: Tensor = self.out(y.transpose(1, 2).reshape(batch, time, width))
        return mixed


class PlainBlock(nn.Module):
    """Attention, then SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(shape.width, eps=1e-5), nn.RMSNorm(shape.width, eps=1e-5)
        self.attention = PlainAttention(shape)
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x), cos, sin)
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(functional.silu(gate) * up)
        return out


class PlainLlama(nn.Module):
    """`forward`: tokens and targets, [batch, time] → loss."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(PlainBlock(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.head.weight = self.embed.weight
        half = shape.width // shape.heads // 2
        angles = torch.arange(shape.context)[:, None] / shape.rope_theta ** (torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(tokens)
        cos, sin = self.cos[: tokens.shape[1]].to(x.dtype), self.sin[: tokens.shape[1]].to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.size(-1)).float(), targets.view(-1))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on [batch, heads, time, channels]."""
    one, other = x.chunk(2, dim=-1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)


def adamw(network: nn.Module, *, rate: float) -> torch.optim.AdamW:
    """nanoGPT's optimiser: decay on matrices only, fused."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def plain_steps(
    network: nn.Module,
    batch_of: Callable[[int], tuple[Tensor, Tensor]],
    *,
    rate: float,
    device: str,
    piece_rows: int = 1 << 30,
) -> Iterator[float]:
    """Train for ever, one step at each turn; the loss of each, read every ten steps as nanoGPT does (else NaN).

    A batch goes through the network in pieces of `piece_rows`, and their gradients are added up.
    """
    forward = torch.compile(network) if device == "cuda" else network
    optimiser = adamw(network, rate=rate)
    step = 0
    while True:
        tokens, targets = batch_of(step)
        pieces = list(zip(tokens.split(piece_rows), targets.split(piece_rows), strict=True))  # type: ignore[no-untyped-call]
        for piece in pieces:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = forward(*piece) / len(pieces)
            loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield loss.item() * len(pieces) if step % 10 == 0 else float("nan")
        step += 1
