"""Names of a hybrid's weights in PEFT's files, which hold no adapter's name, and in a model, where each has its own.

A model's are `<path>.autopeft_banks.<adapter>.layers.<i>.<site>.<method>.<weight>`, a file's have no `<adapter>`. Older
files have the name that the adapter was saved under.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from autopeft.errors import AutopeftError

#: The attribute that holds the adapters' banks by name.
BANKS = "autopeft_banks"
#: What a `PeftModel` puts in front of all names.
WRAPPED = "base_model.model."
_NAMED = re.compile(rf"^(.*\b{BANKS}\.)[^.]+\.((?:layers\.\d+\.[^.]+|model\.[^.]+|shared)\.[^.]+\.[^.]+)$")


def without_adapter(key: str, adapter: str) -> str:
    """A model's key as it stands in a file; keys of other modules stay."""
    path, found, rest = key.partition(f"{BANKS}.{adapter}.")
    return f"{path}{BANKS}.{rest}" if found else key


def as_saved_now(key: str) -> str:
    """A file's key as this version writes it, whatever adapter's name is in it."""
    return _NAMED.sub(r"\1\2", key)


def check_name(adapter: str, heads: Mapping[str, nn.Module | None]) -> None:
    """`AutopeftError` for a name that PyTorch cannot give a module, or that would cost other adapters their heads.

    PEFT leaves out of a file all weights that have another adapter's name as a part of their own.
    """
    parts = {BANKS, *heads}
    for module in heads.values():
        if module is not None:
            plain = getattr(module, "original_module", module)
            parts |= {"modules_to_save", *(part for name, _ in plain.named_parameters() for part in name.split("."))}
    if not adapter or "." in adapter or adapter in parts or hasattr(nn.ModuleDict(), adapter):
        why = "is empty" if not adapter else "has a dot in it" if "." in adapter else "is a name that a module has"
        raise AutopeftError(f"adapter name '{adapter}' {why}; use another one, such as 'task_a'")


def check_fit(adapter: str, expected: Mapping[str, Any], given: Mapping[str, Any], names: Iterable[str]) -> None:
    """`AutopeftError` unless `given` has the weights `names` of an adapter, no others, of their sizes in `expected`."""
    names, labels = set(names), 0
    own = {key for key in given if f"{BANKS}." in key}
    wrong = [f"no {_short(key, adapter)}" for key in sorted(names - own)]
    wrong += [f"{_short(key, adapter)} too many" for key in sorted(own - names)]
    wrong += [f"{_short(key, adapter)} has whole numbers" for key in sorted(own) if not given[key].is_floating_point()]
    for key in sorted(given.keys() & expected.keys()):
        there, wanted = tuple(given[key].shape), tuple(expected[key].shape)
        if there != wanted:
            wrong.append(f"{_short(key, adapter)} is {there} instead of {wanted}")
            labels = there[0] if key not in own and there[1:] == wanted[1:] else labels
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        remedy = "load both files of one export, on the model that it was made for"
        raise AutopeftError(
            f"adapter '{adapter}': the weights do not fit its configuration and this model "
            f"({'; '.join(wrong[:3])}{more}); "
            f"{f'load the base model with num_labels={labels}' if labels and own == names else remedy}"
        )


def _short(key: str, adapter: str) -> str:
    return without_adapter(key, adapter).rpartition(f"{BANKS}.")[2].removeprefix(WRAPPED)
