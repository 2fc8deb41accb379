"""What K candidates on one model write after the same prompts, and how good that is.

Shapes: K candidates, N prompts, B of them in a batch, L tokens of the longest of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autopeft.doing import doing
from autopeft.generating.asking import Asking, Prompts
from autopeft.generating.settings import GenerationSettings
from autopeft.metrics import text_metric

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: Bytes of keys and values in a cache, and tokens at most, over all sequences.
_CACHE = {"cpu": 2**29, "cuda": 2**33}
_MOST = 16_384


def tokens_at_once(config: PreTrainedConfig, device: torch.device, width: int = 4) -> int:
    """Tokens whose keys and values, of `width` bytes a number, fit in a cache; a bound from above on their size."""
    text, size = config.get_text_config(), 0
    shared = getattr(text, "num_key_value_heads", None)
    if shared and not getattr(config, "is_encoder_decoder", False):
        # Heads that share keys have fewer of them.
        size = int(shared) * int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    each = 2 * int(text.num_hidden_layers) * (size or int(text.hidden_size)) * width
    return max(1, min(_MOST, _CACHE.get(device.type, _CACHE["cpu"]) // each))


@torch.inference_mode()
def write(
    model: Any, asking: Asking, split: str, tokenizer: PreTrainedTokenizerBase, tokens: int, candidates: int = 1
) -> list[list[str]]:
    """What each of K candidates that are attached to a model writes after each prompt of a split: [K][N].

    They answer in one `generate` of the model's own, a batch of K*B sequences, candidate-major, of at most `tokens`
    tokens with what is written. Prompts of about equal lengths go together, padded on the left, the shortest first.
    """
    prompts, settings = asking.prompts[split], asking.settings
    device = next(model.parameters()).device
    written = [[""] * len(prompts) for _ in range(candidates)]
    stops = sorted({*asking.stops, *_ends(model.generation_config)})
    with doing("writing texts", candidates * len(prompts)) as stage:
        for batch in _batches(prompts, tokens // (candidates * settings.beams), settings.max_new_tokens):
            inputs = _padded(prompts, batch, _pad_id(tokenizer), left=not asking.encoder)
            length = 1 if asking.encoder else inputs["input_ids"].shape[1]
            with _quiet():
                found = model.generate(
                    **{name: x.repeat(candidates, 1).to(device) for name, x in inputs.items()},
                    generation_config=_configuration(settings, stops, _pad_id(tokenizer), asking.start),
                    logits_processor=_processors(settings, batch, candidates, length),
                )
            for place, ids in enumerate(found[:, length:].tolist()):
                k, i = divmod(place, len(batch))
                text = tokenizer.decode(_until(ids, stops), skip_special_tokens=True)
                written[k][batch[i]] = text.strip()
            stage.step(candidates * len(batch))
    return written


def compared(asking: Asking, split: str, texts: Sequence[str]) -> dict[str, float]:
    """The metrics of what was written on a split, [N]."""
    answers = asking.prompts[split].answers
    return {name: text_metric(name)().compare(texts, answers) for name in asking.settings.metrics}


def _batches(prompts: Prompts, tokens: int, more: int) -> Iterator[list[int]]:
    """Prompts of rising lengths, in batches of at most so many tokens with `more` for each, or of one prompt."""
    batch: list[int] = []
    for i in np.argsort(prompts.lengths, kind="stable").tolist():
        # Lengths rise, so a batch is as long as the prompt that comes last.
        if batch and (len(batch) + 1) * (int(prompts.lengths[i]) + more) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(prompts: Prompts, batch: Sequence[int], pad_id: int, left: bool) -> dict[str, torch.Tensor]:
    """Inputs [B, L] of a batch."""
    length = int(prompts.lengths[list(batch)].max())
    ids = torch.full((len(batch), length), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, i in enumerate(batch):
        own = torch.from_numpy(prompts[i])
        where = slice(length - len(own), length) if left else slice(0, len(own))
        ids[row, where], mask[row, where] = own, 1
    return {"input_ids": ids, "attention_mask": mask}


def _configuration(settings: GenerationSettings, stops: Sequence[int], pad_id: int, start: int | None) -> Any:
    """How to generate; of what it leaves open the model's own configuration holds."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        num_return_sequences=1,
        eos_token_id=list(stops) or None,
        pad_token_id=pad_id,
        decoder_start_token_id=start,
        # What is drawn is drawn by `Drawn`: the model's own settings are for others.
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        return_dict_in_generate=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers says, at each batch, of a model's own settings that ours go before."""
    logger = getLogger("transformers.generation.utils")
    level = logger.level
    logger.setLevel(ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _processors(settings: GenerationSettings, batch: Sequence[int], candidates: int, length: int) -> Any:
    from transformers import LogitsProcessorList

    from autopeft.generating.drawing import Drawn

    if not settings.temperature:
        return LogitsProcessorList()
    return LogitsProcessorList([Drawn(settings, batch, candidates, length)])


def _until(ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """What stands before the first token that ends it."""
    return list(ids[: next((i for i, one in enumerate(ids) if one in stops), len(ids))])


def _ends(config: Any) -> list[int]:
    """The tokens that end a text for the model itself."""
    ends = getattr(config, "eos_token_id", None)
    return [] if ends is None else [int(i) for i in (ends if isinstance(ends, (list, tuple)) else [ends])]


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id)
