"""Prefixes through the attention interface of transformers: one function serves every family.

Shapes: N = K*B sequences, H heads, G key/value heads, L tokens, l prefix columns, h head width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from autopeft.anatomy import family_of
from autopeft.errors import AutopeftError
from autopeft.methods._bank import Bank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Names under which the functions below are registered with transformers.
FUSED, MATMUL = "autopeft_sdpa", "autopeft_matmul"
#: The fused one again: transformers refuses names with "sdpa" in them for models whose own SDPA it did not write.
_FUSED_ANYWHERE = "autopeft_fused"
#: By what a user chose, what computes the same and knows prefixes; and back.
_OURS = {"sdpa": FUSED, "eager": MATMUL}
_THEIRS = {FUSED: "sdpa", MATMUL: "eager", _FUSED_ANYWHERE: "eager"}
#: What a model may tell an attention function beside the tensors, and ours take into account or need not know: masks
#: hold what windows and positions leave.
_UNDERSTOOD = frozenset({
    "scaling", "dropout", "is_causal", "position_bias", "softcap", "sliding_window", "position_ids", "use_cache",
    "past_key_values", "layer_past", "cache_position", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict", "position_embeddings", "layer_idx", "num_items_in_batch", "logits_to_keep",
    "token_type_ids", "encoder_attention_mask", "encoder_hidden_states", "deterministic",
})  # fmt: skip
_PREFIX = "_autopeft_prefix"
_FIRST_ONLY = "_autopeft_first_only"


def set_prefixes(module: nn.Module, banks: Sequence[Bank]) -> None:
    """Give an attention module the banks that add keys and values, or take them away; they are no submodules of it."""
    if banks:
        module.__dict__[_PREFIX] = tuple(banks)
    else:
        module.__dict__.pop(_PREFIX, None)


class AttentionChoice:
    """Keeps a model's attention one that knows prefixes, whatever the user chooses, until `undo`.

    A choice that is made after attaching, by `set_attn_implementation` or in the configuration, would take the prefixes
    away without a word. So `base` is a forward pre-hook of the base model, where masks are made, and `module` one of
    every attention module with a prefix, for those that are called on their own.
    """

    def __init__(self, model: PreTrainedModel, asked: str | None = None) -> None:
        given = str(model.config._attn_implementation)
        # Another model with the same configuration may have prefixes: what was set for it is no user's choice.
        self.model, self.own = model, _THEIRS.get(given, given)
        set_attention(model, asked or _knowing_prefixes(self.own))

    def undo(self) -> None:
        """Put back what the user chose last."""
        if self.model.config._attn_implementation in _THEIRS:
            self.model.set_attn_implementation(self.own)

    def base(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Take a new choice over before masks are made for it."""
        self._take_over(module)

    def module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The same, where masks are made already: `AutopeftError` when they are of a kind of their own."""
        given = _config(module)._attn_implementation
        if given not in _OURS and given not in _THEIRS:
            raise AutopeftError(
                f"attention '{given}' knows no prefixes, and its masks are made already; "
                f"call set_attn_implementation('sdpa') or ('eager') before calling layers on their own"
            )
        self._take_over(module)

    def _take_over(self, module: nn.Module) -> None:
        given = _config(module)._attn_implementation
        if given in _THEIRS:
            return
        self.own = str(given)
        set_attention(self.model, _knowing_prefixes(self.own))
        # A configuration may have been put in the place of the model's.
        _config(module)._attn_implementation = self.model.config._attn_implementation


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Have a model attend by one of our functions; families with attention code of their own keep it."""
    if name in _THEIRS and not family_of(model.config).prefix:
        return
    anywhere = name == FUSED and not getattr(model, "_supports_sdpa", True)
    model.set_attn_implementation(_FUSED_ANYWHERE if anywhere else name)


def _config(module: nn.Module) -> Any:
    return module.config


def _knowing_prefixes(chosen: str) -> str:
    """Which of our functions stands in for what a user chose."""
    if chosen not in _OURS:
        warnings.warn(f"attention '{chosen}' knows no prefixes; 'sdpa' is used while they are there", stacklevel=2)
    return _OURS.get(chosen, FUSED)


def set_first_only(module: nn.Module, on: bool) -> None:
    """Have an attention module compute the first token's output only, and repeat it for the others."""
    module.__dict__[_FIRST_ONLY] = on


def fused_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention over the module's prefix and the tokens: [N, L, H, h].

    Capped scores have no fused kernel: they are computed by two products. `AutopeftError` for what a model says to its
    attention and ours does not know.
    """
    if kwargs.get("softcap") is not None:
        return matmul_attention(module, query, key, value, attention_mask, **kwargs)[0], None
    _check_understood(module, kwargs)
    bias = kwargs.pop("position_bias", None)
    key, value, attention_mask = with_prefix(module, query, key, value, attention_mask)
    if bias is not None:
        attention_mask = _biased(module, query, key, attention_mask, bias, kwargs)
    tokens = query.shape[2]
    query, attention_mask = _asked(module, query, attention_mask)
    output: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0]
    return output.expand(-1, tokens, -1, -1), None


def matmul_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by two products and a softmax: SDPA's backward in bf16 is slow on CPUs.

    Stands in for transformers' eager attention too, so it gives the weights [N, H, L, l + S] as well. `softcap` bounds
    the scores: softcap * tanh(scores / softcap).
    """
    _check_understood(module, kwargs)
    key, value, attention_mask = with_prefix(module, query, key, value, attention_mask)
    if attention_mask is None and _is_causal(module, kwargs) and query.shape[2] > 1:
        attention_mask = _causal_mask(query.shape[2], key.shape[2], query.device)
    if position_bias is not None:
        attention_mask = _biased(module, query, key, attention_mask, position_bias, kwargs)
    tokens = query.shape[2]
    query, attention_mask = _asked(module, query, attention_mask)
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.matmul(query, key.transpose(2, 3)) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = _masked(scores, attention_mask)
    weights = scores.softmax(-1).to(value.dtype)
    if dropout and module.training:
        weights = nn.functional.dropout(weights, dropout)
    output = torch.matmul(weights, value).transpose(1, 2).contiguous()
    return output.expand(-1, tokens, -1, -1), weights


def _asked(
    module: nn.Module, query: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The queries that are wanted, with their rows of the mask."""
    if not module.__dict__.get(_FIRST_ONLY, False):
        return query, mask
    return query[:, :, :1], mask if mask is None else mask[..., :1, :]


def with_prefix(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keys and values [N, G, l + S, h] and the mask [N or 1, 1 or H, L, l + S] (or None), prefixes in front.

    A mask is boolean (True is seen), or of floats that are added to the scores.
    """
    banks: tuple[Bank, ...] = module.__dict__.get(_PREFIX, ())
    for bank in banks:
        key, value, mask = _with_bank(bank, module, query, key, value, mask)
    return key, value, mask


def _with_bank(
    bank: Bank,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    sequences = query.shape[0]
    if mask is None and query.shape[2] > 1 and bool(getattr(module, "is_causal", False)):
        # With no mask SDPA would crop the keys to the length of the query, and drop the newest tokens.
        mask = _causal_mask(query.shape[2], key.shape[2], query.device)
    if mask is None and bank.own_columns is not None:
        mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    if mask is not None:
        mask = mask.expand(sequences, -1, -1, -1)
        mask = torch.cat([_column_mask(bank, mask), mask], dim=-1)
    more_keys, more_values = bank.method.prefix(bank, sequences)
    key = torch.cat([_expand(more_keys, sequences, key), key], dim=2)
    value = torch.cat([_expand(more_values, sequences, value), value], dim=2)
    return key, value, mask


def _expand(prefix: torch.Tensor, sequences: int, like: torch.Tensor) -> torch.Tensor:
    """[K, l, G, h] (or [N, l, G, h]) as [N, G, l, h], candidate-major."""
    per_candidate = sequences // prefix.shape[0]
    tiled = prefix.to(like.dtype).transpose(1, 2)[:, None].expand(-1, per_candidate, -1, -1, -1)
    return tiled.reshape(sequences, *tiled.shape[2:])


def _column_mask(bank: Bank, mask: torch.Tensor) -> torch.Tensor:
    """What goes in front of `mask` [N, 1 or H, L, S]: [N, 1 or H, L, l], each candidate sees its own columns only."""
    size = (*mask.shape[:3], max(bank.columns))
    if bank.own_columns is None:
        return mask.new_ones(size) if mask.dtype == torch.bool else mask.new_zeros(size)
    seen = bank.own_columns.repeat_interleave(mask.shape[0] // len(bank.columns), dim=0)[:, None, None].expand(size)
    if mask.dtype == torch.bool:
        return seen
    return mask.new_zeros(size).masked_fill(~seen, torch.finfo(mask.dtype).min)


def _check_understood(module: nn.Module, kwargs: Mapping[str, Any]) -> None:
    for name, value in kwargs.items():
        if value is not None and name not in _UNDERSTOOD:
            raise AutopeftError(
                f"{type(module).__name__} gives its attention '{name:.100}', which autopeft's attention does not know, "
                "so hybrids on this model would compute something else; use a model of another family"
            )


def _biased(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    bias: torch.Tensor,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """The mask as floats, with a bias [N or 1, H, L, S] of positions: columns of prefixes in front have none."""
    if mask is None and _is_causal(module, kwargs) and query.shape[2] > 1:
        mask = _causal_mask(query.shape[2], key.shape[2], query.device)
    bias = nn.functional.pad(bias.to(query.dtype), (key.shape[2] - bias.shape[3], 0))
    return bias if mask is None else _masked(bias, mask)


def _masked(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The scores with what is not seen as small as it gets."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _causal_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """[1, 1, queries, keys]: the queries are the last tokens of the keys."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def _explicit_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Transformers' boolean mask, never left out for a causal model: its last columns must line up with the tokens."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


for _name, _function in ((FUSED, fused_attention), (_FUSED_ANYWHERE, fused_attention), (MATMUL, matmul_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, _explicit_mask)
