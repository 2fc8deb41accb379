"""What generating texts takes beside an adapter: the tokenizer with its chat template, and how to generate."""

from __future__ import annotations

import copy
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.formats import Conversation, Part, RowTokenizer, Turn, with_template
from autopeft.models import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHAT = """
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model.generation_config = GenerationConfig.from_pretrained("path/to/this/folder")
chat = [{"role": "user", "content": "What is the capital of France?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
found = model.generate(**inputs, max_new_tokens=64, pad_token_id=tokenizer.pad_token_id)
print(tokenizer.decode(found[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_PLAIN = """
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model.generation_config = GenerationConfig.from_pretrained("path/to/this/folder")
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
found = model.generate(**inputs, max_new_tokens=64, pad_token_id=tokenizer.pad_token_id)
print(tokenizer.decode(found[0], skip_special_tokens=True))
"""


_PARTS = (Part("a"), Part("b", True))


def write_tokenizer(source: ModelSource, model: PreTrainedModel, to: Path, max_length: int | None) -> None:
    """Write the tokenizer's files, its chat template among them, and how to generate.

    With `max_length` it is one for a model that writes nothing, and cuts texts there. `generation_config.json` is the
    checkpoint's, with the token that ended texts in training, where the checkpoint does not end at it.
    """
    with door(to, "the tokenizer cannot be written here"):
        tokenizer = source.tokenizer()
        if source.chat is not None:
            # It shall be asked as it was trained: that may be another template than the model brings.
            tokenizer = with_template(tokenizer, source.chat)
        if "token_type_ids" not in signature(model.forward).parameters:
            # A tokenizer of no family in particular gives them, and `generate` refuses what the model does not take.
            tokenizer.model_input_names = [n for n in tokenizer.model_input_names if n != "token_type_ids"]
        if max_length is not None:
            tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
        tokenizer.save_pretrained(str(to))
        if max_length is None and model.generation_config is not None:
            # What the checkpoint says of sampling may be odd, and is not ours to refuse.
            config = copy.deepcopy(model.generation_config)
            config.eos_token_id = _ends(config.eos_token_id, tokenizer, source.chat is not None)
            config.to_json_file(str(to / "generation_config.json"))


def _ends(known: Any, tokenizer: PreTrainedTokenizerBase, turns: bool) -> Any:
    """The tokens that end what is generated: those that are known, and the one that ended texts in training."""
    row = Conversation((Turn("user", "a"), Turn("assistant", "b", True))) if turns else Conversation((), _PARTS)
    try:
        question = RowTokenizer(tokenizer, 1_000).question(row)
    except AutopeftError:
        # A template that refuses these turns.
        return known
    ends = [] if known is None else list(known) if isinstance(known, (list, tuple)) else [known]
    if question is None or question.stop is None or question.stop in ends:
        return known
    return [*ends, question.stop] if ends else question.stop


def generating_lines(source: ModelSource) -> str:
    """Lines of Python that have `model` answer."""
    return _CHAT if source.chat else _PLAIN
