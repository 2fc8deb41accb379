"""Samplers, one a file: where the next candidate comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.config import read_plugin
from autopeft.registry import Registry
from autopeft.searching.samplers._base import SamplerPlugin

SAMPLERS: Registry[SamplerPlugin] = Registry(
    "autopeft.searching.samplers",
    SamplerPlugin,
    "sampler",
)

__all__ = ["SAMPLERS", "SamplerPlugin", "sampler_from"]


def sampler_from(spec: str | Mapping[str, Any]) -> SamplerPlugin:
    """A name (`tpe`), or a mapping of `name` and the sampler's options (`{name: tpe, startup: 20, seed: 1}`)."""
    return read_plugin(SAMPLERS, spec, "sampler", default="known_cost")
