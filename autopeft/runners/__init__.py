"""Where candidates are trained: Ray Tune workers, or this process. One file here is one runner."""

from __future__ import annotations

from typing import Any

from autopeft.config import read_plugin
from autopeft.registry import Registry
from autopeft.runners._base import Runner

RUNNERS: Registry[Runner] = Registry("autopeft.runners", Runner, "runner")

__all__ = ["RUNNERS", "Runner", "runner_from"]


def runner_from(spec: Any, where: str = "runner") -> Runner:
    """A name (`ray`), or a mapping of `name` and the runner's options."""
    return read_plugin(RUNNERS, spec, where, default="ray")
