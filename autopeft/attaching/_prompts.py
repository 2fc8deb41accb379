"""Vectors among those of a text's tokens: longer sequences inside the base model, and their own length outside of it.

Shapes: K candidates, N = K*B sequences, L tokens, S slots (the vectors of the candidate that has most), d width.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from autopeft.anatomy import family_of, input_limits
from autopeft.errors import AutopeftError
from autopeft.methods._bank import Bank
from autopeft.methods._prompt import SoftPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import ModelOutput

#: By side of the slots, how many tokens stand before them: a bidirectional model's head reads the first.
_BEFORE = {True: 0, False: 1}

_SEES = ", or that a token sees in front of it"


def opened(x: torch.Tensor, new: torch.Tensor, causal: bool) -> torch.Tensor:
    """`x` [N, L, ...] with `new` [N, S, ...] in the slots: before the text of a causal model, else after [CLS]."""
    at = _BEFORE[causal]
    return torch.cat([x[:, :at], new, x[:, at:]], dim=1)


@dataclass
class _Pass:
    """A forward pass: `own` [N, S] says which slots are filled, `length` is the text's; with a cache there are none."""

    own: torch.Tensor
    length: int
    inside: bool
    waiting: bool = True


class _Current(threading.local):
    """The pass of each thread. Copies and pickles of it are empty."""

    value: _Pass | None = None

    def __reduce__(self) -> tuple[type[_Current], tuple[()]]:
        return _Current, ()


class Prompts:
    """Hooks that have a base model see the prompts of K hybrids.

    Its inputs are lengthened by S slots, which stand before the text of a causal model and after the first token of
    another; the model looks something up for them, in whose place the prompts are put. A candidate's slots beyond its
    own prompt are masked. Positions go on as if the candidate were alone, from the first token that is not masked. The
    last hidden state has the text's own tokens again, so that heads find the one that they read.
    """

    def __init__(self, model: PreTrainedModel, banks: Sequence[Bank]) -> None:
        self._config, self._banks, self._now = model.config, list(banks), _Current()
        self._causal = family_of(model.config).causal
        self._names = list(inspect.signature(model.base_model.forward).parameters)
        #: Of each bank, how many vectors each candidate has; no tensors, as a model may be built without memory.
        self._columns = [tuple(bank.columns) for bank in banks]
        self._limits = input_limits(model.config)

    def wire(self, model: PreTrainedModel) -> list[Any]:
        """Put the hooks on the model; their handles."""
        base: nn.Module = model.base_model
        table: nn.Module = model.get_input_embeddings()
        return [
            base.register_forward_pre_hook(self._lengthen, with_kwargs=True, prepend=True),
            table.register_forward_hook(self._fill),
            base.register_forward_hook(self._shorten, always_call=True),
        ]

    def _lengthen(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        ids, embedded = given.get("input_ids"), given.get("inputs_embeds")
        text: torch.Tensor | None = ids if embedded is None else embedded
        if text is None:
            # The model says what is wrong.
            return args, kwargs
        count, length = text.shape[:2]
        own = torch.cat([_own(columns, text.device) for columns in self._columns], dim=1)
        own = own.repeat_interleave(count // len(own), dim=0)
        seen = _seen(given.get("past_key_values"))
        now = self._now.value = _Pass(own, length, inside=not seen)
        mask = given.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise AutopeftError("prompts need an attention_mask [N, L] of zeros and ones, or none")
        before = max(0, seen - own.shape[1])
        mask = text.new_ones(count, before + length, dtype=torch.long) if mask is None else mask
        positions = self._positions(given.get("position_ids"), ids, mask, now, before if seen else None)
        if "position_ids" in self._names:
            # Others count the tokens that are not masked.
            given["position_ids"] = positions
        given["attention_mask"] = opened(mask, own.to(mask.dtype), self._causal)
        if seen:
            if self._limits.window:
                self._check(before + length)
            return (), given
        self._check(length)
        if ids is not None:
            # What is looked up is replaced; the padding's token is none that means something.
            given["input_ids"] = opened(ids, torch.full_like(own, self._pad_id, dtype=ids.dtype), self._causal)
        if embedded is not None:
            empty = embedded.new_zeros(count, own.shape[1], embedded.shape[2])
            given["inputs_embeds"] = self._filled(opened(embedded, empty, self._causal))
            now.waiting = False
        if (types := given.get("token_type_ids")) is not None:
            given["token_type_ids"] = opened(types, types[:, :1].expand(-1, own.shape[1]), self._causal)
        return (), given

    @property
    def _pad_id(self) -> int:
        return int(self._config.pad_token_id or 0)

    def _check(self, length: int) -> None:
        most = max(map(sum, zip(*self._columns, strict=True)))
        limit = self._limits.prompted
        if length + most > limit:
            raise AutopeftError(
                f"a text of {length} tokens and a prompt of {most} need more than the {limit} positions that the model "
                f"has{_SEES if self._limits.window else ''}; set training.max_length to at most {limit - most}"
            )

    def _positions(
        self,
        given: torch.Tensor | None,
        ids: torch.Tensor | None,
        mask: torch.Tensor,
        now: _Pass,
        before: int | None,
    ) -> torch.Tensor:
        """[N, S + L], or those of new tokens [N, L] after so many others of the text, which are in a cache."""
        positions = self._usual(ids, now, mask, before or 0) if given is None else given
        positions = positions.expand(len(now.own), -1)
        number, own = now.own.cumsum(1), now.own.sum(1, keepdim=True)
        if before is not None:
            return positions + own
        place = torch.arange(now.length, device=mask.device)
        start = mask.long().argmax(1, keepdim=True)
        first = positions.gather(1, start) + _BEFORE[self._causal]
        moved = place >= start + _BEFORE[self._causal]
        return opened(positions + own * moved, first + (number - now.own.long()), self._causal)

    def _usual(self, ids: torch.Tensor | None, now: _Pass, mask: torch.Tensor, before: int) -> torch.Tensor:
        """The positions that the model would give a text [N, L] or [1, L]."""
        plain = torch.arange(now.length, device=mask.device)[None] + before
        if not family_of(self._config).counts_padding:
            return plain
        if ids is None:
            return plain + self._pad_id + 1
        real = (ids != self._pad_id).long()
        return real.cumsum(1) * real + self._pad_id

    def _fill(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        now = self._now.value
        if now is None or not now.inside or not now.waiting:
            return output
        # GPT-2 looks its token types up in the same table, afterwards.
        now.waiting = False
        return self._filled(output)

    def _filled(self, embedded: torch.Tensor) -> torch.Tensor:
        prompts = torch.cat([_prompt(bank) for bank in self._banks], dim=1).to(embedded.dtype)
        rows = prompts.repeat_interleave(len(embedded) // len(prompts), dim=0)
        at = _BEFORE[self._causal]
        return torch.cat([embedded[:, :at], rows, embedded[:, at + rows.shape[1] :]], dim=1)

    def _shorten(self, module: nn.Module, args: tuple[Any, ...], output: ModelOutput | tuple[Any, ...] | None) -> Any:
        now, self._now.value = self._now.value, None
        if now is None or output is None or not now.inside:
            return output
        if isinstance(output, tuple):
            return (self._text(output[0], now), *output[1:])
        output["last_hidden_state"] = self._text(output["last_hidden_state"], now)
        return output

    def _text(self, hidden: torch.Tensor, now: _Pass) -> torch.Tensor:
        slots, at = now.own.shape[1], _BEFORE[self._causal]
        if hidden.shape[1] != now.length + slots:
            # The last layer was computed for the first token only.
            return hidden
        return torch.cat([hidden[:, :at], hidden[:, at + slots :]], dim=1) if at else hidden[:, slots:]


def _prompt(bank: Bank) -> torch.Tensor:
    """The vectors [K, l, d] of a bank."""
    return cast(SoftPrompt, bank.method).prompt(bank)


def _own(columns: Sequence[int], device: torch.device) -> torch.Tensor:
    """Which of a bank's slots are each candidate's own, [K, l]."""
    return torch.arange(max(columns), device=device)[None] < torch.tensor(columns, device=device)[:, None]


def _seen(cache: Any) -> int:
    """How many vectors are in a cache of keys and values."""
    return 0 if cache is None else int(cache.get_seq_length())
