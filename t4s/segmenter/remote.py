"""A checkpoint that runs on a server: its `t4s.json` is read here, its weights are not."""

from __future__ import annotations

from pathlib import Path

from t4s.errors import CheckpointError
from t4s.models.checkpoint import FORMAT_FILE, is_from_hub  # noqa: F401


def find_format(source: str, revision: str | None = None) -> Path:
    """The t4s.json of a folder or a Hub id; nothing else is downloaded. Raises CheckpointError."""
    if Path(source).is_dir():
        file = Path(source) / FORMAT_FILE
        if not file.is_file():
            raise CheckpointError(f"{source} has no {FORMAT_FILE}, which says how the model is asked.")
        return file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    try:
        return Path(hf_hub_download(source, FORMAT_FILE, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(f"{source} is neither a folder nor a Hub id such as user/model.") from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{source} has no {FORMAT_FILE}, which says how the model is asked.") from error
    except (HTTPError, OSError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The {FORMAT_FILE} of {source} could not be fetched from the Hub: {detail}") from error
