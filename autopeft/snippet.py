"""The lines of Python that load a base model as it was trained on, for a model card."""

from __future__ import annotations

from autopeft.models import ModelSource
from autopeft.quantising import Kind, configuration

_LOAD = "base = AutoModelForSequenceClassification.from_pretrained({model}, {options})\n"
_ONE = """from transformers import AutoConfig

config = AutoConfig.from_pretrained({model})
config.num_labels, config.problem_type = 1, "regression"
"""
_UNIFORM = """from autopeft.quantising.weights import quantise_uniform

quantise_uniform(base, skip={skip})
"""
_STEADY = """for module in model.modules():
    # In evaluation mode bitsandbytes rounds more on a CPU.
    module.training = "bitsandbytes" in type(module).__module__
"""


def base_lines(source: ModelSource, model: str, num_labels: int) -> str:
    """Lines that make `base` from the expression `model`, with what this very checkpoint needs and no more."""
    options, before = [f"num_labels={num_labels}"], ""
    if num_labels == 1 and source.saved().get("problem_type") == "single_label_classification":
        # A classifier's configuration refuses a single output when it is read.
        options, before = ["config=config"], _ONE.format(model=model)
    options.append('dtype="float32"')
    if source.quantise and source.quantise != "int4":
        before += _quantised(source, source.quantise)
        options.append("quantization_config=quantised")
    if source.trust_remote_code:
        options.append("trust_remote_code=True")
    if source.has_other_head(num_labels):
        options.append("ignore_mismatched_sizes=True")
    pad_id = source.tokenizer().pad_token_id
    padding = "" if source.config().pad_token_id == pad_id else f"base.config.pad_token_id = {pad_id}\n"
    uniform = _UNIFORM.format(skip=_outside(source)) if source.quantise == "int4" else ""
    return before + _LOAD.format(model=model, options=", ".join(options)) + uniform + padding


def model_lines(source: ModelSource) -> str:
    """Lines to follow once the adapter is on `model`."""
    return _STEADY if source.quantise and source.quantise != "int4" else ""


def _quantised(source: ModelSource, kind: Kind) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in configuration(kind, _outside(source)).items())
    return f"from transformers import BitsAndBytesConfig\n\nquantised = BitsAndBytesConfig({arguments})\n"


def _outside(source: ModelSource) -> list[str]:
    from autopeft.anatomy import without_weights
    from autopeft.quantising.loading import maps_outside

    return maps_outside(without_weights(source.config(), source.trust_remote_code))
