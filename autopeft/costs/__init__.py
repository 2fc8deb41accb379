"""Costs of a hybrid that are known exactly before training, one a file."""

from autopeft.costs._base import Cost
from autopeft.metrics import OTHERS
from autopeft.readouts import known_metrics
from autopeft.registry import Registry
from autopeft.wording import in_bytes, number

# Scores and costs stand in one mapping of an evaluation.
COSTS: Registry[Cost] = Registry("autopeft.costs", Cost, "cost", lambda: (*OTHERS, *known_metrics()))

__all__ = ["COSTS", "Cost", "amount"]


def amount(name: str, value: float | None) -> str:
    """What a cost, or another figure of an evaluation, comes to as people read it: bytes with their unit."""
    of_bytes = value is not None and name in COSTS.names() and COSTS.get(name).unit == "bytes"
    return in_bytes(int(value or 0)) if of_bytes else number(value)
