"""The Hugging Face hub: whether it answers, how its data sets are named, and their rows."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from disret.command_line import UserError, without_secrets

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1024  # rows read together; of a wide vector, some megabytes
HUB = "hub:"
FORM = f"{HUB}NAME[/CONFIG][:SPLIT]"
_NAME = re.compile(
    rf"{HUB}(?P<dataset>[\w.-]+(/[\w.-]+)?+)(/(?P<config>[^/:#][^:#]*))?(:(?P<split>[^#]+))?"
    r"(#(?P<column>.+))?"
)


def reachable(url: str, seconds: float = 3) -> bool:
    """Whether the host of `url` answers within a few seconds, and not with a refusal."""
    import requests

    try:
        status = requests.head(url, timeout=seconds, allow_redirects=True).status_code
    except requests.RequestException:
        return False
    return status < 500 and status not in (401, 403, 407)


def proxy_of(url: str) -> str:
    """The variable of the proxy that an address is asked through; empty if none is."""
    from urllib.request import getproxies_environment, proxy_bypass_environment

    parts, proxies = urlsplit(url), getproxies_environment()
    if proxy_bypass_environment(parts.netloc):
        return ""
    name = next((name for name in (parts.scheme, "all") if name in proxies), None)
    return f"the proxy of {name.upper()}_PROXY" if name else ""


def unreachable(url: str, error: BaseException) -> str:
    """Why an address is not reached, in a sentence."""
    reason = type(error.__cause__ or error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in "".join(format_exception(error)):
        reason = "its certificate is not trusted; SSL_CERT_FILE names a file of those that are"
    elif proxy := proxy_of(url):
        reason = f"asked through {proxy}, {reason}; NO_PROXY={urlsplit(url).hostname} goes past it"
    return f"cannot reach {without_secrets(url)} ({reason})."


def hub_obstacle() -> str | None:
    """What keeps this process from the hub, if anything."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return None if reachable(hub) else f"no answer from {hub}"


def parse_name(name: str) -> tuple[str, str | None, str, str | None]:
    """Data set, config, split and column of `hub:NAME[/CONFIG][:SPLIT][#COLUMN]`.

    The split is `train` unless it is given; config and column are None where they are not.

    Raises:
        UserError: it is no such name.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        form = f"{FORM}, for queries with #COLUMN at its end"
        raise UserError(f"{name} names no data set of the hub; write {form}.")
    dataset, config, split, column = found.group("dataset", "config", "split", "column")
    return dataset, config, split or "train", column


def look_up(name: str) -> tuple[str, str | None]:
    """The commit of a data set's newest files, and the licence that its card states, if any.

    Raises:
        UserError: the hub does not answer, or has no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    dataset, *_ = parse_name(name)
    if obstacle := hub_obstacle():
        raise UserError(f"{name} cannot be read: {obstacle}.")
    with reading(name):
        try:
            info = HfApi().dataset_info(dataset)
        except RepositoryNotFoundError:
            raise UserError(f"{name}: no such data set, or it is not open to you.") from None
    tags = info.tags or []  # of the hub, from the card
    licences = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    return info.sha, ", ".join(licences) or None


class Stream:
    """The rows of one split as they are at a commit, read as they are wanted.

    Raises:
        UserError: there is no such config or split, or its files are damaged.
    """

    def __init__(self, name: str, revision: str) -> None:
        import datasets

        self.name = name
        dataset, config, self._split, _ = parse_name(name)
        with reading(name):
            place = f"hf://datasets/{dataset}"  # never a folder of that name
            self._builder = datasets.load_dataset_builder(place, config, revision=revision)
            self._rows = self._builder.as_streaming_dataset(self._split)

    def schema(self) -> "pa.Schema":
        """The columns and their types, from the first rows if need be."""
        if self._rows.features is not None:
            return self._rows.features.arrow_schema
        for batch in self.batches():
            return batch.schema
        raise UserError(f"{self.name} holds no rows.")

    def batches(self, columns: list[str] | None = None) -> "Iterator[pa.RecordBatch]":
        """The rows in blocks, of Parquet these columns alone."""
        with reading(self.name):
            if columns is not None and hasattr(self._builder.config, "columns"):
                self._builder.config.columns = columns
                self._rows = self._builder.as_streaming_dataset(self._split)
            for table in self._rows.with_format("arrow").iter(BLOCK):
                yield from table.to_batches()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what libraries raise as they read, of many classes, into a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{name} cannot be read: {reason}.") from error
