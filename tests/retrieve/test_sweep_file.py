"""The table of sweeps and its answers."""

import pytest

from disret.command_line import UserError
from disret.retrieve.settings import parse_settings
from disret.retrieve.sweep_file import SweepFile, answers, newest_sweeps


def rows_of(encoder, recalls, encode=10.0, search=(1.0, 2.0, 4.0), when="now", index="HNSW8"):
    """An encoder's rows at efSearch 16, 32 and 64; the teacher is called T."""
    return [
        {"datetime": when, "dataset": "things", "index": index, "query_encoder": encoder,
         "query_backend": "torch", "document_weights": "t",
         "query_weights": "t" if encoder == "T" else encoder, "setting": f"efSearch {16 << step}",
         "recall@10": recall, "encode_ms": encode, "search_ms": search[step],
         "total_ms": None if encode is None else encode + search[step]}
        for step, recall in enumerate(recalls)
    ]  # fmt: skip


def test_the_answer():
    """At the teacher's first setting of 0.95 or more; the other settings in one line."""
    rows = [*rows_of("T", (0.9, 0.9784, 0.99)), *rows_of("S", (0.8, 0.93, 0.9782), encode=0.5)]
    assert answers(rows) == [
        "things, HNSW8, S: reaches the teacher's recall@10 at efSearch 32 (0.978) with efSearch "
        "64; encoding is 20x as fast, encoding and search together 2.67x.",
        "things, HNSW8, S: for the teacher's recall@10 at efSearch 16 it takes efSearch 32, "
        "at efSearch 64 it takes more than was tried.",
    ]


def test_a_range_that_does_not_reach():
    """A teacher that finds less than 0.95 is taken where it finds most."""
    rows = [*rows_of("T", (0.5, 0.9)), *rows_of("S", (0.3, 0.7), encode=1.0)]
    first, second = answers(rows)
    assert first == (
        "things, HNSW8, S: does not reach the teacher's recall@10 at efSearch 32 (0.900) with what "
        "was tried: 0.700 with efSearch 32; encoding is 10x as fast, encoding and search together "
        "4x."
    )
    assert second.endswith("at efSearch 16 it takes efSearch 32.")


def test_what_was_not_timed_or_cannot_be_known():
    """A service's time is not its own, and codes do not tell what exact search finds."""
    rows = [*rows_of("T", (0.96,), encode=None), *rows_of("S", (0.97,), encode=1.0)]
    (line,) = answers(rows)
    assert line.endswith("(0.960) with efSearch 16.")
    rows = [*rows_of("T", (None,)), *rows_of("S", (None,))]
    (line,) = answers(rows)
    assert line == (
        "things, HNSW8: recall@10 cannot be measured, as the index does not hold the vectors "
        "themselves."
    )
    assert answers(rows_of("T", (0.9, 0.95))) == []  # nobody to answer for


def test_of_several_runs_the_last_counts():
    rows = [*rows_of("T", (0.1, 0.2), when="before"), *rows_of("T", (0.3,), when="after"),
            *rows_of("T", (0.4,), index="SQ8")]  # fmt: skip
    found = {title: [row["recall@10"] for row in own] for title, own in newest_sweeps(rows).items()}
    assert found == {"things, HNSW8": [0.3], "things, SQ8": [0.4]}


def sweeps(path, kind="HNSW8", words=("efSearch=1,2",), file=None):
    return SweepFile(path, parse_settings(words), 1, "cos_sim", kind, file)


def test_another_table_is_not_extended(tmp_path):
    (tmp_path / "s.csv").write_text("dataset,index\nx,y\n")
    with pytest.raises(UserError, match=r"s\.csv is another table: it has no column"):
        sweeps(tmp_path / "s.csv")
    with pytest.raises(UserError, match="cannot write"):
        sweeps(tmp_path / "s.csv" / "t.csv")


def test_what_is_refused_before_the_work(tmp_path):
    sweeps(tmp_path / "s.csv").check(32)
    with pytest.raises(UserError, match=r"HNSW8 \(IndexHNSWFlat\) has no parameter nprobe"):
        sweeps(tmp_path / "s.csv", words=["nprobe=4"]).check(32)
    with pytest.raises(UserError, match="FAISS makes no index 'Foo'"):
        sweeps(tmp_path / "s.csv", "Foo").check(32)
    with pytest.raises(UserError, match="IVF99,Flat needs 99 vectors or more"):
        sweeps(tmp_path / "s.csv", "IVF99,Flat", ["nprobe=1"]).check_count(98, 32)
    for name in ("x.npy", ""):
        with pytest.raises(UserError, match="holds vectors, which are searched exactly"):
            sweeps(tmp_path / "s.csv", file=tmp_path / name).check(32)
