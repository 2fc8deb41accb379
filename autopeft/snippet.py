"""The lines of Python that load a base model as it was trained on, for a model card."""

from __future__ import annotations

from autopeft.models import ModelSource

_LOAD = "base = AutoModelForSequenceClassification.from_pretrained({model}, {options})\n"
_ONE = """from transformers import AutoConfig

config = AutoConfig.from_pretrained({model})
config.num_labels, config.problem_type = 1, "regression"
"""


def base_lines(source: ModelSource, model: str, num_labels: int) -> str:
    """Lines that make `base` from the expression `model`, with what this very checkpoint needs and no more."""
    options, before = [f"num_labels={num_labels}"], ""
    if num_labels == 1 and source.saved().get("problem_type") == "single_label_classification":
        # A classifier's configuration refuses a single output when it is read.
        options, before = ["config=config"], _ONE.format(model=model)
    options.append('dtype="float32"')
    if source.has_other_head(num_labels):
        options.append("ignore_mismatched_sizes=True")
    pad_id = source.tokenizer().pad_token_id
    padding = "" if source.config().pad_token_id == pad_id else f"base.config.pad_token_id = {pad_id}\n"
    return before + _LOAD.format(model=model, options=", ".join(options)) + padding
