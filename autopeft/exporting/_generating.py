"""What generating texts takes beside an adapter: the tokenizer with its chat template, and how to generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.doors import door
from autopeft.formats import with_template
from autopeft.models import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHAT = """
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
chat = [{"role": "user", "content": "What is the capital of France?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
found = model.generate(**inputs, max_new_tokens=64, pad_token_id=tokenizer.pad_token_id)
print(tokenizer.decode(found[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_PLAIN = """
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
found = model.generate(**inputs, max_new_tokens=64, pad_token_id=tokenizer.pad_token_id)
print(tokenizer.decode(found[0], skip_special_tokens=True))
"""


def write_tokenizer(source: ModelSource, model: PreTrainedModel, to: Path) -> None:
    """Write the tokenizer's files, its chat template among them, and `generation_config.json` where there is one."""
    with door(to, "the tokenizer cannot be written here"):
        tokenizer = source.tokenizer()
        if source.chat is not None:
            # It shall be asked as it was trained: that may be another template than the model brings.
            tokenizer = with_template(tokenizer, source.chat)
        tokenizer.save_pretrained(str(to))
        if model.generation_config is not None:
            # As the checkpoint has it: what it says of sampling may be odd, and is not ours to refuse.
            model.generation_config.to_json_file(str(to / "generation_config.json"))


def generating_lines(source: ModelSource) -> str:
    """Lines of Python that have `model` answer."""
    return _CHAT if source.chat else _PLAIN
