"""Matrix-multiplication FLOPs of a layer with its methods, walked in the order of computation.

A product of [a, b] and [b, c] is 2abc. Element-wise work, norms, embeddings, pooler and heads that are trained are left
out: they are small, the same for every hybrid, or not products. A language model's frozen head counts. The backward
pass of a frozen map costs the gradient of its input, and that only when something below it is trained; so the walk
carries, tensor by tensor, whether a gradient is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autopeft.anatomy import CROSS, MAPS, ModelShape
from autopeft.hybrid import Hybrid
from autopeft.methods import Method

#: Share of a text's tokens that a masked language model fills in.
_MASKED = 0.15


def forward_flops(
    methods: tuple[Method, ...],
    shape: ModelShape,
    length: int,
    merged: bool,
    queries: int | None = None,
    source: int = 0,
) -> int:
    """One layer of that shape, one sequence of `length` tokens; `merged`: methods are folded, and those that merge left
    out.

    `queries`: of how many tokens the layer's output is computed (all by default). `source`: tokens of the encoder's
    text, that a decoder's layer attends to.
    """
    kept = [m.folded() for m in methods if not m.mergeable] if merged else methods
    tokens = _Tokens(length, queries, shape.row.norm_first, source)
    maps = sum(_linear(shape, site, tokens.at(site)) for site in (*MAPS, *CROSS) if shape.has(site))
    columns = length + sum(m.attention_columns() for m in kept)
    columns += source if shape.row.cross else 0
    attention = 2 * _attention(shape, tokens.queries, columns)
    added = sum(m.flops(shape, s, tokens.at(s)).forward for m in kept for s in m.places(shape))
    return maps + attention + added


def training_flops(
    hybrid: Hybrid,
    shape: ModelShape,
    length: int,
    start: int = 0,
    queries: int | None = None,
    source: int | None = None,
) -> int:
    """Forward and backward of the layers from `start` up for one text; `queries` is of the last layer.

    `source`: tokens of the text that an encoder reads, as many by default; `length` is of the decoder's then.
    """
    total, dirty, encoded = 0, bool(hybrid.model), False
    length += hybrid.input_tokens
    source = length if source is None else source
    for i, methods in enumerate(hybrid.layers[start:], start):
        own, asked = shape.at(i), queries if i == shape.layers - 1 else None
        if shape.stacks and i == shape.encoder_layers:
            encoded, dirty = dirty, False
        here = source if i < shape.encoder_layers else length
        asked_tokens = _Tokens(here, asked, own.row.norm_first, source)
        total += forward_flops(methods, own, here, False, asked, source)
        backward, dirty = _Backward(methods, own, asked_tokens, encoded).layer(dirty)
        total += backward
    return total


def passing_flops(hybrid: Hybrid, shape: ModelShape, length: int, start: int, queries: int | None, source: int) -> int:
    """Forward alone, as in `training_flops`."""
    length += hybrid.input_tokens
    return sum(
        forward_flops(
            methods,
            shape.at(i),
            source if i < shape.encoder_layers else length,
            False,
            queries if i == shape.layers - 1 else None,
            source,
        )
        for i, methods in enumerate(hybrid.layers[start:], start)
    )


def bare_flops(shape: ModelShape, length: int, layers: int | None = None, source: int | None = None) -> int:
    """The lowest `layers` (all by default) without methods."""
    source = length if source is None else source
    lengths = [source if i < shape.encoder_layers else length for i in range(shape.layers)]
    own = (forward_flops((), shape.at(i), n, True, None, source) for i, n in enumerate(lengths[:layers]))
    return sum(own)


def head_flops(shape: ModelShape, tokens: int) -> int:
    """The logits of so many tokens of a language model, or their gradient; 0 of other models."""
    return 2 * tokens * shape.hidden * shape.words


def asked_tokens(shape: ModelShape, length: int) -> int:
    """Of a text's tokens those that a language model's head is asked about: of masked ones BERT's share."""
    return length if shape.causal or shape.stacks else max(1, round(_MASKED * length))


def generation_flops(layers: Iterable[tuple[Method, ...]], shape: ModelShape, prompt: int, generated: int) -> int:
    """Read a prompt, and generate so many tokens (one at least), with keys and values kept and methods merged.

    The prompt gives the first of them; each that follows is one token, which sees those before it.
    """
    steps = generated - 1
    seen = steps * prompt + steps * generated // 2
    total = head_flops(shape, generated)
    for methods in layers:
        total += forward_flops(methods, shape, prompt, merged=True)
        # A token's maps and methods; what it sees comes on top.
        kept = [m.folded() for m in methods if not m.mergeable]
        alone = forward_flops(methods, shape, 1, merged=True)
        prefix = sum(m.attention_columns() for m in kept)
        alone -= 2 * _attention(shape, 1, 1 + prefix)
        total += steps * alone + 2 * _attention(shape, 1, seen + steps * prefix)
    return total


def answer_flops(layers: Sequence[tuple[Method, ...]], shape: ModelShape, source: int, generated: int) -> int:
    """Read a source, and generate so many tokens from it, with keys and values kept and methods merged."""
    total, low = head_flops(shape, generated), shape.encoder_layers
    for i, methods in enumerate(layers):
        own = shape.at(i)
        if i < low:
            total += forward_flops(methods, own, source, merged=True)
            continue
        kept = [m.folded() for m in methods if not m.mergeable]
        prefix = sum(m.attention_columns() for m in kept)
        # Keys and values of the source once; a token's maps and methods each time, and what it sees on top.
        total += forward_flops(methods, own, 0, merged=True, source=source)
        alone = forward_flops(methods, own, 1, merged=True) - 2 * _attention(own, 1, 1 + prefix)
        seen = generated * (generated + 1) // 2 + generated * (prefix + source)
        total += generated * alone + 2 * _attention(own, 1, seen)
    return total


class _Tokens:
    """How many tokens a place sees: the input, keys and values those of the sequence, the others those asked for.

    Keys and values of the attention to a source are those of its tokens.
    """

    def __init__(self, length: int, queries: int | None, norm_first: bool = False, source: int = 0) -> None:
        self.length, self.queries, self.source = length, length if queries is None else queries, source
        self.whole = ("k", "v", "layer_in", *(["norm1"] if norm_first else []))

    def at(self, site: str) -> int:
        if site in ("cross.k", "cross.v"):
            return self.source
        return self.length if site in self.whole else self.queries


class _Backward:
    """The backward pass of one layer; "dirty" means that a tensor depends on a trained weight.

    `encoded`: whether what an encoder gives is dirty.
    """

    def __init__(self, methods: tuple[Method, ...], shape: ModelShape, tokens: _Tokens, encoded: bool = False) -> None:
        self.methods, self.shape, self.tokens, self.encoded = methods, shape, tokens, encoded
        self.norm_first = shape.row.norm_first
        self.at: dict[str, list[Method]] = {}
        for method in methods:
            for site in method.places(shape):
                self.at.setdefault(site, []).append(method)
        self.cost = 0

    def layer(self, dirty: bool) -> tuple[int, bool]:
        """(FLOPs, whether the layer's output is dirty) for an input that is `dirty` or not."""
        start = self.place("layer_in", dirty, dirty)
        normed = self.place("norm1", start, start) if self.norm_first else start
        q, k, v = self.fused({s: self.site(s, normed, normed) for s in ("q", "k", "v")})
        o = self.site("o", self.attention(q, k, v), normed)
        middle = self.crossed(start or o)
        ffn = self.ffn_input(start, normed, middle)
        up = self.site("up", ffn, ffn)
        gate = self.site("gate", ffn, ffn) if self.shape.gated else False
        inner = self.place("down_in", up or gate, ffn)
        down = self.site("down", inner, ffn)
        # After a residual; without norms in front the norm is part of it.
        end = (middle if self.norm_first else ffn) or down
        end = end if self.norm_first else self.place("norm2", end, end)
        dirty = self.place("layer", end, end)
        return self.cost, dirty

    def crossed(self, middle: bool) -> bool:
        """Whether what a decoder's layer has after its attention to a source is dirty."""
        if not self.shape.row.cross:
            return middle
        middle = middle if self.norm_first else self.place("norm1", middle, middle)
        q = self.site("cross.q", middle, middle)
        k, v = (self.site(site, self.encoded, self.encoded) for site in ("cross.k", "cross.v"))
        o = self.site("cross.o", self.scored(q, k, v, self.tokens.source), middle)
        return middle or o

    def ffn_input(self, start: bool, normed: bool, middle: bool) -> bool:
        """Whether what the feed-forward network is given is dirty."""
        given = start if self.shape.row.parallel else middle
        if not self.norm_first:
            return given if self.shape.row.cross else self.place("norm1", given, given)
        if self.shape.row.parallel and not self.shape.has("norm2"):
            # Attention's norm is its own, too.
            return normed
        return self.place("norm2", given, given)

    def site(self, site: str, site_input: bool, block_input: bool) -> bool:
        """One linear map and the methods on it, in their order; whether its output is dirty."""
        if site_input:
            self.cost += _linear(self.shape, site, self.tokens.at(site))
        return self.place(site, site_input, block_input)

    def place(self, site: str, site_input: bool, block_input: bool) -> bool:
        """The methods at a place, in their order; whether its output is dirty."""
        output = site_input
        for method in self.at.get(site, ()):
            flops = method.flops(self.shape, site, self.tokens.at(site))
            needs = {"site": site_input, "block": block_input, "output": output}[method.reads]
            self.cost += flops.backward + (flops.backward_input if needs else 0)
            output = True
        return output

    def fused(self, dirty: dict[str, bool]) -> list[bool]:
        """Whether each site's output is dirty: slices of one map are one tensor, and dirty together."""
        row = self.shape.row
        modules = {row.site(s).module for s, d in dirty.items() if d}
        return [row.site(s).module in modules for s in dirty]

    def attention(self, q: bool, k: bool, v: bool) -> bool:
        """Scores Q K^T and their product with V, over prefix columns too."""
        prefix = sum(m.attention_columns() for m in self.methods)
        return self.scored(q, k or prefix > 0, v or prefix > 0, self.tokens.length + prefix)

    def scored(self, q: bool, k: bool, v: bool, columns: int) -> bool:
        """The same over so many columns."""
        unit, scores = _attention(self.shape, self.tokens.queries, columns), q or k
        self.cost += unit * (q + k) + unit * (scores + v)
        return scores or v


def _linear(shape: ModelShape, site: str, length: int) -> int:
    wide_in, wide_out = shape.width(site)
    return 2 * length * wide_in * wide_out


def _attention(shape: ModelShape, queries: int, columns: int) -> int:
    return 2 * shape.heads * queries * columns * shape.head_dim
