"""Names of models -> checkpoint folders: bundled, on disk, or on the Hugging Face hub."""

import os
import re
from pathlib import Path

from salm.errors import CheckpointError
from salm.weights.files import CARD_FILE, CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE

DEFAULT_MODEL = "salm-small"
_BUNDLED = Path(__file__).parent
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_FILE}"))


def find_checkpoint(name: str | Path) -> Path:
    """The checkpoint folder of a bundled name, a path, or a hub repository ("owner/name"), in this order.

    Raises:
        CheckpointError: none of these; the message lists the bundled names.
    """
    text = str(name)
    if text in bundled_models():
        return _BUNDLED / text
    if text and os.path.isdir(folder := Path(name).expanduser()):  # Path.is_dir raises for names that are too long
        return folder
    if isinstance(name, str) and _REPOSITORY.fullmatch(text) and not text.startswith("."):
        return _download(text)
    shown = text if len(text) <= 100 else f"{text[:100]}..."
    raise CheckpointError(
        f"unknown model {shown!r}; expected one of {', '.join(bundled_models()) or 'no bundled models'}, a checkpoint "
        "folder, or a Hugging Face repository such as owner/name"
    )


def upload_checkpoint(folder: Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a checkpoint folder to a Hugging Face repository ("owner/name"), created if need be; the commit's address.

    Raises:
        CheckpointError: not a repository's name, or the hub refuses or is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if not _REPOSITORY.fullmatch(repository):
        raise CheckpointError(f"{repository!r}: expected a Hugging Face repository such as owner/name")
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="SALM checkpoint"))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repository}: the Hugging Face hub did not take the checkpoint ({reason}); check the name, the network "
            "and your token (hf auth login); save_pretrained writes it to a folder instead"
        ) from error


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = [CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, CARD_FILE]
        return Path(snapshot_download(repository, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repository}: neither a folder here nor loadable from the Hugging Face hub ({reason}); check the name "
            f"and the network, or use a bundled model: {', '.join(bundled_models())}"
        ) from error
