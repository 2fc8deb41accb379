"""Texts in parts, of which some are scored, as tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from autopeft.readouts._base import TargetIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def target_ids(text: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> TargetIds:
    """The tokens of `{"parts": [{"text": ..., "scored": ...}, ...]}`, at most `limit`, cut on the right.

    Each part is tokenised alone. A token that stands before every text comes first, unless the first part begins with
    it, and one that ends a text last, if the last part is scored.
    """
    parts = json.loads(text)["parts"]
    ids: list[int] = []
    scored: list[bool] = []
    for part in parts:
        own = tokenizer(part["text"], add_special_tokens=False)["input_ids"]
        ids += own
        scored += [bool(part["scored"])] * len(own)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and ids[:1] != [begin]:
        ids, scored = [begin, *ids], [False, *scored]
    if end is not None and parts and parts[-1]["scored"] and ids[-1:] != [end]:
        ids, scored = [*ids, end], [*scored, True]
    cut = max(0, len(ids) - limit)
    ids, scored = ids[:limit], scored[:limit]
    # Nothing comes before the first token that it could be predicted from.
    scored[:1] = [False] * len(scored[:1])
    reason = "" if any(scored) else f"none of its scored tokens is among the first {limit}"
    return TargetIds(ids, scored, cut, reason)
