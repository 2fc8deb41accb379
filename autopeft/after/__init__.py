"""What is done with trained adapters: they are calibrated, mixed, added up. One method a file."""

from autopeft.after._base import AfterTraining
from autopeft.registry import Registry

AFTER: Registry[AfterTraining] = Registry("autopeft.after", AfterTraining, "method after training")

__all__ = ["AFTER", "AfterTraining"]
