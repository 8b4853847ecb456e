"""Document ids of files that other programs wrote."""

import numpy as np
import pytest

from disret.command_line import UserError
from disret.retrieve.row_ids import LineIds, NumberIds

HITS = np.array([[2, 0], [0, -1]])


@pytest.mark.parametrize("content", ["a\nü\nlast\n", "a\nü\nlast", "a\r\nü\r\nlast\r\n"])
def test_lines_however_they_end(tmp_path, content):
    path = tmp_path / "ids.txt"
    path.write_text(content, encoding="utf-8", newline="")
    ids = LineIds(path)
    assert len(ids) == 3
    assert list(ids) == [ids[0], ids[1], ids[2]] == ["a", "ü", "last"]
    assert ids.take(HITS).tolist() == [["last", "a"], ["a", ""]]


@pytest.mark.parametrize("content, said", [(b"", "is empty"), (b"a\n\xff\n", "is not UTF-8")])
def test_no_lines_of_text(tmp_path, content, said):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"ids\.txt {said}; it should have a document id a line"):
        LineIds(path)
    with pytest.raises(UserError, match="there is no file"):
        LineIds(tmp_path / "absent.txt")


def test_numbers_and_rows():
    ids = NumberIds(3, np.array([70, -5, 1 << 40]))
    assert list(ids) == [ids[0], ids[1], ids[2]] == ["70", "-5", "1099511627776"]
    assert ids.take(HITS).tolist() == [["1099511627776", "70"], ["70", ""]]
    rows = NumberIds(3)
    assert list(rows) == ["0", "1", "2"]
    assert rows.take(HITS).tolist() == [["2", "0"], ["0", ""]]
    assert rows[-1] == ""
    with pytest.raises(IndexError):
        rows[3]
