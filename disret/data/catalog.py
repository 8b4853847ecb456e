"""The table of data sets: BEIR's fifteen public ones and MS MARCO's queries."""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Archive(NamedTuple):
    """A file to download.

    Attributes:
        path: where it lies in a mirror and under `downloads/`, such as `beir/scifact.zip`.
        url: its public address.
        digest: MD5 or SHA-256 of the public file, in hexadecimal.
    """

    path: str
    url: str
    digest: str


class Dataset(NamedTuple):
    """A BEIR data set: its archive and the split that the paper scores."""

    archive: Archive
    default_split: str


MSMARCO_QUERIES = Archive(
    "msmarco/queries.tar.gz",
    "https://msmarco.z22.web.core.windows.net/msmarcoranking/queries.tar.gz",
    "c177b2795d5f2dcc524cf00fcd973be1",
)


@cache
def datasets() -> dict[str, Dataset]:
    """All data sets by name, in the paper's order."""
    with Path(__file__).with_name("beir.csv").open(newline="", encoding="utf-8") as file:
        return {
            row["name"]: Dataset(
                Archive(f"beir/{row['name']}.zip", row["url"], row["md5"]), row["default_split"]
            )
            for row in csv.DictReader(file)
        }
