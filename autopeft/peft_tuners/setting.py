"""Which tuner, how large, with which options: checked, without PyTorch or PEFT where nothing has to be looked up."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError, shown, suggest

if TYPE_CHECKING:
    from peft import PeftConfig

#: The size field of a tuner that is there or not, and has no size.
SWITCHED = "on"
#: Of a tuner, by its PEFT type: the field of its configuration that says how large it is.
SIZE_FIELDS: Mapping[str, str] = {
    "ADALORA": "init_r",
    "BEFT": SWITCHED,
    "BOFT": "boft_block_size",
    "C3A": "block_size",
    "FOURIERFT": "n_frequency",
    "FROD": "sparse_rate",
    "IA3": SWITCHED,
    "LN_TUNING": SWITCHED,
    "OFT": "oft_block_size",
    "OSF": "effective_rank",
    "ROAD": SWITCHED,
    "TINYLORA": "u",
    "UNILORA": "theta_d_length",
    "WAVEFT": "n_frequency",
}
#: Sizes are whole numbers: a field that is a share is the size in thousandths.
_SHARES = {"sparse_rate": 1_000}
#: Fields that have to change for the size field to be heeded, or that have no use outside PEFT's own training.
_SET: Mapping[str, Mapping[str, Any]] = {
    "OFT": {"r": 0},
    "ADALORA": {"total_step": 1},
    "FROD": {"progressbar": False},
    "SUPERTUNING": {"lora_alpha": 16},
}
#: Options that would name other modules of the model, train more than the tuner's own weights, or load something.
_TAKEN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "fan_in_fan_out",
    "feedforward_modules", "inference_mode", "layer_replication", "layers_pattern", "layers_to_transform",
    "modules_to_save", "peft_type", "peft_version", "rank_pattern", "revision", "target_modules", "target_parameters",
    "task_type", "token_indices", "trainable_token_indices",
}  # fmt: skip
_FOREIGN = re.compile(r"megatron|tokenizer|path|_config$|_pattern$|runtime|offload")
#: Options whose other values share weights in a way that depends on which layers are adapted.
_ONLY: Mapping[str, Any] = {"stride_A": 1, "weight_tying": 0.0, "use_dynamic_rank": False, "use_asa": False}
_MOST_OPTIONS, _MOST_NUMBER, _MOST_TEXT = 50, 1_000_000, 100
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Option = str | int | float | bool | None


@dataclass(frozen=True)
class Setting:
    """A tuner of PEFT (`loha`), the value of its size field, and other fields of its configuration.

    `size_field` is known for the tuners of PEFT 0.21, and `r` for others that have an `r`; it is `on` for those that
    have no size. `AutopeftError` for a tuner that PEFT lacks or that is refused, and for options it does not take.
    """

    tuner: str
    size: int
    size_field: str
    options: tuple[tuple[str, Option], ...] = ()

    @classmethod
    def of(cls, tuner: Any, size: int, size_field: Any = None, options: Mapping[str, Any] | None = None) -> Setting:
        """The checked setting; `size_field` and `options` as they are written in a space."""
        kind = known_tuner(tuner)
        field = size_field_of(kind, size_field)
        return cls(kind.lower(), size, field, checked_options(kind, field, options or {}))

    @property
    def type(self) -> str:
        """The name in PEFT's enumeration."""
        return self.tuner.upper()

    @property
    def name(self) -> str:
        """For people: `peft:loha`."""
        return f"peft:{self.tuner}"

    def fields(self) -> dict[str, Any]:
        """The fields of the tuner's configuration, without the modules that it acts on."""
        own = dict(_SET.get(self.type, {})) | dict(self.options)
        if self.size_field != SWITCHED:
            share = _SHARES.get(self.size_field)
            own[self.size_field] = self.size / share if share else self.size
        return own

    def config(self, targets: Collection[str], inputs: Collection[str] = (), **more: Any) -> PeftConfig:
        """PEFT's configuration for modules whose names end in `targets`; `inputs` are those scaled at their input."""
        config_class = _config_class(self.type)
        own = self.fields() | {"target_modules": sorted(targets)} | more
        if "feedforward_modules" in field_names(self.type):
            own["feedforward_modules"] = sorted(inputs)
        return config_class(**own)


def known_tuner(tuner: Any) -> str:
    """The PEFT type of a tuner's name; `AutopeftError` when the installed PEFT has none of that name."""
    types = tuner_types()
    if not isinstance(tuner, str) or tuner.upper() not in types:
        raise AutopeftError(f"peft: unknown tuner {shown(tuner)}; {suggest(tuner, [t.lower() for t in types])}")
    return tuner.upper()


def size_field_of(kind: str, given: Any = None) -> str:
    """The field that says how large a tuner is; `AutopeftError` when it is neither known nor given."""
    names = field_names(kind)
    if given is not None:
        free = [SWITCHED, *(n for n in names if n not in _TAKEN and "dropout" not in n and not _FOREIGN.search(n))]
        if given not in free:
            hint = suggest(given, free)
            raise AutopeftError(f"peft: tuner '{kind.lower()}' has no size field {shown(given)}; {hint}")
        return str(given)
    field = SIZE_FIELDS.get(kind, "r")
    if field != SWITCHED and field not in names:
        raise AutopeftError(
            f"peft: it is not known which field of tuner '{kind.lower()}' is its size; give 'size_field' "
            f"('{SWITCHED}' for a tuner without sizes)"
        )
    return field


def checked_options(kind: str, size_field: str, options: Mapping[str, Any]) -> tuple[tuple[str, Option], ...]:
    """The options sorted by name; `AutopeftError` for those that the tuner lacks or that are not the user's."""
    if not isinstance(options, Mapping) or len(options) > _MOST_OPTIONS:
        raise AutopeftError(
            f"peft: options must be a mapping of fields of the tuner's configuration, not {shown(options)}"
        )
    place, names = f"peft: tuner '{kind.lower()}': option", field_names(kind)
    for name, value in options.items():
        if name not in names:
            free = [n for n in names if n not in _TAKEN and not _FOREIGN.search(n)]
            raise AutopeftError(f"{place} {shown(name)} is unknown; {suggest(name, free)}")
        if name == size_field:
            raise AutopeftError(f"{place} '{name}' is its size; give it as 'size'")
        if name in _TAKEN or _FOREIGN.search(name):
            raise AutopeftError(f"{place} '{name}' cannot be chosen: autopeft sets it, or it reaches beyond the tuner")
        if "dropout" in name and value:
            raise AutopeftError(f"{place} '{name}' must be 0: candidates are trained without dropout")
        if name in _ONLY and value != _ONLY[name]:
            raise AutopeftError(
                f"{place} '{name}' must be {_ONLY[name]}: what one layer costs would depend on the others"
            )
        _check_value(f"{place} '{name}'", value)
    return tuple(sorted(options.items()))


def _check_value(place: str, value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, (int, float)) and abs(value) <= _MOST_NUMBER:
        return
    if isinstance(value, str) and len(value) <= _MOST_TEXT:
        return
    raise AutopeftError(
        f"{place} must be a number up to {_MOST_NUMBER:,}, a short text, true, false or null, not {shown(value)}"
    )


@cache
def tuner_types() -> tuple[str, ...]:
    """The types of the installed PEFT by name, without autopeft's own."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return tuple(sorted(k for t in PEFT_TYPE_TO_CONFIG_MAPPING if (k := _plain(t)) != "AUTOPEFT"))


@cache
def field_names(kind: str) -> tuple[str, ...]:
    """The fields of a tuner's configuration."""
    return tuple(f.name for f in dataclasses.fields(_config_class(kind)) if f.init)


def _config_class(kind: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return next(c for t, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if _plain(t) == kind)


def tuner_class(kind: str) -> Any:
    """The class of PEFT that puts a tuner on a model."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return next((c for t, c in PEFT_TYPE_TO_TUNER_MAPPING.items() if _plain(t) == kind), None)


def _plain(kind: Any) -> str:
    return str(getattr(kind, "value", kind))
