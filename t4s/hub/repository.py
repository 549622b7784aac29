"""The repository of a checkpoint: created before training, pushed to in one commit.

repo_id = create("me/t4s-cells")      # a missing login or right ends the run here
push(folder, repo_id)                 # if it fails, nothing is lost
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled as Offline

from t4s.errors import CheckpointError
from t4s.hub.card import CARD
from t4s.hub.paths import is_machine_path
from t4s.models.checkpoint import EMBEDDED, FORMAT_FILE

UPLOADED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
    ".txt",
    ".md",
    ".png",
    ".jpg",
)  # of the files directly in the folder
NOT_UPLOADED = ("trainer_state.json", "results.json", "sample.png")  # of no use to others
REPLACED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
)  # deleted if an earlier push left them: otherwise both would load
PATH_FIELDS = ("base_model", "base_model_name_or_path", "_name_or_path", "name_or_path", "tokenizer_file")
# What huggingface_hub raises: HTTPError also for lost connections, RuntimeError around the failure of a file's upload.
HUB_ERRORS = (HTTPError, OSError, HFValidationError, RuntimeError)


def create(repo_id: str, private: bool = False) -> str:
    """Create the model repository, or check that it exists and may be written to → its full id, "user/name".

    CheckpointError without login, right or network, or if the repository holds something other than a t4s checkpoint.
    Called before training starts, so that no training is wasted.
    """
    api = HfApi()
    try:
        full = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(full, write=True)  # create_repo accepts a repository that others own
        files = api.list_repo_files(full)
    except HUB_ERRORS as error:
        raise CheckpointError(f"The repository {repo_id} cannot be used: {_why(error, api)}") from error
    if FORMAT_FILE not in files and any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(
            f"The repository {full} holds weights but no {FORMAT_FILE}, so it is another model; push to another id."
        )
    return full


def push(folder: str | Path, repo_id: str, message: str = "Upload a Text4Seg checkpoint") -> str:
    """Upload the checkpoint in `folder` (its files, not its subfolders) in one commit → the commit's URL.

    Weights, JSON and templates of an earlier push that this folder lacks are deleted in the same commit.
    CheckpointError if the folder is not a complete checkpoint, if a file names a path of this machine, or if the upload
    fails: the folder stays unchanged, and the message contains the command that tries again.
    """
    folder, api = Path(folder), HfApi()
    files = checkpoint_files(folder)
    refuse_machine_paths(files)
    added: list[Any] = [CommitOperationAdd(file.name, file) for file in files]
    try:
        old = [name for name in api.list_repo_files(repo_id) if name.endswith(REPLACED)]
        stale = [CommitOperationDelete(name) for name in old if name not in {file.name for file in files}]
        commit = api.create_commit(repo_id, [*added, *stale], commit_message=message)
    except HUB_ERRORS as error:
        again = shlex.join(["python", "-m", "t4s.hub", str(folder.resolve()), repo_id])
        raise CheckpointError(
            f"The upload to {repo_id} failed: {_why(error, api)} Nothing is lost, the checkpoint is in {folder}; "
            f"to try again, run: {again}"
        ) from error
    return commit.commit_url


def checkpoint_files(folder: Path) -> list[Path]:
    """The files to upload. CheckpointError if the folder is not a complete checkpoint with a card."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the one that training wrote.")
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    files = [file for file in files if file.suffix in UPLOADED and file.name not in NOT_UPLOADED]
    names = {file.name for file in files}
    for ending, what in ((FORMAT_FILE, "its format"), (CARD, "its model card"), (".safetensors", "weights")):
        if not any(name.endswith(ending) for name in names):
            raise CheckpointError(f"{folder} has no {ending} ({what}); give a folder that t4s/train.py has finished.")
    return files


def refuse_machine_paths(files: Iterable[Path]) -> None:
    """CheckpointError if a JSON file names its base by a path: it is useless elsewhere and reveals this machine."""
    for file in files:
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            for key in PATH_FIELDS if isinstance(content, dict) else ():
                value = content.get(key)
                if isinstance(value, str) and value != EMBEDDED and is_machine_path(value):
                    raise CheckpointError(
                        f"{file} names {key} by a path of this machine, {value!r}; push the model merged, or give "
                        "its base a Hub id with --base-id."
                    )


def _why(error: BaseException, api: HfApi) -> str:
    """A sentence: what the Hub or the connection refused, and what to do."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _why(error.__cause__, api)
    status, detail = None, " ".join(str(error).split())[:200]
    if isinstance(error, HfHubHTTPError):
        status, detail = error.response.status_code, error.server_message or error.response.reason_phrase
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return f"there is no valid login at {api.endpoint}; run `hf auth login` with a token that may write."
    if status in (403, 404):
        return "this login may not write there, or it does not exist; use a token that may write, or another id."
    if isinstance(error, Offline):
        return "HF_HUB_OFFLINE is set; unset it to reach the Hub."
    if isinstance(error, HFValidationError):
        return f"its id must look like user/name ({detail})."
    if status is not None:
        return f"the Hub answered {status} ({detail}); try again later."
    return f"{api.endpoint} could not be reached or read ({detail}); check the network and the disk."
