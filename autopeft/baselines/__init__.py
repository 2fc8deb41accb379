"""What is compared with, and is no hybrid on a frozen backbone: one baseline a file."""

from autopeft.baselines._base import Baseline, Fitted
from autopeft.registry import Registry

BASELINES: Registry[Baseline] = Registry("autopeft.baselines", Baseline, "baseline")

__all__ = ["BASELINES", "Baseline", "Fitted"]
