"""The closing table and figure."""

import pytest

from disret.report import report
from disret.results import write_rows
from disret.terminal import UserError


def test_joins_scores_and_speed(tmp_path):
    write_rows(tmp_path / "scores.csv", [
        {"query_encoder": "t", "dataset": "a", "NDCG@10": 0.5, "retention": 100.0},
        {"query_encoder": "m/s", "dataset": "a", "NDCG@10": 0.1, "retention": 20.0},
        {"query_encoder": "m/s", "dataset": "a", "NDCG@10": 0.4, "retention": 80.0},
        {"query_encoder": "m/s", "dataset": "b", "NDCG@10": 0.3, "retention": 90.0},
        {"query_encoder": "untimed", "dataset": "a", "NDCG@10": 0.4, "retention": 80.0},
    ])  # fmt: skip
    timing = {"dataset": "a", "layers": 6, "parameters": 22_700_000}
    write_rows(tmp_path / "speed.csv", [
        {**timing, "encoder": e, "batch_size": b, "queries_per_second": q, "speedup": s}
        for e, b, q, s in (("t", 16, 90, 1), ("m/s", 16, 200, 2.2), ("t", 32, 100, 1),
                           ("m/s", 32, 310, 3.1))
    ])  # fmt: skip
    table = report(tmp_path / "scores.csv", tmp_path / "speed.csv", tmp_path / "f.png")
    student = table.splitlines()[3].split()
    assert student == ["m/s", "6", "22.7", "M", "0.4000", "85.0", "310.0", "3.1x", "0.3000"]
    assert "untimed" not in table
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_in_common(tmp_path):
    write_rows(tmp_path / "speed.csv", [{"encoder": "x", "batch_size": 1}])
    with pytest.raises(UserError, match="no encoder in common"):
        report(tmp_path / "none.csv", tmp_path / "speed.csv", tmp_path / "f.png")
