"""The Transformer ("Attention Is All You Need", 2017), both shapes of it: tokens in, scores for each next token out.

    tokens → embedding + positions → decoder blocks → norm → linear → logits (their softmax: the next token's chances)
                                          ↑ cross-attention
    source → embedding + positions → encoder blocks → norm                          the encoder–decoder alone

Shapes: B sequences, T tokens, S source tokens, W the width, V the vocabulary. Blocks are in ``blocks.py``.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.text.blocks import ActivationName, Block, Embedding, NormName, PositionName, make_norm
from splatlearn.text.cache import Cache
from splatlearn.text.linear import Linear
from splatlearn.text.positions import rotations


class Transformer(torch.nn.Module):
    """A decoder, or an encoder and a decoder where ``config.encoder_layers`` is above 0.

    Args:
        config: see `Config`; `preset` has known ones.
        generator: draws the first weights (on the CPU, so that a seed means the same everywhere); None: PyTorch's own.

    Raises:
        SplatlearnError: sizes that do not fit.
    """

    @dataclass
    class Config:
        """Sizes and choices."""

        vocabulary: int = key(0, "kinds of tokens; 0 takes the tokenizer's")
        context: int = key(64, "tokens that it sees at once")
        width: int = key(128, "values of a token")
        heads: int = key(4, "heads of an attention; they divide the width")
        layers: int = key(4, "blocks of the decoder")
        encoder_layers: int = key(0, "blocks of an encoder, for pairs; 0: there is none")
        feed_forward: int = key(0, "values within a feed-forward layer; 0: four times the width")
        position: PositionName = key("learned", "how a token knows its place")
        norm_first: bool = key(True, "normalise before a sub-layer rather than after it, as in the paper")
        norm: NormName = key("layer", "LayerNorm or RMSNorm")
        activation: ActivationName = key("gelu", "the bend of a feed-forward layer")
        tie_weights: bool = key(True, "the last linear layer is the token embedding again")
        dropout: float = key(0.0, "share of a sub-layer's answer, and of the embedding, that training drops")
        attention_dropout: float = key(0.0, "share of attention's weights that training drops, too; slow on a CPU")
        bias: bool = key(False, "linear layers and LayerNorms also add a vector")
        attention: Literal["fused", "written"] = key("fused", "PyTorch's attention, or the one written out")

        def __post_init__(self) -> None:
            for name in ("context", "width", "heads", "layers"):
                if getattr(self, name) < 1:
                    raise SplatlearnError(f"'model.{name}' must be at least 1, got {getattr(self, name)}")
            for name in ("vocabulary", "encoder_layers", "feed_forward"):
                if getattr(self, name) < 0:
                    raise SplatlearnError(f"'model.{name}' must be at least 0, got {getattr(self, name)}")
            if self.width % self.heads:
                raise SplatlearnError(f"'model.heads' must divide the width {self.width}, got {self.heads}")
            if self.position == "rotary" and self.width // self.heads % 2:
                size = self.width // self.heads
                raise SplatlearnError(f"rotary positions need an even number of values a head, got {size}")
            for name in ("dropout", "attention_dropout"):
                if not 0 <= getattr(self, name) < 1:
                    raise SplatlearnError(f"'model.{name}' must be at least 0 and below 1, got {getattr(self, name)}")

    rotations: Tensor | None

    @classmethod
    def preset(cls, name: str, vocabulary: int) -> "Transformer.Config":
        """The config called tiny (0.8 M parameters), small (10.7 M) or gpt2 (124 M with its vocabulary of 50,257)."""
        if name not in PRESETS:
            raise SplatlearnError(f"a preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls.Config(vocabulary=vocabulary, **PRESETS[name])

    @staticmethod
    def from_gpt2(path: Path | str) -> "Transformer":
        """GPT-2's public weights, from a local safetensors file or its folder; see ``gpt2.py``."""
        from splatlearn.text.gpt2 import load_gpt2

        return load_gpt2(path)

    def __init__(self, config: Config, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if config.vocabulary < 1:
            raise SplatlearnError(f"a Transformer's 'vocabulary' must be at least 1, got {config.vocabulary}")
        self.config = config = dataclasses.replace(config)
        width = config.width
        self.embedding = Embedding(config.vocabulary, config.context, width, config.position, config.dropout)
        turned = rotations(config.context, width // config.heads) if config.position == "rotary" else None
        self.register_buffer("rotations", turned, persistent=False)
        self.encoder = torch.nn.ModuleList(_block(config, cross=False) for _ in range(config.encoder_layers))
        self.encoder_norm = _last_norm(config) if config.encoder_layers else torch.nn.Identity()
        crossed = config.encoder_layers > 0
        self.decoder = torch.nn.ModuleList(_block(config, cross=crossed) for _ in range(config.layers))
        self.norm = _last_norm(config)
        self.head = Linear(width, config.vocabulary, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.tokens.weight
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Normal weights of variance 2 / 5W; what ends in a sum over depth is smaller by the root of its terms' number.

        So the sum's variance does not grow with depth (as GPT-2 does it); 0.0228 at its width.
        """
        deviation = math.sqrt(2 / (5 * self.config.width))
        terms = {"encoder": 2 * self.config.encoder_layers, "decoder": 2 * self.config.layers}
        terms["decoder"] += self.config.layers * (self.config.encoder_layers > 0)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                ends = name.endswith(("mix.weight", "narrow.weight"))
                scale = terms[name.split(".")[0]] ** -0.5 if ends else 1.0
                drawn = torch.empty(parameter.shape).normal_(0.0, deviation * scale, generator=generator)
                parameter.copy_(drawn)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self,
        tokens: Tensor,
        *,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Scores of every next token.

        Args:
            tokens: [B, T] int64, below the vocabulary; with a cache, the new ones alone, and it is advanced.
            source: [B, S] int64, what the encoder reads; with a cache it is needed in the first call alone.
            source_mask: [B, S] bool, True for real tokens, of which each row has one at least; None: all are.

        Returns:
            Logits [B, T, V]; those of a token depend on it and on earlier ones, never on later ones.

        Raises:
            SplatlearnError: tokens are of another kind or more than the context holds; a source without an encoder, or
                an encoder without a source.
        """
        memories, mask = self._memories(source, source_mask, cache)
        return self.head(self.norm(self._decoded(tokens, memories, mask, cache)))  # type: ignore[no-any-return]

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The encoder's answer [B, S, W] to ``source`` [B, S], of which ``source_mask`` says what is real."""
        if not self.config.encoder_layers:
            raise SplatlearnError("this Transformer has no encoder, so that it takes no source")
        x = self._embedded(source, 0, "source")
        rotation = None if self.rotations is None else self.rotations[: source.shape[1]]
        mask = None if source_mask is None else source_mask[:, None, None, :]
        for block in self.encoder:
            x = block(x, mask, rotation=rotation)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def attention_weights(
        self, tokens: Tensor, *, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> list[Tensor]:
        """Of each decoder layer [B, H, T, T]: in row t, how much token t takes from each; rows sum to 1."""
        kept: list[Tensor] = []
        memories, mask = self._memories(source, source_mask, None)
        self._decoded(tokens, memories, mask, None, kept)
        return kept

    def _memories(
        self, source: Tensor | None, source_mask: Tensor | None, cache: Cache | None
    ) -> tuple[list[tuple[Tensor, Tensor] | None], Tensor | None]:
        """Keys and values of the source for each decoder layer, from the cache if they are there; and its mask."""
        if source is not None:
            encoded = self.encode(source, source_mask)
            mask = None if source_mask is None else source_mask[:, None, None, :]
            found = [cast(Block, block).memory(encoded) for block in self.decoder]
            if cache is not None:
                cache.source_mask = mask
                for layer, pair in zip(cache.layers, found, strict=True):
                    layer.memory = pair
            return found, mask
        if cache is not None and cache.layers[0].memory is not None:
            return [layer.memory for layer in cache.layers], cache.source_mask
        if self.config.encoder_layers:
            raise SplatlearnError("this Transformer has an encoder, so that it needs a source")
        return [None] * len(self.decoder), None

    def _decoded(
        self,
        tokens: Tensor,
        memories: list[Any],
        memory_mask: Tensor | None,
        cache: Cache | None,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """[B, T, W]: the decoder's answer before its last norm."""
        start, count = (0 if cache is None else cache.length), tokens.shape[-1]
        x = self._embedded(tokens, start, "tokens")
        rotation = None if self.rotations is None else self.rotations[start : start + count]
        mask = None
        if start and count > 1:  # token t of the new ones sees start + t + 1
            mask = torch.ones(count, start + count, dtype=torch.bool, device=tokens.device).tril(start)
        causal = start == 0 and count > 1  # one token sees all there are
        for index, block in enumerate(self.decoder):
            layer = None if cache is None else cache.layers[index]
            x = block(x, mask, causal, rotation, memories[index], memory_mask, layer, keep)
        return x

    def _embedded(self, tokens: Tensor, start: int, name: str) -> Tensor:
        if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
            got = f"{tokens.dtype} {list(tokens.shape)}"
            raise SplatlearnError(f"'{name}' must be int64 of shape [B, T] with at least one token, got {got}")
        if start + tokens.shape[1] > self.config.context:
            before = f" after {start} in the cache" if start else ""
            count, context = tokens.shape[1], self.config.context
            raise SplatlearnError(f"'{name}' must fit the context of {context} tokens, got {count}{before}")
        try:
            return self.embedding(tokens, start)  # type: ignore[no-any-return]
        except IndexError:
            least, most = int(tokens.min()), int(tokens.max())
            raise SplatlearnError(
                f"'{name}' must be from 0 to {self.config.vocabulary - 1}, got values from {least} to {most}"
            ) from None


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"context": 64, "width": 128, "heads": 4, "layers": 4},
    "small": {"context": 256, "width": 384, "heads": 6, "layers": 6, "dropout": 0.2, "attention_dropout": 0.2},
    "gpt2": {"context": 1024, "width": 768, "heads": 12, "layers": 12, "activation": "gelu_tanh", "bias": True},
}


def _block(config: Transformer.Config, cross: bool) -> Block:
    return Block(
        config.width,
        config.heads,
        config.feed_forward or 4 * config.width,
        cross=cross,
        norm_first=config.norm_first,
        norm=config.norm,
        activation=config.activation,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        bias=config.bias,
        written=config.attention == "written",
    )


def _last_norm(config: Transformer.Config) -> torch.nn.Module:
    """Where norms come first, nothing has normalised the last sum yet."""
    return make_norm(config.norm, config.width, config.bias) if config.norm_first else torch.nn.Identity()
