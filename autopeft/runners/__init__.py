"""Where candidates are trained: Ray Tune workers, or this process. One file here is one runner."""

from __future__ import annotations

from autopeft.registry import Registry
from autopeft.runners._base import Runner

RUNNERS: Registry[Runner] = Registry("autopeft.runners", Runner, "runner")  # type: ignore[type-abstract]

__all__ = ["RUNNERS", "Runner"]
