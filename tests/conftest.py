from __future__ import annotations

import os

from hypothesis import settings

# Before anything imports huggingface_hub: no test asks a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Timing on a shared machine is not what the properties are about.
settings.register_profile("autopeft", deadline=None)
settings.load_profile("autopeft")
