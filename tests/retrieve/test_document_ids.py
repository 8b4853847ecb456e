"""Document ids by row."""

import numpy as np

from disret.retrieve.document_ids import DocumentIds


def test_rows_of_a_file(tmp_path):
    path = tmp_path / "ids.txt"
    names = ["a", "doc-2", "ünïcode", "", "last"]
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    ids = DocumentIds(path)
    assert list(ids) == names
    assert len(ids) == 5
    assert ids[2] == "ünïcode"
    taken = ids.take(np.array([[4, 0], [0, 1]]))
    assert taken.tolist() == [["last", "a"], ["a", "doc-2"]]
