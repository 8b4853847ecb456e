"""The figures of the READMEs are those of the files beside them."""

import importlib.util
import re

import numpy as np
import pytest
from conftest import ROOT

from disret.encode.encoders import export_fingerprint
from disret.query_encoder import QueryEncoder
from disret.retrieve.agreement import BELOW, KEPT, RETAINED, USABLE, retained, usable
from disret.tables import read_rows

spec = importlib.util.spec_from_file_location("tables", ROOT / "evaluations" / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)
IDS = [str(path.relative_to(ROOT)) for path in tables.DOCUMENTS]


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=IDS)
def test_tables_are_what_the_files_say(document):
    text = document.read_text(encoding="utf-8")
    assert tables.with_tables(text) == text, "run: make tables"
    inside = re.findall(r"<!-- table: [\w-]+ -->(.*?)<!-- end -->", text, flags=re.DOTALL)
    assert all(re.search(r"\d", table) for table in inside)
    altered = re.sub(r"(?<=\d)\.(\d)", lambda m: f".{(int(m[1]) + 1) % 10}", inside[0])
    assert tables.with_tables(text.replace(inside[0], altered)) == text


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=IDS)
def test_prose_states_figures_of_the_files_only(document):
    """Shares and how many times as fast; beside the files' only the paper's are stated."""
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"<!-- table.*?<!-- end -->|```.*?```", "", text, flags=re.DOTALL)
    stated = {figure.replace(" times", "x") for figure in tables.FIGURE.findall(prose)}
    assert stated or document.name != "README.md" or document == tables.CARD
    assert stated <= tables.facts()


def test_every_table_is_shown_once():
    shown = [
        name
        for document in tables.DOCUMENTS
        for name in re.findall(r"<!-- table: ([\w-]+) -->", document.read_text(encoding="utf-8"))
    ]
    assert sorted(shown) == sorted(tables.TABLES)


def test_links_lead_somewhere():
    for document in {*tables.DOCUMENTS, *(ROOT / "docs").glob("*.md")}:
        text = document.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
            name, _, anchor = link.partition("#")
            target = (document.parent / name).resolve() if name else document
            assert target.exists(), link
            if anchor:
                page = target if target.is_file() else target / "README.md"
                assert anchor in anchors(page), link


def anchors(page):
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_student_in_the_repository_is_the_one_that_was_scored():
    folder = ROOT / "models" / "all-MiniLM-L6-v2-static"
    encoder = QueryEncoder.from_pretrained(folder, "int8")
    fingerprint = export_fingerprint(encoder.settings, "int8")
    rows = read_rows(ROOT / "evaluations" / "mix" / "scores.csv")
    scored = [row for row in rows if row["query_encoder"] == "models/all-MiniLM-L6-v2-static"]
    assert len(scored) == 6
    assert {row["query_weights"] for row in scored} == {fingerprint[:16]}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 26e6


def test_speed(tmp_path, monkeypatch):
    """Queries and machine stand at its foot."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text, not outlines
    rows = [
        {"encoder": "a", "backend": "torch", "batch_size": 4, "queries_per_second": 1.0,
         "dataset": dataset, "device": "a chip"}
        for dataset in ("nq", "fiqa", "nq")
    ]  # fmt: skip
    tables.plot_speed(rows, tmp_path / "speed.svg")
    assert "timed on queries of nq and fiqa; a chip" in (tmp_path / "speed.svg").read_text()


def test_what_agree_says_of_an_overlap():
    table = tables.TABLES["agreement"]()
    shown = [(float(row["overlap@10"].split()[0]), row["lowest"], row["highest"]) for row in table]
    assert shown == [(start, f"{low} %", f"{high} %") for start, low, high in RETAINED]
    assert retained(0.75) == (
        "Students that found 0.7 to 0.8 of their teacher's ten best kept 85.7 to 99.2 % of its "
        "nDCG@10, where that was measured."
    )
    assert "0.8 to 1.0" in retained(1.0)
    assert "0.0 to 0.3" in retained(0)


def test_what_a_centred_cosine_has_meant():
    measured = [(row["centred cosine"], row["retention"]) for row in tables.pairs()
                if row.get("centred cosine") is not None]  # fmt: skip
    assert len(measured) > 15
    assert round(min(kept for cosine, kept in measured if cosine >= USABLE), 1) == KEPT
    assert round(min(kept for cosine, kept in measured if cosine < USABLE), 1) == BELOW
    assert "64.0 %" in usable(0.6)
    assert "may be too little" in usable(0.59)


def test_agreement(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    rows = [{"dataset": "things", "overlap@10": 0.5, "retention": 80.0}]
    tables.plot_agreement(rows, tmp_path / "a.svg")
    assert "things" in (tmp_path / "a.svg").read_text()


def test_effort(tmp_path, monkeypatch):
    """A line for each encoder, a label for each setting; what was not measured is left out."""
    import matplotlib
    from matplotlib.axes import Axes

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    drawn = []
    original = Axes.plot

    def note(self, x, y, *args, **kwargs):
        drawn.append((kwargs["label"], x, y))
        return original(self, x, y, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", note)
    rows = [
        {"query_encoder": f"models/{name}", "query_backend": "torch", "setting": f"efSearch {ef}",
         "recall@10": recall, "total_ms": time, "threads": 1}
        for name, ef, recall, time in (("t", 16, 0.9, 9.0), ("t", 32, 1.0, 10.0),
                                       ("s", 16, 0.8, 1.0), ("far", 16, 0.8, None),
                                       ("far", 32, None, 2.0))
    ]  # fmt: skip
    tables.plot_effort({"things, HNSW8": rows}, tmp_path / "f.svg")
    assert drawn == [("models/t", [9.0, 10.0], [0.9, 1.0]), ("models/s", [1.0], [0.8])]
    text = (tmp_path / "f.svg").read_text()
    for part in ("things, HNSW8", "efSearch 16", "models/t", "threads of the CPU: 1"):
        assert part in text


def test_interval_of_retention():
    """It holds the retention, narrows with queries and is a point where encoders are the same."""
    from compare import retention_interval

    rng = np.random.default_rng(0)
    teacher = rng.uniform(0, 1, 400)
    student = np.clip(teacher - rng.uniform(0, 0.2, 400), 0, 1)
    kept = 100 * student.mean() / teacher.mean()
    low, high = retention_interval([student], [teacher])
    assert low < kept < high
    few = retention_interval([student[:40]], [teacher[:40]])
    assert few[1] - few[0] > 2 * (high - low)
    assert retention_interval([teacher, teacher], [teacher, teacher]) == pytest.approx((100, 100))
    # A mean of two sets is surer than either.
    both = retention_interval([student[:200], student[200:]], [teacher[:200], teacher[200:]])
    half = retention_interval([student[:200]], [teacher[:200]])
    assert both[1] - both[0] < half[1] - half[0]
