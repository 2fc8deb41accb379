"""What a model's folder and configuration must hold before a library is let loose on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from importlib import util
from pathlib import Path
from typing import Any

from autopeft.doors import door, read_json
from autopeft.errors import AutopeftError

#: The most of what a configuration may ask for, by all names that the families have for it. Larger than any model is,
#: and small enough that describing it takes no time.
_LAYERS, _HEADS, _WIDTH, _VOCABULARY, _ANY = 512, 2**14, 2**20, 2**24, 2**30
MOST: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_key_value_heads"), _HEADS),
    **dict.fromkeys(("hidden_size", "dim", "n_embd", "embedding_size", "intermediate_size", "hidden_dim"), _WIDTH),
    **dict.fromkeys(("n_inner", "head_dim", "type_vocab_size"), _WIDTH),
    "vocab_size": _VOCABULARY,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), _ANY),
}
#: Of the task that a checkpoint was trained for, and of what a model returns: ours to say, whatever is in the file.
OURS = (
    "num_labels", "id2label", "label2id", "problem_type", "return_dict", "use_return_dict", "torchscript",
    "output_attentions", "output_hidden_states", "attn_implementation", "_attn_implementation",
)  # fmt: skip
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("*.safetensors", "*.bin")


def check_folder(folder: Path, name: str) -> None:
    """`AutopeftError` where a folder is of another kind, or its lists of files lead elsewhere."""
    place = f"model '{name}'"
    if (folder / "adapter_config.json").exists():
        # transformers would load the adapter's base model, and the adapter on it.
        raise AutopeftError(f"{place}: holds a PEFT adapter (adapter_config.json); give the model that it was made for")
    if not (folder / "config.json").exists():
        raise AutopeftError(f"{place}: cannot be loaded from this folder (no config.json in it); give a model's folder")
    for index in _INDICES:
        if (folder / index).exists():
            _check_index(folder / index)


def gguf_in(folder: Path, name: str) -> Path | None:
    """The GGUF file of a folder that holds nothing else to load a model from; `AutopeftError` for several."""
    with door(f"model '{name}'"):
        files = [] if (folder / "config.json").exists() else sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise AutopeftError(f"model '{name}': holds {len(files)} GGUF files ({names}); give one of them")
    return files[0] if files else None


def read_gguf_config(file: Path, name: str) -> dict[str, Any]:
    """What a GGUF file says of its model, as a configuration; `AutopeftError` where its sizes are not sane."""
    if util.find_spec("gguf") is None:
        raise AutopeftError(f"model '{name}': reading GGUF takes a package; pip install 'autopeft[demo-llm]'")
    if not file.is_file():
        raise AutopeftError(f"model '{name}': {file.name} is not there any more; bring it back")
    values = dict(_gguf_values(file, file.stat().st_mtime_ns))
    check_sizes(values, f"model '{name}'")
    return values


def gguf_options() -> dict[str, Any]:
    """Options of `from_pretrained` by which a GGUF file's weights are dense ones, whatever kernels are installed."""
    import transformers
    from tqdm.auto import tqdm  # type: ignore[import-untyped]
    from transformers import modeling_gguf_pytorch_utils as module

    # The one bar of transformers' that its switch does not reach.
    module.tqdm = partial(tqdm, disable=True)
    # Earlier versions know no other way.
    made = getattr(transformers, "GgufConfig", None)
    return {} if made is None else {"quantization_config": made(dequantize=True)}


def settle_gguf(model: Any) -> None:
    """Make a model an ordinary one whose dense weights came out of a GGUF file: transformers would not save it."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and quantizer.quantization_config.quant_method == "gguf":
        quantizer.remove_quantization_config(model)


@lru_cache(maxsize=4)
def _gguf_values(file: Path, changed: int) -> dict[str, Any]:
    # Read once: it takes seconds, as the file's vocabulary is read along.
    from transformers import AutoConfig

    values: dict[str, Any] = AutoConfig.from_pretrained(file.parent, gguf_file=file.name).to_dict()
    return values


def _check_index(path: Path) -> None:
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise AutopeftError(f"{path}: 'weight_map' is no mapping of weights to files; download the model again")
    for file in sorted(set(map(str, files.values()))):
        if Path(file).name != file:
            raise AutopeftError(f"{path}: '{file}' is not a file of this folder; download the model again")
        if not (path.parent / file).is_file():
            raise AutopeftError(f"{path}: {file} is missing; download the model again")


def read_config(location: str, name: str, local: bool) -> dict[str, Any]:
    """The configuration file of a folder, or of a hub id; `AutopeftError` where its sizes are not sane."""
    if Path(location).is_dir():
        values = read_json(Path(location) / "config.json")
    else:
        from transformers import PretrainedConfig

        values, _ = PretrainedConfig.get_config_dict(location, local_files_only=local)
    check_sizes(values, f"model '{name}': config.json")
    return values


def check_sizes(values: Mapping[str, Any], place: str) -> None:
    """`AutopeftError` for a number of a configuration that no model has; absent ones and None are the library's."""
    for name in values.keys() & MOST.keys():
        # DeBERTa tells no segments apart.
        value, least = values[name], 0 if name == "type_vocab_size" else 1
        if value is not None and (type(value) is not int or not least <= value <= MOST[name]):
            most = f"{MOST[name]:,}"
            raise AutopeftError(f"{place}: {name} is {value!r:.40}; expected a whole number from {least} to {most}")
    if values.get("is_decoder") or values.get("add_cross_attention"):
        # Its first token, which the head reads, would see no other; or it waits for an encoder.
        raise AutopeftError(f"{place}: it describes a decoder (is_decoder, add_cross_attention); set these to false")
    heads, kept = (values.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
    if heads and kept and heads % kept:
        raise AutopeftError(
            f"{place}: num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kept})"
        )
    vocabulary, pad = values.get("vocab_size"), values.get("pad_token_id")
    if isinstance(pad, int) and isinstance(vocabulary, int) and not -vocabulary <= pad < vocabulary:
        raise AutopeftError(f"{place}: pad_token_id ({pad}) is not below vocab_size ({vocabulary})")


def check_weights(folder: Path, parameters: int, name: str) -> None:
    """`AutopeftError` where a folder's weights are far too small for so many parameters: all would be made up."""
    with door(f"model '{name}'"):
        files = {file: file.stat().st_size for kind in _WEIGHTS for file in folder.glob(kind)}
    for file, size in files.items():
        with door(file), file.open("rb"):
            # Readers of weights take what they may not open for a file that is not there.
            pass
        if not size:
            raise AutopeftError(f"{file}: is empty; download the model again")
    size = sum(files.values())
    # Quantised weights have half a byte each.
    if 0 < size < parameters // 4:
        raise AutopeftError(
            f"model '{name}': its config.json describes {parameters:,} parameters, but its weights are {size:,} bytes; "
            "use the files that belong together"
        )
