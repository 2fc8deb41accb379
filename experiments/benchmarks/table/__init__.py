"""A table of trained hybrids, and what can be read from it without training."""

from .lookup import Table

__all__ = ["Table"]
