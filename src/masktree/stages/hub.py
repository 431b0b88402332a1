"""Trained models to the Hugging Face hub; ``masktree.load("owner/name")`` takes them from there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from masktree.arguments import check_path
from masktree.errors import InputError, WeightsError
from masktree.evaluate.result import EvaluationResult
from masktree.models import saved
from masktree.stages.model_card import model_card

CARD = "README.md"


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    licence: str = "unknown",
    evaluations: Sequence[str | Path] = (),
    private: bool = False,
    overwrite_card: bool = False,
    token: str | None = None,
) -> str:
    """Upload a trained model to the Hugging Face hub, in one commit: config.json, model.safetensors and a model card.

    The repository is made if there is none. Nothing else of the run is uploaded, neither checkpoint nor sample
    pictures; of paths of this machine in ``config.json`` only the last part is kept.

    Args:
        run: folder of ``masktree train`` or ``masktree self-train``.
        repo_id: ``owner/name`` on the hub.
        licence: SPDX identifier of the licence that you give the model, such as ``apache-2.0``.
        evaluations: result files of ``masktree evaluate`` whose numbers the card lists.
        private: whether a new repository is private.
        overwrite_card: whether a card that the repository has already, which may have been edited, is replaced.
        token: of the hub; None takes that of ``hf auth login``.

    Returns:
        Address of the model's page.

    Raises:
        WeightsError: no trained model in ``run``, or the hub cannot be reached or does not accept the upload.
        FormatError: ``config.json`` or an evaluation is damaged.
        InputError: ``repo_id`` is no name on the hub.
    """
    check_path(run)
    if not isinstance(repo_id, str) or not saved.is_hub_name(repo_id):
        raise InputError(f"expected owner/name of a repository on the hub; got {repo_id!r}")
    folder = Path(run).expanduser()
    saved.read_config(folder)  # raises where something is wrong with it
    header = _without_folders(saved.read_header(folder))
    results = [EvaluationResult.read(path) for path in evaluations]
    card = model_card(folder, header, repo_id, licence.lower(), results)
    files: dict[str, Path | bytes] = {
        saved.CONFIG: json.dumps(header, indent=1).encode(),
        saved.WEIGHTS: saved.weight_file(folder),
        CARD: card.encode(),
    }
    return _commit(files, repo_id, private=private, keep_card=not overwrite_card, token=token)


def _commit(files: dict[str, Path | bytes], repo_id: str, *, private: bool, keep_card: bool, token: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi(token=token, library_name="masktree")
    try:
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        if keep_card and api.file_exists(repo_id, CARD):
            del files[CARD]
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo_id, operations, commit_message="Upload a model of masktree")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(
            f"expected a hub that takes the model {repo_id}; got {reason}; log in with hf auth login, or give a token "
            "that may write there"
        ) from error
    return address


def _without_folders(value: Any) -> Any:
    """Plain values with absolute paths replaced by their last part: names of folders may be private."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str):
        for flavour in (PurePosixPath, PureWindowsPath):
            if flavour(value).is_absolute():
                return flavour(value).name
    return value
