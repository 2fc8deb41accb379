"""Whether the Hugging Face hub can be asked, found out in seconds."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlparse

from autopeft.errors import AutopeftError


def hub_answers() -> bool:
    """False when the hub cannot be reached: its client retries for half a minute before it says so."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        address = urlparse(constants.ENDPOINT)
        if not address.hostname:
            raise ValueError("no host in it")
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return False
    except ValueError as error:
        raise AutopeftError(f"HF_ENDPOINT: '{constants.ENDPOINT}' is no address of a hub ({error}); mend it") from error
    return True
