"""An export on the Hugging Face hub, or on a server that speaks as it does (`HF_ENDPOINT`)."""

from __future__ import annotations

import os
from pathlib import Path

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.exporting._folder import check_free, earlier_files
from autopeft.hub import hub_answers

_TOKEN = "HF_TOKEN"


def check_push(repository: str) -> None:
    """`AutopeftError` where nothing can be pushed: no token, no such name, no hub.

    The token comes from the environment (`HF_TOKEN`) and nowhere else: none that lies in a file is used.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not os.environ.get(_TOKEN):
        raise AutopeftError(f"--push: no token; set the variable {_TOKEN} to one that may write to '{repository}'")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise AutopeftError(f"--push: '{repository}' is no name of a repository; give USER/NAME") from error
    if not hub_answers():
        raise AutopeftError("--push: the hub does not answer (or HF_HUB_OFFLINE is set); push later")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload what an export wrote into a folder, and return the repository's address.

    The repository is made where there is none, `private` or for all to see; one that is there gets a new commit.
    """
    check_push(repository)
    files = earlier_files(folder)
    if files is None:
        check_free(folder)
        raise AutopeftError(f"{folder}: holds no export; give a folder that 'autopeft export' wrote")
    from huggingface_hub import HfApi, constants

    api = HfApi(token=os.environ[_TOKEN], endpoint=constants.ENDPOINT)
    with door(f"hub repository '{repository}'", "cannot be written to", f"see that {_TOKEN} may write there"):
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=str(folder),
            allow_patterns=[pattern for name in files for pattern in (name, f"{name}/*")],
            commit_message="Export of autopeft",
        )
    return f"{constants.ENDPOINT}/{made.repo_id}"
