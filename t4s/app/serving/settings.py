"""What the operator decides, from environment variables; a wrong one ends the start with one sentence.

T4S_CHECKPOINT  a Hub id or a folder; unset: the embedded checkpoint
T4S_REFINER     a refiner, or "sam:SOURCE"; unset: the checkpoint's own
T4S_SAM         Hub ids or folders of the SAMs that visitors may choose, comma-separated: each is loaded at the start.
                "*": any SAM of the Hub, downloaded when someone asks for it, for a server that only its operator uses.
                Unset: none where others can reach the server (`is_public`), "*" where they cannot.
T4S_ENDPOINT    the address of an OpenAI-compatible server that runs the checkpoint, of which only the t4s.json is read
                here; T4S_ENDPOINT_MODEL: its name there, if it is another; T4S_ENDPOINT_KEY: the key
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from t4s.errors import QueryError
from t4s.limits import MAX_SAMS
from t4s.segmenter.segmenter import Segmenter

LOCAL_NAMES = ("", "127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """`sams`: what T4S_SAM says; None stands for "*"."""

    checkpoint: str | None = None
    refiner: str = ""
    sams: tuple[str, ...] | None = ()
    endpoint: str | None = None
    endpoint_model: str | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """The settings in `environment` (os.environ). Raises QueryError."""
        return cls(
            environment.get("T4S_CHECKPOINT") or None,
            environment.get("T4S_REFINER", ""),
            _allowed_sams(environment),
            environment.get("T4S_ENDPOINT") or None,
            environment.get("T4S_ENDPOINT_MODEL") or None,
        )

    def load(self) -> Segmenter:
        """The model, here or on its server (which has the key from the environment). Raises T4SError."""
        if self.endpoint is not None:
            return Segmenter.remote(self.endpoint, self.endpoint_model, checkpoint=self.checkpoint)
        return Segmenter.from_pretrained(self.checkpoint)


def is_public(environment: Mapping[str, str]) -> bool:
    """True if others may reach the server: a Space, a shared link, or a server name that is not this machine's own."""
    shared = environment.get("GRADIO_SHARE", "").lower() == "true"
    return bool(environment.get("SPACE_ID")) or shared or environment.get("GRADIO_SERVER_NAME", "") not in LOCAL_NAMES


def _allowed_sams(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    listed = environment.get("T4S_SAM")
    if listed is None:
        return () if is_public(environment) else None
    if listed.strip() == "*":
        return None
    sams = tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    if len(sams) > MAX_SAMS:
        raise QueryError(f"T4S_SAM lists {len(sams)} models; at most {MAX_SAMS} are kept in memory, so name fewer.")
    return sams
