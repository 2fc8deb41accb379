"""The hybrid as a method of Hugging Face PEFT, type `AUTOPEFT`.

After `import autopeft`, `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained` and
`AutoPeftModelForSequenceClassification.from_pretrained` work with it like with any other method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import set_additional_trainable_modules
from torch import nn

from autopeft.anatomy import head_names, shape_of
from autopeft.attachment import NAME, Banks, Hooks
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid

PEFT_TYPE = "AUTOPEFT"
PREFIX = "autopeft_"


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
        self.peft_type = PEFT_TYPE
        if isinstance(self.hybrid, Hybrid):
            self.hybrid = self.hybrid.to_json()

    def value(self) -> Hybrid:
        """The hybrid itself."""
        return Hybrid.from_json(self.hybrid)


class HybridLayer(nn.Module, BaseTunerLayer):
    """Holds the banks of every adapter of the model and wires the active one; stands at the model's root."""

    adapter_layer_names = ("autopeft_banks",)
    other_param_names = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Not a submodule: this layer is the model's child, and must not be its parent too.
        self.__dict__["owner"] = model
        self.autopeft_banks = nn.ModuleDict()
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []
        self._hooks: Hooks | None = None

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Never called: the banks act through hooks."""
        raise NotImplementedError("the hybrid acts through hooks on the backbone's modules")

    def add(self, name: str, banks: Banks) -> None:
        """Add an adapter; the first one becomes active."""
        self.autopeft_banks[name] = banks
        if not self._active_adapter:
            self._active_adapter = [name]
        self._wire()

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter the active one; hybrids cannot be active together."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if len(names) > 1:
            raise ValueError(f"one hybrid can be active at a time, not {names}")
        super().set_adapter(names, inference_mode=inference_mode)
        self._wire()

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the hybrid on or off."""
        super().enable_adapters(enabled)
        self._wire()

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter's weights."""
        self.unwire()
        super().delete_adapter(adapter_name)
        self._wire()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Called by PEFT after loading: banks stay fp32 and go where the backbone is."""
        banks = cast(Banks, self.autopeft_banks[adapter_name])
        if any(parameter.is_meta for parameter in banks.parameters()):
            return
        if device is None:
            banks.place(self.__dict__["owner"])
        else:
            banks.to(device)

    def unwire(self) -> None:
        """Take the hooks off the model."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def _wire(self) -> None:
        self.unwire()
        active = [n for n in self._active_adapter if n in self.autopeft_banks]
        if active and not self._disable_adapters:
            self._hooks = Hooks(self.__dict__["owner"], cast(Banks, self.autopeft_banks[active[0]]))


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
        self._add_heads(model, config)
        layer: Any = getattr(model, NAME, None)
        if layer is None:
            layer = HybridLayer(model)
            model.add_module(NAME, layer)
        banks = Banks([config.value()], shape_of(model), [config.seed])
        if not any(parameter.is_meta for parameter in banks.parameters()):
            banks.place(cast(Any, model))
        layer.add(adapter_name, banks)
        self._mark_only_adapters_as_trainable(model)
        layer.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        set_additional_trainable_modules(
            model=model,
            peft_config=config,
            model_config=BaseTuner.get_model_config(self),
            adapter_name=adapter_name,
            activate_adapter=adapter_name in self.active_adapters,
        )

    @staticmethod
    def _add_heads(model: nn.Module, config: HybridConfig) -> None:
        """PEFT knows `classifier` and `score`; some families' heads have more modules."""
        if config.task_type == "SEQ_CLS":
            known = list(config.modules_to_save or [])
            config.modules_to_save = known + [h for h in head_names(model) if h not in known]

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("hybrids replace no modules")

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # Only heads are put back; PEFT's own version expects them to be linear maps with a weight.
        setattr(parent, child_name, new_module)

    def unload(self) -> nn.Module:
        """The bare model, head as trained, hybrid removed."""
        layer: Any = getattr(self.model, NAME)
        layer.unwire()
        delattr(self.model, NAME)
        return super().unload()

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refused: only hybrids of LoRA merge, and those export as stock PEFT LoRA."""
        raise AutopeftError(
            "a hybrid does not merge into the backbone; export a LoRA-only hybrid as stock PEFT LoRA and merge that"
        )


def register() -> None:
    """Make PEFT know the type; a second call does nothing.

    `register_peft_method` refuses names outside its enumeration, but the mappings that it fills take any key.
    """
    PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = HybridConfig
    PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = HybridTuner
    PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = PREFIX


register()
