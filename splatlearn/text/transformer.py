"""The Transformer ("Attention Is All You Need", 2017), decoder-only or encoder-decoder: tokens in, logits out.

    tokens → embedding + positions → decoder blocks → norm → linear → logits (softmax: next-token probabilities)
                                          ↑ cross-attention
    source → embedding + positions → encoder blocks → norm                          encoder-decoder only

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
from splatlearn.text.gpt2 import GPT2File
from splatlearn.text.linear import Linear
from splatlearn.text.positions import rotations
from splatlearn.text.weights import current_names

MOST_LAYERS = 1000


class Transformer(torch.nn.Module):
    """A decoder, or an encoder and a decoder where ``config.encoder_layers`` is above 0.

    Args:
        config: see `Config`; `preset` has known ones.
        generator: of the initial weights, on the CPU so that a seed gives the same weights everywhere; None: PyTorch's
            default.

    Raises:
        SplatlearnError: the sizes do not fit together.
    """

    @dataclass
    class Config:
        """Sizes and choices."""

        vocabulary: int = key(0, "vocabulary size; 0 takes the tokenizer's")
        context: int = key(64, "context length in tokens")
        width: int = key(128, "width of the embeddings")
        heads: int = key(4, "attention heads; must divide the width")
        layers: int = key(4, "decoder blocks")
        encoder_layers: int = key(0, "encoder blocks, for pairs; 0: no encoder")
        feed_forward: int = key(0, "hidden width of a feed-forward layer; 0: four times the width")
        position: PositionName = key("learned", "position encoding")
        norm_first: bool = key(True, "normalise before each sub-layer; false: after it, as in the paper")
        norm: NormName = key("layer", "LayerNorm or RMSNorm")
        activation: ActivationName = key("gelu", "activation of a feed-forward layer")
        tie_weights: bool = key(True, "the output layer shares the weights of the token embedding")
        dropout: float = key(0.0, "dropout of each sub-layer's output and of the embedding")
        attention_dropout: float = key(0.0, "dropout of the attention weights; slow on a CPU")
        bias: bool = key(False, "linear layers and LayerNorms have a bias")
        attention: Literal["fused", "written"] = key("fused", "PyTorch's fused attention, or the written-out one")

        def __post_init__(self) -> None:
            for name in ("context", "width", "heads", "layers"):
                if getattr(self, name) < 1:
                    raise SplatlearnError(f"'model.{name}' must be at least 1, got {getattr(self, name)}")
            for name in ("vocabulary", "encoder_layers", "feed_forward"):
                if getattr(self, name) < 0:
                    raise SplatlearnError(f"'model.{name}' must be at least 0, got {getattr(self, name)}")
            for name in ("layers", "encoder_layers"):
                if getattr(self, name) > MOST_LAYERS:
                    raise SplatlearnError(f"'model.{name}' must be at most {MOST_LAYERS}, got {getattr(self, name)}")
            if self.width % self.heads:
                raise SplatlearnError(f"'model.heads' must divide the width {self.width}, got {self.heads}")
            if self.position == "rotary" and self.width // self.heads % 2:
                size = self.width // self.heads
                raise SplatlearnError(f"rotary positions need an even number of values per head, got {size}")
            for name in ("dropout", "attention_dropout"):
                if not 0 <= getattr(self, name) < 1:
                    raise SplatlearnError(f"'model.{name}' must be at least 0 and below 1, got {getattr(self, name)}")

    rotations: Tensor | None

    @classmethod
    def preset(cls, name: str, vocabulary: int) -> "Transformer.Config":
        """The config named tiny (0.8 M parameters), small (10.7 M) or gpt2 (124 M with its vocabulary of 50,257).

        Raises:
            SplatlearnError: the name is unknown.
        """
        if name not in PRESETS:
            raise SplatlearnError(f"a preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls.Config(vocabulary=vocabulary, **PRESETS[name])

    @staticmethod
    def from_gpt2(path: Path | str) -> "Transformer":
        """GPT-2 with its public weights, in eval mode, float32.

        The number of heads is read from a ``config.json`` beside the file. Without one, a head has 64 values, as in all
        public sizes.

        Args:
            path: a safetensors file, or a folder that holds ``model.safetensors``.

        Raises:
            SplatlearnError: the file is not GPT-2's; the message names file and tensor.
        """
        file = GPT2File(Path(path))
        with torch.random.fork_rng(devices=[]):
            model = Transformer(Transformer.Config(**file.sizes))
        file.load_into(model)
        return model.eval()

    def __init__(self, config: Config, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if config.vocabulary < 1:
            raise SplatlearnError(f"a Transformer's 'vocabulary' must be at least 1, got {config.vocabulary}")
        self.config = config = dataclasses.replace(config)
        width = config.width
        self.embedding = Embedding(config.vocabulary, config.context, width, config.position, config.dropout)
        table = rotations(config.context, width // config.heads) if config.position == "rotary" else None
        self.register_buffer("rotations", table, persistent=False)
        self.encoder = torch.nn.ModuleList(_block(config, cross=False) for _ in range(config.encoder_layers))
        self.encoder_norm = _last_norm(config) if config.encoder_layers else torch.nn.Identity()
        cross = config.encoder_layers > 0
        self.decoder = torch.nn.ModuleList(_block(config, cross=cross) for _ in range(config.layers))
        self.norm = _last_norm(config)
        self.head = Linear(width, config.vocabulary, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.token_embedding.weight
        self.register_load_state_dict_pre_hook(_rename_old_keys)
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Draw normal weights of variance 2 / 5W, a standard deviation of 0.0228 at GPT-2's width.

        Layers that add to the residual stream are divided by the square root of the number of such layers, as in GPT-2,
        so that the variance of the stream does not grow with depth.
        """
        deviation = math.sqrt(2 / (5 * self.config.width))
        terms = {"encoder": 2 * self.config.encoder_layers, "decoder": 2 * self.config.layers}
        terms["decoder"] += self.config.layers * (self.config.encoder_layers > 0)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("o_proj.weight", "fc2.weight"))
                scale = terms[name.split(".")[0]] ** -0.5 if residual else 1.0
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
        """Logits of every next token.

        Args:
            tokens: [B, T] int64, below the vocabulary; with a cache, only the new ones, which are appended to it.
            source: [B, S] int64, the encoder's input; with a cache it is needed only in the first call.
            source_mask: [B, S] bool, True for real tokens, at least one per row; None: all are real.

        Returns:
            Logits [B, T, V]; those of a token depend on this and earlier tokens only.

        Raises:
            SplatlearnError: tokens of a wrong dtype, shape or value, or more than the context length; a source without
                an encoder, or an encoder without a source.
        """
        memories, mask = self._memories(source, source_mask, cache)
        return self.head(self.norm(self._decoded(tokens, memories, mask, cache)))  # type: ignore[no-any-return]

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The encoder's output [B, S, W] for ``source`` [B, S]; ``source_mask`` [B, S] is True for real tokens."""
        if not self.config.encoder_layers:
            raise SplatlearnError("this Transformer has no encoder: it takes no 'source'")
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
        """Self-attention weights of each decoder layer, [B, H, T, T]; row t holds those of query t and sums to 1."""
        kept: list[Tensor] = []
        memories, mask = self._memories(source, source_mask, None)
        self._decoded(tokens, memories, mask, None, kept)
        return kept

    def _memories(
        self, source: Tensor | None, source_mask: Tensor | None, cache: Cache | None
    ) -> tuple[list[tuple[Tensor, Tensor] | None], Tensor | None]:
        """Keys and values of the source for each decoder layer, from the cache if it has them, and the source mask."""
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
            raise SplatlearnError("this Transformer has an encoder: it needs a 'source'")
        return [None] * len(self.decoder), None

    def _decoded(
        self,
        tokens: Tensor,
        memories: list[Any],
        memory_mask: Tensor | None,
        cache: Cache | None,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """The decoder's output before its last norm, [B, T, W]."""
        start, count = (0 if cache is None else cache.length), tokens.shape[-1]
        x = self._embedded(tokens, start, "tokens")
        rotation = None if self.rotations is None else self.rotations[start : start + count]
        mask = None
        if start and count > 1:  # new token t attends to start + t + 1 tokens
            mask = torch.ones(count, start + count, dtype=torch.bool, device=tokens.device).tril(start)
        causal = start == 0 and count > 1  # a single token attends to all tokens so far
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
    """The norm after the last block: with pre-norm blocks, nothing has normalised the last sum."""
    return make_norm(config.norm, config.width, config.bias) if config.norm_first else torch.nn.Identity()


def _rename_old_keys(module: torch.nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Give the keys of an older state dict, which `load_state_dict` has copied, their current names."""
    renamed = current_names(state_dict)
    state_dict.clear()
    state_dict.update(renamed)
