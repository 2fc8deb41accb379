"""The lines of Python that load a base model as it was trained on, for a model card."""

from __future__ import annotations

import json

from autopeft.models import ModelSource
from autopeft.quantising import Kind, configuration
from autopeft.readouts import Readout

_LOAD = "base = {auto_class}.from_pretrained({model}, {options})\n"
_ONE = """from transformers import AutoConfig

config = AutoConfig.from_pretrained({model})
config.num_labels, config.problem_type = 1, {problem_type}
"""
_UNIFORM = """from autopeft.quantising.weights import quantise_uniform

quantise_uniform(base, skip={skip})
"""
_STEADY = """for module in model.modules():
    # In evaluation mode bitsandbytes rounds more on a CPU.
    module.training = "bitsandbytes" in type(module).__module__
"""


def base_lines(source: ModelSource, model: str, readout: Readout) -> str:
    """Lines that make `base` from the expression `model`, with what this very checkpoint needs and no more."""
    labels = readout.configuration().get("num_labels")
    options, before = [] if labels is None else [f"num_labels={labels}"], ""
    if labels == 1 and source.saved().get("problem_type") == "single_label_classification":
        # A classifier's configuration refuses a single output when it is read.
        options, before = ["config=config"], _ONE.format(model=model, problem_type=json.dumps(readout.problem_type))
    options.append('dtype="float32"')
    if source.quantise and source.quantise != "int4":
        before += _quantised(source, source.quantise, readout)
        options.append("quantization_config=quantised")
    if source.trust_remote_code:
        options.append("trust_remote_code=True")
    if source.has_other_head(readout):
        options.append("ignore_mismatched_sizes=True")
    padding = _padding(source) if readout.given == "text" else ""
    uniform = _UNIFORM.format(skip=_outside(source, readout)) if source.quantise == "int4" else ""
    if source.gguf:
        options.insert(0, f"gguf_file={json.dumps(source.gguf)}")
    load = _LOAD.format(auto_class=readout.auto_class, model=model, options=", ".join(options))
    return before + load + uniform + padding


def _padding(source: ModelSource) -> str:
    pad_id = source.tokenizer().pad_token_id
    return "" if source.config().pad_token_id == pad_id else f"base.config.pad_token_id = {pad_id}\n"


def model_lines(source: ModelSource) -> str:
    """Lines to follow once the adapter is on `model`."""
    return _STEADY if source.quantise and source.quantise != "int4" else ""


def _quantised(source: ModelSource, kind: Kind, readout: Readout) -> str:
    options = configuration(kind, _outside(source, readout))
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"from transformers import BitsAndBytesConfig\n\nquantised = BitsAndBytesConfig({arguments})\n"


def _outside(source: ModelSource, readout: Readout) -> list[str]:
    from autopeft.anatomy import without_weights
    from autopeft.quantising.loading import maps_outside

    config = source.config(**readout.configuration())
    return maps_outside(without_weights(config, source.trust_remote_code, readout.auto_class))
