"""Queries in a column of a data set of the hub, of which a copy is kept."""

from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path

from disret import paths
from disret.command_line import UserError, progress_bar, say
from disret.data.arrow_columns import column_kinds, column_texts
from disret.data.hub_data import Stream, look_up, parse_name
from disret.files import is_as_noted, lock, note_checksum, text_sha256, whole_file


class HubQueries:
    """Queries of `hub:NAME[/CONFIG][:SPLIT]#COLUMN`.

    The copy lies under `downloads/queries`; another is made of another revision.

    Attributes:
        name: as given.
        revision: the commit that is read.
        licence: what the data set's card states, if anything.

    Raises:
        UserError: the hub does not answer, or has no such data set; or the split has no such
            column, or one that is not of texts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        *parts, self._column = parse_name(name)
        self.revision, self.licence = look_up(name)
        texts = (str(part) for part in (*parts, self._column, self.revision))
        self._key = text_sha256(texts, "queries ")[:32]
        if not any(self._copy_of(None).parent.glob(f"{self._key}*.txt")):
            self._check_column()

    def texts(self, limit: int | None = None) -> Iterator[str]:
        """Each text once, in order, on one line: runs of white space are a space.

        Args:
            limit: stop after so many, and read no more than they take.
        """
        path = self._copy_of(None)
        if not is_as_noted(path):
            path = self._copy_of(limit)
            with lock(path):
                if not is_as_noted(path):
                    self._copy(limit, path)
        with path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                yield line.removesuffix("\n")

    def _copy_of(self, limit: int | None) -> Path:
        """Where the copy of so many texts is; None means all."""
        of_limit = "" if limit is None else f"-{limit}"
        return paths.DOWNLOADS / "queries" / f"{self._key}{of_limit}.txt"

    @cached_property
    def _stream(self) -> Stream:
        return Stream(self.name, self.revision)

    def _check_column(self) -> None:
        schema = self._stream.schema()
        if schema is None:
            raise UserError(f"{self.name} holds no queries.")
        kinds = column_kinds(schema)
        if kinds.get(self._column) == "text":
            return
        if self._column is None:
            problem = "the column is missing; write it after a #"
        elif self._column in kinds:
            problem = f"the column {self._column} is not of texts"
        else:
            problem = f"no column is called {self._column}"
        texts = ", ".join(column for column, kind in kinds.items() if kind == "text")
        others = ", ".join(f"{column} ({k})" for column, k in kinds.items() if k != "text")
        raise UserError(
            f"{self.name}: {problem}. Of texts there are: {texts or 'none'}; "
            f"of other kinds: {others or 'none'}."
        )

    def _copy(self, limit: int | None, path: Path) -> None:
        seen: set[str] = set()
        blank = 0
        with (
            whole_file(path) as partial,
            partial.open("w", encoding="utf-8", newline="\n") as file,
            progress_bar(desc=self.name, unit="text") as bar,
            closing(self._values()) as values,
        ):
            for value in values:
                text = " ".join((value or "").split())
                if not text:
                    blank += 1
                elif text not in seen:
                    seen.add(text)
                    file.write(f"{text}\n")
                    bar.update()
                if len(seen) == limit:
                    break
        note_checksum(path)
        if blank:
            say(f"skipped {blank} rows of {self.name} that have no text.")

    def _values(self) -> Iterator[str | None]:
        for batch in self._stream.batches(self._column):
            yield from column_texts(batch.column(self._column))
