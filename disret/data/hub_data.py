"""Data sets of the Hugging Face hub: how they are named, what they are, and their rows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from disret.command_line import UserError
from disret.network import hub_obstacle

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1024  # rows read together; of a wide vector, some megabytes
HUB = "hub:"
FORM = f"{HUB}NAME[/CONFIG][:SPLIT]"
_NAME = re.compile(
    rf"{HUB}(?P<dataset>[\w.-]+(/[\w.-]+)?+)(/(?P<config>[^/:#][^:#]*))?(:(?P<split>[^#]+))?"
    r"(#(?P<column>.+))?"
)


class HubName(NamedTuple):
    """What a name says; the column is None where it says none."""

    dataset: str
    config: str | None
    split: str
    column: str | None


class About(NamedTuple):
    """A data set: the commit of its newest files, and the licence that its card states, if any."""

    revision: str
    licence: str | None


def parse_name(name: str) -> HubName:
    """Take `hub:NAME[/CONFIG][:SPLIT][#COLUMN]` apart; the split is `train` unless it is given.

    Raises:
        UserError: it is no such name.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        form = f"{FORM}, for queries with #COLUMN at its end"
        raise UserError(f"{name} names no data set of the hub; write {form}.")
    dataset, config, split, column = found.group("dataset", "config", "split", "column")
    return HubName(dataset, config, split or "train", column)


def look_up(name: str) -> About:
    """Ask the hub about a data set.

    Raises:
        UserError: the hub does not answer, or has no such data set.
    """
    from huggingface_hub import HfApi

    dataset = parse_name(name).dataset
    if obstacle := hub_obstacle():
        raise UserError(f"{name} cannot be read: {obstacle}.")
    with _of_hub(name):
        info = HfApi().dataset_info(dataset)
    stated = getattr(info.card_data, "license", None)
    tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    licences = ([stated] if isinstance(stated, str) else stated) or tags
    return About(info.sha, ", ".join(map(str, licences)) or None)


class Stream:
    """The rows of one split, read as they are wanted.

    Args:
        revision: the commit to read.

    Attributes:
        count: of the rows; 0 where nothing tells.

    Raises:
        UserError: there is no such config or split, or its files are damaged.
    """

    def __init__(self, name: str, revision: str) -> None:
        import datasets

        self.name = name
        dataset, config, self._split, _ = parse_name(name)
        with _of_hub(name):
            self._builder = datasets.load_dataset_builder(dataset, config, revision=revision)
            self._rows = self._builder.as_streaming_dataset(self._split)
        sizes = self._rows.info.splits or {}
        self.count = (sizes[self._split].num_examples or 0) if self._split in sizes else 0

    def schema(self) -> "pa.Schema | None":
        """The columns and their types, from the first row if need be; None without rows."""
        if self._rows.features is not None:
            return self._rows.features.arrow_schema
        first = next(self.batches(), None)
        return None if first is None else first.schema

    def batches(self, column: str | None = None) -> "Iterator[pa.RecordBatch]":
        """The rows in blocks, of Parquet this column alone."""
        with _of_hub(self.name):
            if column is not None and hasattr(self._builder.config, "columns"):
                self._builder.config.columns = [column]
                self._rows = self._builder.as_streaming_dataset(self._split)
            for table in self._rows.with_format("arrow").iter(BLOCK):
                yield from table.to_batches()


@contextmanager
def _of_hub(name: str) -> Iterator[None]:
    """Turn what the libraries of the hub raise, of many classes, into a sentence."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        yield
    except (HFValidationError, RepositoryNotFoundError):
        raise UserError(f"{name}: no such data set, or it is not open to you.") from None
    except Exception as error:
        raise UserError(f"{name} cannot be read: {first_line(error)}.") from error


def first_line(error: Exception) -> str:
    """What an error says, in a line without a full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
