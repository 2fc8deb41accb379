"""What a pretrained model's files hold, so that it is known again when a search goes on or an adapter is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from autopeft.doors import door

#: Files of a model's folder that nothing is loaded from: texts for people, what a training left, other frameworks'.
_UNUSED = (
    *(".*", "*.md", "*.png", "*.jpg", "*.jpeg", "*.pdf", "*.log", "*.lock", "LICENSE*", "NOTICE*", "events.out.*"),
    *("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "trainer_state.json", "*_results.json"),
    *("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "generation_config.json"),
)
#: Texts that a tokenizer is made of; others are for people.
_TEXTS = ("vocab.txt", "merges.txt", "bpe.codes.txt", "spiece.txt")
#: Files that are hashed at the same time.
_THREADS = 4


def model_files(location: str) -> dict[str, str]:
    """SHA-256 of each file that a model is made of, by name; of a hub's model its commit, as `{"commit": ...}`.

    A moved folder has the same, one with an edited configuration, tokenizer or weight another. Empty where the hub's
    cache does not hold the model.
    """
    folder = Path(location)
    if folder.is_file():
        return {folder.name: _digest(folder)}
    if not folder.is_dir():
        return _commit(location)
    with ThreadPoolExecutor(_THREADS) as threads:
        files = sorted(_used(folder), key=lambda path: path.name)
        return {path.name: digest for path, digest in zip(files, threads.map(_digest, files), strict=True)}


def model_bytes(location: str) -> int:
    """The size of what `model_files` reads."""
    folder = Path(location)
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in _used(folder)) if folder.is_dir() else 0


def difference(there: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """In words, which files of two fingerprints differ, with the beginnings of both.

    None when none does, and when one of the two is not known (empty).
    """
    if not there or not now:
        return None
    differ = [name for name in sorted({*there, *now}) if there.get(name) != now.get(name)]
    if not differ:
        return None
    first = differ[0]
    more = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
    return f"{first} (there: {_short(there.get(first))}, now: {_short(now.get(first))}{more})"


def _used(folder: Path) -> Iterator[Path]:
    with door(folder):
        names = [path for path in folder.iterdir() if path.is_file()]
    # Where both are, transformers takes these.
    safetensors = {"model.safetensors", "model.safetensors.index.json"} & {path.name for path in names}
    for path in names:
        unused = any(fnmatch(path.name, pattern) for pattern in _UNUSED)
        unused |= path.suffix == ".txt" and path.name not in _TEXTS
        if not unused and not (safetensors and fnmatch(path.name, "pytorch_model*.bin*")):
            yield path


def _digest(path: Path) -> str:
    with door(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _commit(repository: str) -> dict[str, str]:
    """The commit that the hub's cache has as the newest: what is loaded, as `from_pretrained` has just asked for it."""
    from huggingface_hub import try_to_load_from_cache

    with door(f"model '{repository}'", "the hub's cache cannot be read"):
        found = try_to_load_from_cache(repository, "config.json")
    return {"commit": Path(found).parent.name} if isinstance(found, str) else {}


def _short(digest: str | None) -> str:
    return "no such file" if digest is None else digest[:12]
