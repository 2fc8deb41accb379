"""The formats by name."""

from __future__ import annotations

from autopeft.formats._base import Format
from autopeft.registry import Registry

FORMATS: Registry[Format] = Registry("autopeft.formats", Format, "format", reserved=lambda: ("auto",))
