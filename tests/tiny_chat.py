"""Tokenizers and chat templates of every kind that matters to conversations, made in milliseconds."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from autopeft.formats import Conversation, RowTokenizer, RowTokens

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
_WORDS = "the answer is yes and no user assistant system hello world\n\nWhat is it? It is that. " * 9

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
#: Without regard to `add_generation_prompt`.
DEAF = CHATML[: CHATML.index("{%- if add")]
#: As Llama 3: its own beginning of text, contents without white space around.
STRIPPED = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n\\n' + message['content'] | trim + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n\\n' }}{% endif %}"""
#: As Phi 3: a token after the last turn, where nothing is asked.
CLOSED = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
#: As Qwen 3: thoughts stand in the last turn only, an empty one if there is none.
THINKING = """\
{%- for message in messages %}
{%- set said = message['content'].split('</think>')[-1].lstrip('\\n') %}
{%- if message['role'] == 'assistant' and loop.last %}
{%- set thought = message['content'].split('</think>')[0].split('<think>')[-1].strip('\\n')
    if '</think>' in message['content'] else '' %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' + said + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\\n' + said + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
#: As Gemma's and Mistral's: no system turn, and sides that alternate.
STRICT = """\
{%- for message in messages %}
{%- if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] + eos_token }}{% endif %}
{%- endfor %}"""
#: Nothing ends a turn.
ENDLESS = """\
{%- for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


@cache
def lacking() -> PreTrainedTokenizerFast:
    """A tokenizer of a few letters, of which others are passed over without a token; a space is `▁`."""
    model = Tokenizer(BPE(byte_fallback=True))
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = BpeTrainer(vocab_size=60, special_tokens=list(SPECIAL), show_progress=False)
    model.train_from_iterator(["the answer is yes and no", "What is it?"], trainer)
    model.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>")


@cache
def tokenizer(
    template: str | None = CHATML, merges: int = 0, begins: bool = False, trims: bool = False
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, with so many merges of English ones.

    `begins`: it puts `<s>` before a text. `trims`: tokens are said to have no white space. Padding is the end token.
    """
    model = Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=len(SPECIAL) + 256 + merges, initial_alphabet=alphabet, special_tokens=list(SPECIAL),
        show_progress=False,
    )  # fmt: skip
    model.train_from_iterator([_WORDS], trainer)
    model.decoder = decoders.ByteLevel()
    steps = [processors.ByteLevel(trim_offsets=True, add_prefix_space=False)] if trims else []
    if begins:
        steps.append(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", model.token_to_id("<s>"))]))
    if steps:
        model.post_processor = processors.Sequence(steps)
    made = PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=10**6
    )
    made.chat_template = template
    return made


def tokens_of(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, limit: int) -> RowTokens:
    """The tokens of one conversation."""
    return RowTokenizer(tokenizer, limit).of(conversation)
