"""The closing table."""

import pytest

from disret.command_line import UserError
from disret.retrieve.scores import COUNTS, IDENTITY
from disret.sweep.tradeoff import TIMED, report
from disret.tables import write_rows

BLANK = dict.fromkeys([*IDENTITY, *COUNTS])  # what a row of scores has besides


def test_joins_scores_and_speed(tmp_path):
    of = {**BLANK, "query_backend": "torch", "document_weights": "w"}
    write_rows(tmp_path / "scores.csv", [
        {**of, "query_encoder": "t", "dataset": "a", "NDCG@10": 0.5, "retention": 100.0},
        {**of, "query_encoder": "m/s", "dataset": "a", "NDCG@10": 0.1, "retention": 20.0},
        {**of, "query_encoder": "m/s", "dataset": "a", "NDCG@10": 0.4, "retention": 80.0},
        {**of, "query_encoder": "m/s", "dataset": "b", "NDCG@10": 0.3, "retention": 90.0},
        {**of, "query_encoder": "untimed", "dataset": "a", "NDCG@10": 0.4, "retention": 80.0},
    ])  # fmt: skip
    timing = {
        "dataset": "a",
        "layers": 6,
        "parameters": 22_700_000,
        "backend": "torch",
        "device": "chip",
    }
    write_rows(tmp_path / "speed.csv", [
        {**timing, "encoder": e, "batch_size": b, "queries_per_second": q, "speedup": s}
        for e, b, q, s in (("t", 16, 90, 1), ("m/s", 16, 200, 2.2), ("t", 32, 100, 1),
                           ("m/s", 32, 310, 3.1))
    ])  # fmt: skip
    table = report(tmp_path / "scores.csv", tmp_path / "speed.csv")
    student = table.splitlines()[3].split()
    assert student == ["m/s", "6", "22.7", "M", "0.4000", "85.0", "310.0", "3.1x", "0.3000"]
    assert "untimed" not in table


def test_backends_are_encoders_of_their_own(tmp_path):
    score = {
        **BLANK,
        "query_encoder": "m/s",
        "dataset": "a",
        "retention": 80.0,
        "document_weights": "w",
    }
    write_rows(tmp_path / "scores.csv", [
        {**score, "query_backend": "torch", "NDCG@10": 0.4},
        {**score, "query_backend": "export-int8", "NDCG@10": 0.3},
    ])  # fmt: skip
    timing = {
        "dataset": "a",
        "encoder": "m/s",
        "batch_size": 1,
        "layers": 2,
        "parameters": 9_000_000,
        "device": "chip",
    }
    write_rows(tmp_path / "speed.csv", [
        {**timing, "backend": "torch", "queries_per_second": 100, "speedup": 1},
        {**timing, "backend": "export-int8", "queries_per_second": 900, "speedup": 9},
    ])  # fmt: skip
    lines = report(tmp_path / "scores.csv", tmp_path / "speed.csv").splitlines()
    assert [lines[2].split()[i] for i in (0, 4, 6)] == ["m/s", "0.4000", "100.0"]
    assert "m/s@int8" in lines[3]
    assert "0.3000" in lines[3]
    assert "900.0" in lines[3]


def test_a_data_set_in_parts_counts_once_and_other_indexes_not_at_all(tmp_path):
    score = {**BLANK, "query_encoder": "m/s", "query_backend": "torch"}
    write_rows(tmp_path / "scores.csv", [
        {**score, "document_weights": w, "dataset": d, "NDCG@10": n, "retention": r}
        for w, d, n, r in (("other", "b", 0.1, 10.0), ("w", "cqa/x", 0.2, 20.0),
                           ("w", "cqa/y", 0.4, 40.0), ("w", "cqa", 0.3, 30.0),
                           ("other", "a", 0.1, 11.0), ("w", "a", 0.9, 90.0))
    ])  # fmt: skip
    timing = {"dataset": "a", "encoder": "m/s", "backend": "torch", "batch_size": 1, "layers": 2,
              "parameters": 9_000_000, "queries_per_second": 1, "speedup": 1,
              "device": "chip"}  # fmt: skip
    write_rows(tmp_path / "speed.csv", [timing])
    table = report(tmp_path / "scores.csv", tmp_path / "speed.csv")
    header, _, line = table.splitlines()
    assert "cqa/x" not in header
    assert "60.0" in line.split()  # the mean of a and cqa
    assert "nDCG@10 b" not in header


def test_nothing_in_common(tmp_path):
    write_rows(tmp_path / "speed.csv", [{**dict.fromkeys(TIMED), "encoder": "x", "batch_size": 1}])
    with pytest.raises(UserError, match="no encoder in common"):
        report(tmp_path / "none.csv", tmp_path / "speed.csv")
