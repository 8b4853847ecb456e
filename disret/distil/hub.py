"""Uploads to the Hugging Face hub."""

from pathlib import Path

from disret.command_line import UserError
from disret.data.hub import hub_obstacle


class NotUploaded(UserError):
    """The hub refused; the student is whole all the same."""


def check_upload(name: str) -> None:
    """Raise `UserError` unless the hub can be reached and someone is logged in."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError("expected USER/NAME or NAME.") from None
    if obstacle := hub_obstacle():
        raise UserError(f"{obstacle}.")
    try:
        account = HfApi().whoami()
    except LocalTokenNotFoundError:
        raise UserError("log in first, with `hf auth login` or the variable HF_TOKEN.") from None
    except HfHubHTTPError as error:
        raise UserError(_reason(error)) from None
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError("the token may only read; log in with another.")


def upload(folder: Path, name: str) -> str:
    """Upload a folder to a model repository, which is created if need be.

    Returns:
        Where the model is now.

    Raises:
        NotUploaded: the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        repository = api.create_repo(name, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id, folder_path=folder, commit_message="Upload query encoder"
        )
    except HfHubHTTPError as error:
        raise NotUploaded(f"{folder} was not uploaded: {_reason(error)}") from None
    return str(repository)


def _reason(error: Exception) -> str:
    return getattr(error, "server_message", None) or str(error).splitlines()[0]
