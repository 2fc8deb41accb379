"""The hybrid as a method of Hugging Face PEFT, type `AUTOPEFT`.

After `import autopeft`, `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`,
`AutoPeftModelForSequenceClassification.from_pretrained` (or that for tokens) and transformers' own `from_pretrained` of
an adapter's folder work with it like with any other method.
"""

from __future__ import annotations

import enum
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import set_additional_trainable_modules
from torch import nn

from autopeft.adapter_keys import WRAPPED, as_saved_now, check_fit, check_name, without_adapter
from autopeft.anatomy import head_names, shape_of, vocabulary_of
from autopeft.attaching import NAME, Banks
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.merging import merge
from autopeft.peft_layer import HybridLayer, as_dense, as_stored, own_keys

PREFIX = "autopeft_"


def peft_model(model: Any, config: PeftConfig) -> Any:
    """`get_peft_model`, without what PEFT and transformers say to each other of their next versions."""
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        return get_peft_model(model, config)


class HybridType(str, enum.Enum):  # noqa: UP042 - as PEFT's own: it cuts the name out of the long form
    """A type like those of PEFT's enumeration, equal to the string in adapters' files."""

    AUTOPEFT = "AUTOPEFT"


PEFT_TYPE = HybridType.AUTOPEFT


@dataclass
class HybridConfig(PeftConfig):
    """PEFT configuration of a hybrid, given as a `Hybrid` (kept as its JSON); `seed` draws the initial weights.

    `get_peft_model(model, HybridConfig(hybrid=hybrid, task_type="SEQ_CLS"))`.
    """

    hybrid: Any = field(default_factory=dict)
    modules_to_save: list[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Name the type."""
        super().__post_init__()
        self.peft_type = cast(Any, PEFT_TYPE)
        if isinstance(self.hybrid, Hybrid):
            self.hybrid = self.hybrid.to_json()

    def value(self) -> Hybrid:
        """The hybrid itself."""
        return Hybrid.from_json(self.hybrid)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write `adapter_config.json`; the weights beside it, which PEFT wrote for one user only, get its mode."""
        super().save_pretrained(save_directory, **kwargs)
        weights = Path(save_directory, SAFETENSORS_WEIGHTS_NAME)
        with suppress(OSError):
            weights.chmod(Path(save_directory, CONFIG_NAME).stat().st_mode & 0o777)


class HybridTuner(BaseTuner):
    """PEFT's tuner for hybrids."""

    prefix = PREFIX
    tuner_layer_cls = HybridLayer
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Build the banks (fp32), wire them, freeze the backbone, and set up the head as a module to save."""
        config: HybridConfig = self.peft_config[adapter_name]
        if isinstance(model, PeftModel):
            raise AutopeftError(
                "the model has adapters of another kind; put the hybrid on the plain model (`model.unload()` gives it)"
            )
        self._add_heads(model, config)
        heads = {name: getattr(model, name, None) for name in config.modules_to_save or []}
        check_name(adapter_name, heads)
        layer = _layer_of(model)
        banks = Banks([config.value()], shape_of(model), [config.seed], vocabulary=vocabulary_of(cast(Any, model)))
        if not any(parameter.is_meta for parameter in banks.parameters()):
            banks.place(cast(Any, model))
        layer.add(adapter_name, banks)
        if config.inference_mode:
            layer.await_weights(adapter_name)
        # When all others were deleted, none is.
        alone = not self.active_adapters
        if alone:
            self.active_adapter = adapter_name
        self._mark_only_adapters_as_trainable(model)
        layer.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        set_additional_trainable_modules(
            model=model,
            peft_config=config,
            model_config=BaseTuner.get_model_config(self),
            adapter_name=adapter_name,
            activate_adapter=adapter_name in self.active_adapters,
        )
        if alone:
            # The heads' wrappers too.
            self.set_adapter(adapter_name, inference_mode=config.inference_mode)

    @staticmethod
    def _add_heads(model: nn.Module, config: HybridConfig) -> None:
        """PEFT knows `classifier` and `score`; some families' heads have more modules."""
        if config.task_type:
            known = list(config.modules_to_save or [])
            config.modules_to_save = known + [h for h in head_names(model) if h not in known]

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("hybrids replace no modules")

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # Only heads are put back; PEFT's own version expects them to be linear maps with a weight.
        setattr(parent, child_name, new_module)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, torch.Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, torch.Tensor]:
        # PEFT has left out all keys with another adapter's name in them, which may be `layers` or `down`.
        own, live = own_keys(model, adapter_name), model.state_dict()
        tensors = {key: state_dict[key] if key in state_dict else live[key] for key in own}
        return as_stored(model, adapter_name, tensors)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return without_adapter(key, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        # PEFT would leave what does not fit at its initial weights.
        own = own_keys(model, adapter_name)
        by_saved = {without_adapter(key, adapter_name).removeprefix(WRAPPED): key for key in own}
        named = as_dense(model, adapter_name, {as_saved_now(key): tensor for key, tensor in state_dict.items()})
        found = {by_saved.get(key.removeprefix(WRAPPED), key): tensor for key, tensor in named.items()}
        check_fit(adapter_name, model.state_dict(), found, own)
        return found

    def unload(self) -> nn.Module:
        """The bare model, head as trained, hybrid removed."""
        layer: Any = getattr(self.model, NAME)
        layer.unwire()
        layer.stop_awaiting()
        delattr(self.model, NAME)
        return super().unload()

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """The bare model with the active hybrid (or the one that is named) in its own weights, head as trained.

        `AutopeftError`, and nothing is changed, when one of its methods does not merge; with `safe_merge` also when a
        merged weight is no finite number. See `autopeft.merging`.
        """
        layer: Any = getattr(self.model, NAME)
        names = adapter_names or self.active_adapters
        if len(names) != 1 or names[0] not in layer.autopeft_banks:
            raise AutopeftError(f"one hybrid can be merged, not {', '.join(names) or 'none'}")
        merge(
            cast(Any, self.model),
            self.peft_config[names[0]].value(),
            layer.autopeft_banks[names[0]].weights(),
            safe_merge,
        )
        if names != self.active_adapters:
            self.set_adapter(names[0])
        return self.unload()

    def merge_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: what is merged is not taken out again."""
        raise AutopeftError(
            "a hybrid is not merged in place; merge_and_unload() gives the plain model with the hybrid in its weights"
        )

    unmerge_adapter = merge_adapter

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: weights of different hybrids do not add up."""
        raise AutopeftError(
            "hybrids cannot be added up, as their methods differ; export LoRA-only hybrids as stock PEFT LoRA and "
            "combine those"
        )


def _layer_of(model: nn.Module) -> HybridLayer:
    """The layer that holds the model's adapters, made when there is none."""
    layer = getattr(model, NAME, None)
    if layer is None:
        layer = HybridLayer(model)
        model.add_module(NAME, layer)
    if not isinstance(layer, HybridLayer):
        raise AutopeftError("the model has a hybrid from `autopeft.attach`; detach it before giving the model to PEFT")
    return layer


def register() -> None:
    """Make PEFT know the type; a second call does nothing.

    `register_peft_method` refuses names outside its enumeration, but the mappings that it fills take any key.
    """
    PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = HybridConfig
    PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = HybridTuner
    PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = PREFIX


register()
