"""The lines of Python that load a base model as it was trained on, for a model card."""

from __future__ import annotations

import json

from autopeft.models import ModelSource
from autopeft.readouts import Readout

_LOAD = "base = {auto_class}.from_pretrained({model}, {options})\n"
_ONE = """from transformers import AutoConfig

config = AutoConfig.from_pretrained({model})
config.num_labels, config.problem_type = 1, {problem_type}
"""


def base_lines(source: ModelSource, model: str, readout: Readout) -> str:
    """Lines that make `base` from the expression `model`, with what this very checkpoint needs and no more."""
    options, before = [f"num_labels={readout.outputs}"], ""
    if readout.outputs == 1 and source.saved().get("problem_type") == "single_label_classification":
        # A classifier's configuration refuses a single output when it is read.
        options, before = ["config=config"], _ONE.format(model=model, problem_type=json.dumps(readout.problem_type))
    options.append('dtype="float32"')
    if source.trust_remote_code:
        options.append("trust_remote_code=True")
    if source.has_other_head(readout):
        options.append("ignore_mismatched_sizes=True")
    pad_id = source.tokenizer().pad_token_id
    padding = "" if source.config().pad_token_id == pad_id else f"base.config.pad_token_id = {pad_id}\n"
    return before + _LOAD.format(auto_class=readout.auto_class, model=model, options=", ".join(options)) + padding
