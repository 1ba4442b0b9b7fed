"""Every block of the Transformer against an oracle that somebody else wrote, or the formula written out."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import splatlearn
from splatlearn.errors import SplatlearnError
from splatlearn.text.attention import Attention, attend, attend_written
from splatlearn.text.blocks import AddNorm, Block, Embedding, FeedForward, make_norm
from splatlearn.text.cache import Cache
from splatlearn.text.linear import Linear, linear
from splatlearn.text.positions import rotate, rotations, sinusoids
from splatlearn.text.transformer import Transformer

CHOICES: list[dict[str, Any]] = [
    {"position": "learned"},
    {"position": "sinusoidal", "norm_first": False, "activation": "relu", "bias": True},
    {"position": "rotary", "norm": "rms", "tie_weights": False, "attention": "written"},
    {"position": "rotary", "encoder_layers": 2, "activation": "gelu_tanh"},
    {"position": "sinusoidal", "encoder_layers": 1, "norm_first": False, "norm": "rms", "bias": True},
]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tokens_of(*shape: int, below: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def small(seed: int = 0, **choices: Any) -> Transformer:
    sizes = {"vocabulary": 11, "context": 12, "width": 16, "heads": 4, "layers": 2}
    return Transformer(Transformer.Config(**{**sizes, **choices}), torch.Generator().manual_seed(seed))


def sources(model: Transformer, batch: int) -> dict[str, Tensor]:
    """What a model with an encoder reads besides; the second row has two tokens that are not real."""
    if not model.config.encoder_layers:
        return {}
    mask = torch.ones(batch, 5, dtype=torch.bool)
    mask[1:, 3:] = False
    return {"source": tokens_of(batch, 5, seed=9), "source_mask": mask}


# ---- the linear map ----


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (0, 7), (1, 1, 7)])
def test_linear_is_pytorchs(shape: tuple[int, ...], bias: bool) -> None:
    ours, theirs = ([drawn(*shape), drawn(5, 7, seed=1), drawn(5, seed=2) if bias else None] for _ in range(2))
    results = []
    for function, values in ((linear, ours), (F.linear, theirs)):
        leaves = [value.requires_grad_() for value in values if value is not None]
        y = function(*values)  # type: ignore[operator]
        gradients = torch.autograd.grad(y, leaves, drawn(*y.shape, seed=3))
        results.append([y, *gradients])
    for mine, oracle in zip(*results, strict=True):
        assert mine.shape == oracle.shape, "a shape is another"
        assert torch.allclose(mine, oracle, atol=1e-5), "the product of oneDNN, or its gradient, is another"


def test_linear_can_be_differentiated_twice() -> None:
    """Landscapes need Hessians, of which a function that is differentiable once drops out without an error."""
    found = []
    for function in (linear, F.linear):
        x, weight = drawn(3, 7).requires_grad_(), drawn(5, 7, seed=1).requires_grad_()
        (slope,) = torch.autograd.grad(function(x, weight).pow(3).sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(slope.pow(2).sum(), [x, weight]))
    for mine, oracle in zip(*found, strict=True):
        assert torch.allclose(mine, oracle, rtol=1e-3, atol=1e-2), "the second derivative is another"


# ---- positions ----


def test_sinusoids_are_those_of_the_formula() -> None:
    table = sinusoids(50, 16)
    for place, i in [(0, 0), (1, 0), (7, 3), (49, 7)]:
        angle = place / 10000 ** (2 * i / 16)
        assert table[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6), "an even column is no sine"
        assert table[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6), "an odd one is no cosine"
    assert sinusoids(5, 7).shape == (5, 7), "an odd width does not fit"


def test_rotations_turn_pairs_and_keep_distances() -> None:
    x = drawn(1, 20, 1, 1, 8, dtype=torch.float64)
    turned = rotate(x, rotations(20, 8))
    angle = 5 / 10000 ** (2 / 8)
    first, second = x[0, 5, 0, 0, 2:4].tolist()
    expected = [first * math.cos(angle) - second * math.sin(angle), first * math.sin(angle) + second * math.cos(angle)]
    assert turned[0, 5, 0, 0, 2:4].tolist() == pytest.approx(expected, abs=1e-6), "pair 1 is turned by another angle"
    same = drawn(1, 1, 1, 1, 8, dtype=torch.float64).expand(1, 20, 1, 1, 8)
    q = rotate(same, rotations(20, 8))[0, :, 0, 0]
    scores = q @ q.T
    assert torch.allclose(scores.diagonal(3), scores[0, 3].expand(17), atol=1e-5), "a score depends on the place"
    assert not torch.allclose(scores.diagonal(3), scores.diagonal(4)[:1]), "a score does not depend on the distance"


def test_the_rotation_that_is_compiled_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, turned = drawn(2, 5, 2, 3, 8), rotations(5, 8)
    eager = rotate(x, turned)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(rotate(x, turned), eager, atol=1e-6), "compiled models turn pairs otherwise"


def test_the_embedding_adds_what_it_should() -> None:
    for position in ("learned", "sinusoidal", "rotary"):
        block = Embedding(11, 12, 16, position, 0.0)
        tokens = tokens_of(2, 4)
        x = block.token_embedding.weight[tokens]
        if block.position_embedding is not None:
            x = x + block.position_embedding.weight[3:7]
        if position == "sinusoidal":
            x = x * 4.0 + sinusoids(12, 16)[3:7]
        assert torch.allclose(block(tokens, 3), x), f"{position} positions are added in another way"


# ---- attention ----

MASKS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "all": lambda t, s: {},
    "causal": lambda t, s: {"causal": True},
    "padding": lambda t, s: {"mask": (torch.arange(s) < s - 2)[None, None, None, :]},
    "lower right": lambda t, s: {"mask": torch.ones(t, s, dtype=torch.bool).tril(s - t)},
    "a row that sees none": lambda t, s: {"mask": torch.arange(t)[:, None] > torch.zeros(s, dtype=torch.int64)},
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_attention_is_the_written_one(kind: str, dtype: torch.dtype) -> None:
    length = 6
    asks = 6 if kind == "causal" else 4
    q = drawn(2, 3, asks, 8, dtype=dtype).requires_grad_()
    k, v = (drawn(2, 3, length, 8, seed=seed, dtype=dtype).requires_grad_() for seed in (1, 2))
    chosen = MASKS[kind](asks, length)
    fused, (written, weights) = attend(q, k, v, **chosen), attend_written(q, k, v, **chosen)
    assert torch.allclose(fused, written, atol=1e-5), "the fused attention gives another answer"
    sums = weights.sum(dim=-1)
    assert torch.allclose(sums, torch.ones_like(sums)) or kind == "a row that sees none", "weights do not sum to 1"
    pull = drawn(*fused.shape, seed=3, dtype=dtype)
    for mine, oracle in zip(*(torch.autograd.grad(y, [q, k, v], pull) for y in (fused, written)), strict=True):
        assert torch.allclose(mine, oracle, atol=1e-5), "a gradient through the fused attention is another"


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_pytorchs_module(bias: bool) -> None:
    ours = Attention(16, 4, bias=bias)
    theirs = torch.nn.MultiheadAttention(16, 4, bias=bias, batch_first=True)
    copy_attention(ours, theirs)
    x, memory = drawn(2, 5, 16), drawn(2, 7, 16, seed=1)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, shares = theirs(x, x, x, attn_mask=causal, average_attn_weights=False)
    kept: list[Tensor] = []
    assert torch.allclose(ours(x, causal=True), expected, atol=1e-5), "self-attention is another"
    assert torch.allclose(ours(x, causal=True, keep=kept), expected, atol=1e-5), "keeping weights changes the answer"
    assert torch.allclose(kept[0], shares, atol=1e-5), "the weights kept are not those of nn.MultiheadAttention"
    pad = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    expected, _ = theirs(x, memory, memory, key_padding_mask=pad)
    found = ours.cross(x, *ours.keys_and_values(memory), mask=~pad[:, None, None, :])
    assert torch.allclose(found, expected, atol=1e-5), "cross-attention differs from nn.MultiheadAttention"


def copy_attention(ours: Attention, theirs: torch.nn.MultiheadAttention) -> None:
    """Gives both the same weights, drawn anew, biases too."""
    with torch.no_grad():
        for seed, (mine, other) in enumerate(
            [
                (ours.qkv_proj.weight, theirs.in_proj_weight),
                (ours.o_proj.weight, theirs.out_proj.weight),
                (ours.qkv_proj.bias, theirs.in_proj_bias),
                (ours.o_proj.bias, theirs.out_proj.bias),
            ]
        ):
            if mine is not None:
                other.copy_(drawn(*mine.shape, seed=10 + seed) * 0.3)
                mine.copy_(other)


# ---- the whole against nn.Transformer ----


def copy_blocks(ours: torch.nn.ModuleList, theirs: Any) -> None:
    """Gives the layers of both the same weights, drawn anew."""
    with torch.no_grad():
        for block, layer in zip(ours, theirs, strict=True):
            assert isinstance(block, Block)
            copy_attention(block.attention, layer.self_attn)
            pairs: list[tuple[Any, Any]] = [
                (block.feed_forward.fc1, layer.linear1),
                (block.feed_forward.fc2, layer.linear2),
                (block.add_attention.norm, layer.norm1),
            ]
            if block.cross is not None and block.add_cross is not None:
                copy_attention(block.cross, layer.multihead_attn)
                pairs += [(block.add_cross.norm, layer.norm2), (block.add_feed_forward.norm, layer.norm3)]
            else:
                pairs.append((block.add_feed_forward.norm, layer.norm2))
            for seed, (mine, other) in enumerate(pairs):
                for name, parameter in mine.named_parameters():
                    parameter.copy_(drawn(*parameter.shape, seed=30 + seed) * 0.3)
                    getattr(other, name).copy_(parameter)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_encoder_decoder_is_pytorchs(norm_first: bool, activation: str) -> None:
    model = small(encoder_layers=2, norm_first=norm_first, activation=activation, bias=True, position="sinusoidal")
    theirs = torch.nn.Transformer(
        16, 4, 2, 2, 64, dropout=0.0, activation=activation, norm_first=norm_first, batch_first=True
    )
    if not norm_first:  # the paper's has no norm after its last block; PyTorch's has, by default
        theirs.encoder.norm = theirs.decoder.norm = None
    copy_blocks(model.encoder, theirs.encoder.layers)
    copy_blocks(model.decoder, theirs.decoder.layers)
    tokens, extra = tokens_of(2, 6), sources(model, 2)
    pad = ~extra["source_mask"]
    x, memory = model.embedding(tokens), model.embedding(extra["source"])
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    hidden = theirs(
        memory, x, tgt_mask=causal, src_key_padding_mask=pad, memory_key_padding_mask=pad, tgt_is_causal=True
    )
    expected = hidden @ model.embedding.token_embedding.weight.T
    logits = model(tokens, **extra)
    assert logits.std() > 0.1, "the logits show nothing"
    assert torch.allclose(logits, expected, atol=1e-4), "the whole differs from nn.Transformer"


# ---- properties ----


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(2, 12), st.integers(0, 2**20))
def test_a_later_token_never_changes_an_earlier_logit(choice: int, length: int, seed: int) -> None:
    model = small(seed % 7, **CHOICES[choice]).eval()
    tokens = tokens_of(2, length, seed=seed)
    cut = 1 + seed % (length - 1)
    other = torch.cat([tokens[:, :cut], (tokens[:, cut:] + 1 + seed % 10) % 11], dim=1)
    extra = sources(model, 2)
    with torch.no_grad():
        one, two = model(tokens, **extra), model(other, **extra)
    assert torch.allclose(one[:, :cut], two[:, :cut], atol=1e-5), "a token sees what comes after it"
    assert not torch.allclose(one[:, cut:], two[:, cut:], atol=1e-5), "a token is not seen at all"


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_padding_of_the_source_is_never_seen(choice: dict[str, Any]) -> None:
    model = small(**choice).eval()
    extra = sources(model, 2)
    if not extra:
        return
    changed = torch.where(extra["source_mask"], extra["source"], (extra["source"] + 1) % 11)
    tokens = tokens_of(2, 6)
    one, two = model(tokens, **extra), model(tokens, source=changed, source_mask=extra["source_mask"])
    assert torch.allclose(one, two, atol=1e-5), "a token that is only padding is seen"
    short = model(tokens[1:], source=extra["source"][1:, :3])
    assert torch.allclose(one[1:], short, atol=1e-5), "padding changes the answer to what is real"


@pytest.mark.parametrize("steps", [[12], [5, 1, 1, 5], [1] * 12, [7, 5]], ids=str)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_cached_logits_are_the_uncached_ones(choice: dict[str, Any], steps: list[int]) -> None:
    model = small(**choice).eval()
    tokens, extra = tokens_of(3, 12), sources(model, 3)
    with torch.no_grad():
        whole, cache, parts, done = model(tokens, **extra), Cache(model, 3, "cpu"), [], 0
        for count in steps:
            parts.append(model(tokens[:, done : done + count], cache=cache, **({} if done else extra)))
            done += count
            assert cache.length == done, "the cache counts otherwise"
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5), "the cache changes the logits"
    cache.reset()
    with torch.no_grad():
        again = model(tokens[:, :4], cache=cache, **extra)
    assert torch.allclose(again, whole[:, :4], atol=1e-5), "a cache that was reset remembers something"


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_attention_weights_are_shares(choice: dict[str, Any]) -> None:
    model = small(**choice).eval()
    maps = model.attention_weights(tokens_of(2, 6), **sources(model, 2))
    assert len(maps) == 2 and all(layer.shape == (2, 4, 6, 6) for layer in maps), "a layer or head is missing"
    for layer in maps:
        assert torch.allclose(layer.sum(dim=-1), torch.ones(2, 4, 6), atol=1e-5), "shares do not sum to 1"
        assert layer.triu(1).abs().max() == 0, "a token looks ahead"


# ---- gradients ----


def block_cases() -> dict[str, Any]:
    """By name: a module, and how it is called with x [2, 3, 8]."""
    turned = rotations(3, 4)
    pad = torch.tensor([[True, True, True], [True, True, False]])[:, None, None, :]
    cases: dict[str, Any] = {
        "linear": (Linear(8, 5), lambda m, x: m(x)),
        "self-attention": (Attention(8, 2, bias=True), lambda m, x: m(x)),
        "causal attention": (Attention(8, 2), lambda m, x: m(x, causal=True)),
        "rotary attention": (Attention(8, 2), lambda m, x: m(x, rotation=turned)),
        "written attention": (Attention(8, 2, written=True), lambda m, x: m(x, mask=pad)),
        "masked attention": (Attention(8, 2), lambda m, x: m(x, mask=pad)),
        "cross-attention": (Attention(8, 2, bias=True), lambda m, x: m.cross(x, *m.keys_and_values(x.flip(1) * 0.5))),
        "block": (Block(8, 2, 12, activation="gelu", bias=True), lambda m, x: m(x, causal=True)),
        "block with memory": (Block(8, 2, 12, cross=True, norm_first=False), lambda m, x: m(x, memory=m.memory(x))),
    }
    for activation in ("relu", "gelu", "gelu_tanh"):
        cases[activation] = (FeedForward(8, 12, activation, True), lambda m, x: m(x))  # type: ignore[arg-type]
    for norm in ("layer", "rms"):
        for first in (True, False):
            module = AddNorm(make_norm(norm, 8, True), first, 0.0)  # type: ignore[arg-type]
            cases[f"{norm} norm, first: {first}"] = (module, lambda m, x: m(x, torch.tanh))
    for position in ("learned", "sinusoidal"):
        embedding = Embedding(5, 4, 8, position, 0.0)  # type: ignore[arg-type]
        cases[f"{position} embedding"] = (embedding, lambda m, x: m(tokens_of(2, 3, below=5)) * x)
    return cases


@pytest.mark.parametrize("name", block_cases())
def test_gradients_of_a_block_are_true(name: str) -> None:
    module, run = block_cases()[name]
    module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=50 + seed))
    x = drawn(2, 3, 8, dtype=torch.float64).requires_grad_()
    assert run(module, x).abs().max() > 0.1, "the block answers with nothing"
    for parameter in (x, *module.parameters()):  # moved in place, so that the module need not be handed its own
        assert torch.autograd.gradcheck(lambda _: run(module, x), [parameter]), "a gradient is wrong"


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_gradients_of_the_whole_are_true(choice: dict[str, Any]) -> None:
    model = small(**{**choice, "width": 8, "heads": 2}).double()
    tokens, extra = tokens_of(2, 4), sources(model, 2)
    for parameter in model.parameters():
        assert torch.autograd.gradcheck(lambda _: model(tokens, **extra), [parameter], fast_mode=True), "it is wrong"


# ---- beginnings ----


def test_presets_have_the_sizes_they_are_known_by() -> None:
    for name, vocabulary, millions in [("tiny", 65, 0.80), ("small", 65, 10.7), ("gpt2", 50257, 124.4)]:
        with torch.device("meta"):
            counted = sum(p.numel() for p in splatlearn.Transformer(Transformer.preset(name, vocabulary)).parameters())
        assert counted / 1e6 == pytest.approx(millions, rel=0.01), f"{name} has {counted:,} parameters"


def test_initialisation_follows_width_and_depth() -> None:
    one, deep = small(width=64), small(width=64, layers=8)
    for name, parameter in deep.named_parameters():
        scale = (2 * 8) ** -0.5 if name.endswith(("o_proj.weight", "fc2.weight")) else 1.0
        if parameter.dim() == 2:
            expected = pytest.approx(scale * math.sqrt(2 / (5 * 64)), rel=0.15)
            assert parameter.std().item() == expected, f"{name} is drawn otherwise"
    tokens = tokens_of(2, 12)
    loss = F.cross_entropy(one(tokens).flatten(0, 1), tokens_of(2, 12, seed=1).flatten())
    assert loss.item() == pytest.approx(math.log(11), abs=0.5), "the first loss is far from that of guessing"


def test_a_seed_makes_the_weights_and_nothing_else_is_drawn() -> None:
    one, same, other = small(1), small(1), small(2)
    assert all(map(torch.equal, one.parameters(), same.parameters())), "one seed, two models"
    assert not torch.equal(one.embedding.token_embedding.weight, other.embedding.token_embedding.weight), (
        "the seed has no effect"
    )


def test_tied_weights_are_one() -> None:
    tied, free = small(), small(tie_weights=False)
    assert tied.head.weight is tied.embedding.token_embedding.weight, "the last layer has weights of its own"
    assert free.head.weight is not free.embedding.token_embedding.weight, (
        "the last layer is tied though it should not be"
    )


@pytest.mark.parametrize("choice", [{"dropout": 0.5}, {"attention_dropout": 0.5}], ids=str)
@pytest.mark.parametrize("attention", ["fused", "written"])
def test_dropout_is_off_in_evaluation_and_on_in_training(choice: dict[str, Any], attention: str) -> None:
    model, tokens = small(**choice, attention=attention), tokens_of(2, 8)
    assert not torch.equal(model(tokens), model(tokens)), "dropout has no effect"
    model.eval()
    assert torch.equal(model(tokens), model(tokens)), "dropout goes on in evaluation"


# ---- what a user can do wrong ----


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"heads": 3}, "'model.heads' must divide the width 16, got 3"),
        ({"heads": 0}, "'model.heads' must be at least 1, got 0"),
        ({"vocabulary": 0}, "'vocabulary' must be at least 1, got 0"),
        ({"width": 12, "position": "rotary"}, "even number of values per head, got 3"),
        ({"dropout": 1.0}, "'model.dropout' must be at least 0 and below 1, got 1.0"),
        ({"encoder_layers": -1}, "'model.encoder_layers' must be at least 0, got -1"),
    ],
)
def test_sizes_that_do_not_fit_are_told(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        small(**choice)


def test_tokens_that_do_not_fit_are_told() -> None:
    model, crossed = small(), small(encoder_layers=1)
    cache = Cache(model, 1, "cpu")
    with torch.no_grad():
        model(tokens_of(1, 8), cache=cache)
    source = tokens_of(1, 3)
    for call, message in [
        (lambda: model(tokens_of(1, 13)), "'tokens' must fit the context of 12 tokens, got 13$"),
        (lambda: model(tokens_of(1, 5), cache=cache), "context of 12 tokens, got 5 after 8 in the cache"),
        (lambda: model(tokens_of(1, 1), cache=cache), "a cache holds no gradients: .* torch.no_grad"),
        (lambda: model(torch.tensor([[3, 11]])), "'tokens' must be from 0 to 10, got values from 3 to 11"),
        (lambda: model(torch.tensor([3, 4])), r"int64 of shape \[B, T\] .* got torch.int64 \[2\]"),
        (lambda: model(torch.ones(1, 3)), "must be int64 .* got torch.float32"),
        (lambda: model(tokens_of(1, 0)), "at least one token"),
        (lambda: model(tokens_of(1, 3), source=source), "has no encoder"),
        (lambda: crossed(tokens_of(1, 3)), "needs a .source"),
        (
            lambda: crossed(tokens_of(1, 3), source=tokens_of(1, 13)),
            "'source' must fit the context of 12 .*, got 13",
        ),
        (lambda: Transformer.preset("huge", 65), "a preset must be one of tiny, small, gpt2, got 'huge'"),
        (lambda: Attention(10, 4), "'heads' must divide the width 10, got 4"),
    ]:
        with pytest.raises(SplatlearnError, match=message):
            call()
