"""Samplers, one a file: where the next candidate comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.config import parse
from autopeft.errors import AutopeftError, suggest
from autopeft.registry import Registry
from autopeft.search.samplers._base import SamplerPlugin

SAMPLERS: Registry[SamplerPlugin] = Registry(
    "autopeft.search.samplers",
    SamplerPlugin,
    "sampler",
)

__all__ = ["SAMPLERS", "SamplerPlugin", "sampler_from"]


def sampler_from(spec: str | Mapping[str, Any], where: str = "sampler") -> SamplerPlugin:
    """A name (`tpe`), or a mapping of `name` and the sampler's options (`{name: tpe, startup: 20, seed: 1}`)."""
    fields = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(fields, Mapping):
        raise AutopeftError(f"{where}: expected a sampler's name or a mapping with 'name' (given: {spec!r})")
    if "name" not in fields:
        raise AutopeftError(f"{where}: name: missing; {suggest('', SAMPLERS.names())}")
    try:
        kind = SAMPLERS.get(str(fields["name"]))
    except AutopeftError as error:
        raise AutopeftError(f"{where}: {error}") from None
    return parse(kind, {key: value for key, value in fields.items() if key != "name"}, where)
