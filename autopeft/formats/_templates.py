"""Chat templates: the tokenizer's own, the user's, and two for models that have none.

Templates are data from strangers: transformers renders them in Jinja's immutable sandbox, and nothing else does here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autopeft.doors import door

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Built-in ones by name: with headers, and without any marks but the token that ends what the assistant says.
TEMPLATES = {
    "plain": """\
{{- START }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '### Response:\\n' + message.content + END + '\\n\\n' }}
    {%- elif message.role == 'user' %}
        {{- '### Instruction:\\n' + message.content + '\\n\\n' }}
    {%- else %}
        {{- message.content + '\\n\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Response:\\n' }}
{%- endif %}""",
    "none": """\
{{- START }}
{%- for message in messages %}
    {{- message.content + (END if message.role == 'assistant' else '') + '\\n' }}
{%- endfor %}""",
}
#: Some templates write the date of today: the same rows would be other tokens tomorrow. This is Llama's usual one.
_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
_REMEDY = "mend the row, or give another in 'template'"


def with_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer that has a chat template: itself where it has one, else a copy with `plain`.

    `template`: the name of a built-in one, or Jinja text, for a copy with that. What is trained with one should be
    saved with it, so that it is asked in the same way.
    """
    if template is None and tokenizer.chat_template:
        return tokenizer
    name = template or "plain"
    dressed = copy.deepcopy(tokenizer)
    dressed.chat_template = _written(tokenizer, name) if name in TEMPLATES else name
    return dressed


def built_in(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The name of the built-in template that a tokenizer has, if it has one."""
    return next((name for name in TEMPLATES if _written(tokenizer, name) == tokenizer.chat_template), None)


def _written(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """A built-in template for a tokenizer: with what it puts first itself, as a rendered chat is tokenised without."""
    start, end = "".join(leading(tokenizer)), str(tokenizer.eos_token or "")
    literals = {"START": start, "END": end}
    text = TEMPLATES[name]
    for word, value in literals.items():
        text = text.replace(word, json.dumps(value, ensure_ascii=False))
    return text


def leading(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that it puts before a text by itself, such as `<s>`."""
    with door("the tokenizer", "cannot be used"):
        encoded: Any = tokenizer("a", return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        first = next((i for i, one in enumerate(special) if not one), 0)
        found: Sequence[str] = tokenizer.convert_ids_to_tokens(ids[:first])
    return list(found)


def rendered(tokenizer: Any, messages: Sequence[dict[str, str]], asking: bool = False) -> str:
    """A chat as its template writes it; `asking` adds what stands before the assistant's next turn.

    `AutopeftError` with what the template says of turns that it refuses.
    """
    with door("the chat template", "refuses these turns", _REMEDY):
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _DATE + template
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=asking
        )
        if not isinstance(text, str):
            raise TypeError(f"it gives {type(text).__name__}, and no text")
    return text
