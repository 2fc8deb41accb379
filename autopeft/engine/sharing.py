"""One copy of the frozen weights for all workers of a machine: a file that each of them maps into its memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autopeft.quantising.weights import rebind

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_frozen(model: PreTrainedModel, file: Path) -> Path | None:
    """Write the base model's weights as they are in memory; None when there is no room for them."""
    try:
        # Tied weights stand here once, under their first name.
        save_file({n: p.detach().contiguous() for n, p in model.base_model.named_parameters()}, file)
    except (OSError, SafetensorError):
        file.unlink(missing_ok=True)
        return None
    return file


def map_frozen(model: PreTrainedModel, file: Path) -> bool:
    """Put the file's weights in the place of the model's own, which are freed; False where it is not to be read.

    The pages are the operating system's, one copy however many processes read them; nobody writes to frozen weights.
    """
    try:
        weights = load_file(file)
    except (OSError, SafetensorError):
        # Another machine of a cluster, most likely: it keeps its own copy.
        return False
    own = dict(model.base_model.named_parameters())
    if own.keys() != weights.keys() or any(p.dtype != weights[n].dtype for n, p in own.items()):
        return False
    for name, parameter in own.items():
        parameter.data = weights[name]
    rebind(model)
    return True
