"""Tracking: where the evaluations of a search are shown while it runs and afterwards. One file here is one kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.config import read_plugin
from autopeft.registry import Registry
from autopeft.tracking._base import Input, SearchInfo, Sizes, Status, Tracker, Tracking
from autopeft.tracking._sizes import sizes_over

TRACKING: Registry[Tracking] = Registry("autopeft.tracking", Tracking, "tracking")

#: What a configuration gets that does not say.
DEFAULT = "mlflow"

__all__ = [
    "DEFAULT",
    "TRACKING",
    "Input",
    "SearchInfo",
    "Sizes",
    "Status",
    "Tracker",
    "Tracking",
    "sizes_over",
    "tracking_from",
]


def tracking_from(spec: str | Mapping[str, Any] | None, where: str = "tracking") -> Tracking:
    """The tracking that a configuration asks for; nothing is opened yet.

    `spec` is a name (`mlflow`, `none`), a mapping of `name` and that kind's own fields, or None for the default.
    `AutopeftError`, starting with `where`, for anything else.
    """
    return read_plugin(TRACKING, spec, where, DEFAULT)
