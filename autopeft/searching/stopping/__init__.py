"""Rules for stopping a candidate before its last epoch, one a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.config import read_plugin
from autopeft.registry import Registry
from autopeft.searching.stopping._base import Course, StoppingPlugin

STOPPING: Registry[StoppingPlugin] = Registry("autopeft.searching.stopping", StoppingPlugin, "stopping rule")

__all__ = ["STOPPING", "Course", "StoppingPlugin", "stopping_from"]


def stopping_from(spec: str | Mapping[str, Any] | None, where: str = "stopping") -> StoppingPlugin:
    """A name (`pareto`), or a mapping of `name` and the rule's options (`{name: pareto, confidence: 0.95}`)."""
    return read_plugin(STOPPING, spec, where, default="pareto")
