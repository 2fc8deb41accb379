"""Costs of a hybrid that are known exactly before training, one a file."""

from autopeft.costs._base import Cost
from autopeft.registry import Registry

COSTS: Registry[Cost] = Registry("autopeft.costs", Cost, "cost")

__all__ = ["COSTS", "Cost"]
