"""What a model can be given, and how it is trained on, as far as costs depend on that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.anatomy._lookup import family_of
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Of a text, for models whose configuration says nothing.
_POSITIONS = 2_048


@dataclass(frozen=True)
class TrainingLoad:
    """How a backbone is trained on, as far as its memory depends on it.

    Batches have `sequences`, of which so many go through at once as have `tokens` together, one at least. Numbers of
    the backbone and of activations have `bytes`, those of its layers' maps `map_bytes`. `scores`: attention keeps its
    scores. `checkpoint`: layers are computed again in the backward pass. `logits` are in memory at once. `holes`: what
    activations take over what they are, as an allocator cannot use all that is free between them (measured with
    glibc's; of a GPU's own what is taken counts).
    """

    sequences: int = 32
    tokens: int = 4_096
    bytes: int = 4
    map_bytes: float = 4
    scores: bool = False
    checkpoint: bool = False
    logits: int = 2**23
    holes: float = 1.3

    def at_once(self, length: int) -> int:
        """Sequences of a length that go through at once."""
        parts = -(-self.sequences // max(1, self.tokens // length))
        return -(-self.sequences // parts)


@dataclass(frozen=True)
class InputLimits:
    """What a model can be given: token ids below `vocabulary`, `tokens` of them at most, segment ids below `segments`.

    `segments` is None for families that look none up. `window`: of how many tokens, itself among them, each one sees at
    most (None: of all). `start`: what a decoder above an encoder begins with (None: its text's own last token).
    """

    vocabulary: int
    tokens: int
    segments: int | None = None
    window: int | None = None
    start: int | None = None

    @property
    def prompted(self) -> int:
        """How many tokens a text may have with its prompt: in a window masked slots would take the room of others."""
        return min(self.tokens, self.window or self.tokens)


def input_limits(config: PretrainedConfig) -> InputLimits:
    """What a model of this configuration can be given; rotary positions end where the model was made for no more."""
    family = family_of(config)
    if family.images:
        raise AutopeftError(f"model family '{config.model_type}' reads images; take a model of texts for this task")
    # BLOOM, which has no positions, was made for so many.
    tokens = int(getattr(config, "max_position_embeddings", None) or getattr(config, "seq_length", 0) or _POSITIONS)
    if family.counts_padding:
        tokens -= (config.pad_token_id or 0) + 1
    if tokens < 1:
        raise AutopeftError(
            f"model family '{config.model_type}': max_position_embeddings leaves no position for a token"
        )
    segments = int(config.type_vocab_size) if family.segments else None
    return InputLimits(int(config.vocab_size), tokens, segments, _window(config), _start(config))


def _start(config: PretrainedConfig) -> int | None:
    row = family_of(config)
    given = getattr(config, "decoder_start_token_id", None)
    if row.decoder is None or (given is None and row.wraps):
        return None
    return int(config.pad_token_id or 0) if given is None else int(given)


def _window(config: PretrainedConfig) -> int | None:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    window = getattr(config, "sliding_window", None)
    return int(window) if isinstance(window, int) and window > 0 else None
