"""autopeft: which parameter-efficient fine-tuning methods to put in which layers, at which size, under a budget.

Names are imported when they are first used, so that `import autopeft` is quick. With `peft` already imported (or
imported later) the PEFT type AUTOPEFT is registered: exported hybrids load with `PeftModel.from_pretrained`.
"""

from __future__ import annotations

import importlib
from logging import getLogger
from typing import Any

from autopeft.on_import import after_import

__version__ = "0.1.0"

_NAMES = {
    "search": "autopeft.launch",
    "compare": "autopeft.comparing.launching",
    "Comparison": "autopeft.comparing.result",
    "train": "autopeft.following.launching",
    "TrainResult": "autopeft.following.result",
    "Recipe": "autopeft.recipe",
    "export": "autopeft.result",
    "evaluate": "autopeft.result",
    "SearchResult": "autopeft.result",
    "Experiment": "autopeft.experiment",
    "Hybrid": "autopeft.hybrid",
    "Candidate": "autopeft.candidate",
    "Evaluation": "autopeft.candidate",
    "SearchSpace": "autopeft.space",
    "Budget": "autopeft.budget",
    "BudgetedSampler": "autopeft.searching.budgeted",
    "ParetoFront": "autopeft.searching.front",
    "HybridConfig": "autopeft.peft_tuner",
    "save_baseline": "autopeft.baselines._kept",
    "load_baseline": "autopeft.baselines._kept",
    "attach": "autopeft.attaching",
    "shape_of": "autopeft.anatomy",
    "use_plugins": "autopeft.plugins",
    "AutopeftError": "autopeft.errors",
}

__all__ = ["__version__", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'autopeft' has no attribute '{name}'")
    return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    # Not what this module imports for itself, nor the subpackages that happen to be loaded.
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


# PEFT imports bitsandbytes, which warns of a faster kernel for evaluation that is not here, and would not be used.
getLogger("bitsandbytes.backends.cpu.ops").setLevel("ERROR")
# PEFT's import brings torch, so the type is registered when PEFT comes, not before.
after_import("peft", lambda: importlib.import_module("autopeft.peft_tuner"))
