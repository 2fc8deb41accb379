"""Recipes followed: what a search has exported, trained again, with other seeds or on another task."""

from __future__ import annotations

from typing import Any

#: Fields of an experiment that say what is searched, and how long: a recipe needs none of them, and whatever they say
#: is no mistake then.
UNUSED: dict[str, Any] = {
    "space": "lora_ranks", "servable": None, "budget": {}, "objectives": None, "trials": 1, "warm_start": None
}  # fmt: skip
