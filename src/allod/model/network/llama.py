"""The network: Llama as everybody's tools know it, in as little code as it takes.

Parameter names, arithmetic and its order are those of transformers' `LlamaForCausalLM`: on the same weights in
float32 the logits are the same bits, so what is trained here is served by any engine that reads Llama, without a
conversion to trust.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Head = Callable[[Tensor, Tensor], Tensor]
INITIAL_SPREAD = 0.02
"""Standard deviation of fresh weights, as in GPT-2 and `LlamaConfig.initializer_range`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a network is but for its numbers. `hidden` is the width inside the feed-forward; `tied`: one table."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    context: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def num_parameters(self) -> int:
        """Numbers that are learnt; a tied table counts once."""
        tables = self.vocab * self.width * (1 if self.tied else 2)
        return tables + self.layers * self._num_layer_parameters() + self.width

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of a forward and a backward pass over one token, causal mask not deducted.

        Six for each weight that multiplies (the table of embeddings is only looked up), and twelve for each pair of
        attended position and channel: Chowdhery et al., PaLM (arXiv:2204.02311), appendix B.
        """
        multiplied = self.layers * (self._num_layer_parameters() - 2 * self.width) + self.vocab * self.width
        return 6 * multiplied + 12 * self.layers * self.width * self.context

    def _num_layer_parameters(self) -> int:
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.hidden + 2 * self.width


class Norm(nn.Module):
    """Root mean square norm over the last dimension (arXiv:1910.07467), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, values: Tensor) -> Tensor:
        wide = values.to(torch.float32)
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(values.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions (arXiv:2104.09864) and grouped heads (arXiv:2305.13245)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.grouped = shape.kv_heads < shape.heads
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)

    def forward(self, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, _ = values.shape
        heads = (batch, time, -1, self.head_width)
        query = rotate(self.q_proj(values).view(heads).transpose(1, 2), cos, sin)
        key = rotate(self.k_proj(values).view(heads).transpose(1, 2), cos, sin)
        value = self.v_proj(values).view(heads).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.grouped)
        out: Tensor = self.o_proj(attended.transpose(1, 2).reshape(batch, time, -1))
        return out


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(values)) * self.up_proj(values))
        return out


class Layer(nn.Module):
    """Attention, then feed-forward, each on the normed sum of what came before."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        values = values + self.self_attn(self.input_layernorm(values), cos, sin)
        out: Tensor = values + self.mlp(self.post_attention_layernorm(values))
        return out


class Body(nn.Module):
    """Everything but the last table."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.norm_eps)
        cos, sin = rotations(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.shape[1]
        values = self.embed_tokens(tokens)
        cos, sin = self.cos[:time].to(values.dtype), self.sin[:time].to(values.dtype)
        for layer in self.layers:
            values = layer(values, cos, sin)
        out: Tensor = self.norm(values)
        return out


class Network(nn.Module):
    """`forward`: tokens, int64 [batch, time] → logits [batch, time, vocab]. Weights come from `initialise`.

    Another `head` is given the last values [batch, time, width] and the table [vocab, width], to make of them what it
    will: a loss need not hold all the logits at once.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: Tensor, head: Head = functional.linear) -> Tensor:
        return head(self.model(tokens), self.lm_head.weight)

    def initialise(self, seed: int) -> None:
        """Fill the weights from `seed`: normal, narrower where a layer adds to the sum of all layers (GPT-2)."""
        generator = torch.Generator().manual_seed(seed)
        narrow = INITIAL_SPREAD / (2 * self.shape.layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=narrow if writes else INITIAL_SPREAD, generator=generator)


def rotations(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position: two tables [context, head_width], the second half a copy of the first."""
    channels = torch.arange(0, shape.head_width, 2, dtype=torch.float) / shape.head_width
    frequencies = 1.0 / (shape.rope_theta**channels)
    angles = torch.arange(shape.context)[:, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + half) of [batch, heads, time, head_width] by its position's angle."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
