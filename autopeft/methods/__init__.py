"""PEFT methods, one a file: hyper-parameters, exact parameter count, and the bank that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.errors import AutopeftError, shown, suggest
from autopeft.methods._base import Method, MethodFlops
from autopeft.methods._checks import MOST_SIZE
from autopeft.methods._weights import Weight
from autopeft.registry import Registry

METHODS: Registry[Method] = Registry("autopeft.methods", Method, "method")

__all__ = ["METHODS", "MOST_SIZE", "Method", "MethodFlops", "Weight", "method_from_json"]


def method_from_json(data: Mapping[str, Any]) -> Method:
    """The method that `Method.to_json` wrote; `AutopeftError` for an unknown name, field or value."""
    if not isinstance(data, Mapping):
        raise AutopeftError(f"not a method: {shown(data)}; expected a mapping with 'method' and its fields")
    fields = dict(data)
    name = fields.pop("method", None)
    if not isinstance(name, str):
        raise AutopeftError(f"unknown method {shown(name)}; {suggest(name, METHODS.names())}")
    cls = METHODS.get(name)
    for name in fields:
        if name not in cls.option_names():
            raise AutopeftError(f"method '{cls.name}': unknown field '{name}'; {suggest(name, cls.option_names())}")
    return cls(**fields)


def __getattr__(name: str) -> Any:
    # `from autopeft.methods import LoRA`, for every plug-in of the folder.
    for cls in METHODS.all().values():
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module 'autopeft.methods' has no attribute '{name}'")
