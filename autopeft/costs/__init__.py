"""Costs of a hybrid that are known exactly before training, one a file."""

from autopeft.costs._base import Cost
from autopeft.metrics import OTHERS
from autopeft.readouts import known_metrics
from autopeft.registry import Registry

# Scores and costs stand in one mapping of an evaluation.
COSTS: Registry[Cost] = Registry("autopeft.costs", Cost, "cost", lambda: (*OTHERS, *known_metrics()))

__all__ = ["COSTS", "Cost"]
