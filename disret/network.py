"""Which hosts answer."""

import os


def reachable(url: str, seconds: float = 3) -> bool:
    """Whether the host of `url` answers within a few seconds, and not with a refusal."""
    import requests

    try:
        status = requests.head(url, timeout=seconds, allow_redirects=True).status_code
    except requests.RequestException:
        return False
    return status < 500 and status not in (401, 403, 407)


def hub_obstacle() -> str | None:
    """What keeps this process from the model hub, if anything."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return None if reachable(hub) else f"no answer from {hub}"
