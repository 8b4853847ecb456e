"""Result files and tables."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from disret.command_line import UserError
from disret.tables import (
    append_rows,
    append_run,
    format_table,
    markdown_table,
    read_rows,
    read_runs,
    write_rows,
)


def test_rows_come_back(tmp_path):
    file = tmp_path / "sub" / "r.csv"
    append_rows(file, [{"dataset": "a, b", "NDCG@10": 0.25, "retention": None}])
    append_rows(file, [{"dataset": "c", "NDCG@10": 0.5, "retention": 90.0, "MRR@10": 1.0}])
    assert read_rows(file) == [
        {"dataset": "a, b", "NDCG@10": 0.25, "retention": None, "MRR@10": None},
        {"dataset": "c", "NDCG@10": 0.5, "retention": 90.0, "MRR@10": 1.0},
    ]


def test_rows_added_at_once_are_all_kept(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: append_rows(tmp_path / "r.csv", [{"i": i}]), range(20)))
    assert sorted(int(row["i"]) for row in read_rows(tmp_path / "r.csv")) == list(range(20))


def test_what_is_no_table_is_refused(tmp_path):
    assert read_rows(tmp_path / "none.csv") == []
    (tmp_path / "r.csv").write_bytes(b"\x00\xff\xfe" * 10)
    with pytest.raises(UserError, match="not a CSV table"):
        read_rows(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("dataset,NDCG@10\na,much\n")
    with pytest.raises(UserError, match="no number in its column NDCG@10: 'much'"):
        read_rows(tmp_path / "r.csv")


def test_failed_write_leaves_the_old_file(tmp_path):
    write_rows(tmp_path / "r.csv", [{"a": 1}])

    class Unprintable:
        def __str__(self):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(tmp_path / "r.csv", [{"a": Unprintable()}])
    assert read_rows(tmp_path / "r.csv") == [{"a": "1"}]
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


def test_table():
    table = format_table([{"name": "a", "score": 0.5}, {"name": "long", "score": None}])
    assert table.splitlines() == ["name      score", "------  -------", "a           0.5", "long"]
    assert format_table([]) == "(no rows)"


def test_markdown():
    table = markdown_table([{"name": "a", "share": "96.0 %"}, {"name": "b", "n": 3}])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["name", "share", "n"]
    assert cells[2:] == [["a", "96.0 %", ""], ["b", "", "3"]]


def test_runs_add_up_and_nothing_else_is_overwritten(tmp_path):
    path = tmp_path / "r.json"
    assert read_runs(path) == []
    for number in range(2):
        append_run(path, {"number": number})
    assert [run["number"] for run in read_runs(path)] == [0, 1]
    assert all(run["datetime"] for run in read_runs(path))
    path.write_text('{"a": "report"}')
    with pytest.raises(UserError, match="is not a list of runs"):
        append_run(path, {})
    assert path.read_text() == '{"a": "report"}'
