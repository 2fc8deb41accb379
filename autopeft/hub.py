"""Whether the Hugging Face hub can be asked, found out in seconds."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlparse


def hub_answers() -> bool:
    """False when the hub cannot be reached: its client retries for half a minute before it says so."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True
