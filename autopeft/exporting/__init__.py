"""What a user takes home: trained weights as a PEFT adapter, the hybrid as JSON, and a model card."""

from __future__ import annotations

from autopeft.exporting._adapter import UnfitWeights, format_of, write_adapter, written
from autopeft.exporting._card import write_card
from autopeft.exporting._folder import check_free, filling
from autopeft.exporting._lora import is_lora_only
from autopeft.exporting._record import Engine, Format, Record, write_record

__all__ = [
    "Engine", "Format", "Record", "UnfitWeights", "check_free", "filling", "format_of", "is_lora_only",
    "write_adapter", "write_card", "write_record", "written",
]  # fmt: skip
