"""Put hybrids on a backbone and take them off again, without touching its weights."""

from autopeft.attaching._attachment import NAME, Attachment, attach
from autopeft.attaching._banks import Banks, Parts
from autopeft.attaching._hooks import Hooks
from autopeft.attaching._trial import try_hybrids

__all__ = ["NAME", "Attachment", "Banks", "Hooks", "Parts", "attach", "try_hybrids"]
