"""The figures of the READMEs are those of the files beside them."""

import importlib.util
import re

import pytest
from conftest import ROOT

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
    assert stated
    assert stated <= tables.facts()


def test_every_table_is_shown_once():
    shown = [
        name
        for document in tables.DOCUMENTS
        for name in re.findall(r"<!-- table: ([\w-]+) -->", document.read_text(encoding="utf-8"))
    ]
    assert sorted(shown) == sorted(tables.TABLES)


def test_links_lead_somewhere():
    for document in tables.DOCUMENTS:
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
