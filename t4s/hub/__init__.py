"""Publishes a checkpoint on the Hugging Face Hub, and brings published ones into its form.

    repo_id = hub.create("me/t4s-cells")
    hub.write_card(folder, repo_id, datasets=["folder:PHOTOS"], settings={...}, figures=[hub.Figure("cIoU", 0.71, ...)])
    hub.push(folder, repo_id)

repository   the repository: created, checked, pushed to in one commit
card         the model card and its figures
paths        paths of this machine, which never leave it
importing    `t4s import`: checkpoints in the original LLaVA layout
__main__     `python -m t4s.hub FOLDER ID`: push again after a failed upload
"""

from t4s.hub.card import CARD, FIGURES, Figure, add_figures, add_names, write_card
from t4s.hub.paths import is_machine_path, public
from t4s.hub.repository import checkpoint_files, create, push, refuse_machine_paths

__all__ = [
    "CARD", "FIGURES", "Figure", "add_figures", "add_names", "checkpoint_files", "create", "is_machine_path", "public",
    "push", "refuse_machine_paths", "write_card",
]  # fmt: skip
