"""The embedded example's collection, from a small tree of packages."""

import json

import pytest

from disret import paths
from disret.command_line import UserError
from disret.data.collection import Collection
from disret.data.queries import read_queries
from disret.example import pydocs

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """120 functions, a third of them with a summary only, and files that do not parse."""
    root = tmp_path / "packages"
    (root / "pkg" / "tests").mkdir(parents=True)
    for number in range(120):
        name = WORDS[number % 12]
        rest = (
            f"\n\n    It does {name} for case {number}, " + "and more " * 15 if number % 3 else ""
        )
        source = f'def f():\n    """Return the {name} value of case {number}.{rest}"""\n'
        (root / "pkg" / f"m{number}.py").write_text(source)
    (root / "pkg" / "same.py").write_text('def g():\n    """Return the beta value of case 1."""\n')
    (root / "pkg" / "broken.py").write_text("def (")
    (root / "pkg" / "raises.py").write_text('"""Importing this module has an effect."""\n1 / 0\n')
    (root / "pkg" / "tests" / "t.py").write_text('"""A docstring of a test is not used."""\n')
    (tmp_path / "stdlib").mkdir()
    places = {"stdlib": str(tmp_path / "stdlib"), "purelib": str(root)}
    monkeypatch.setattr(pydocs.sysconfig, "get_path", places.__getitem__)
    for name, value in (("DOCUMENTS", 40), ("TEST_QUERIES", 10), ("VALID_QUERIES", 15),
                        ("TRAIN_QUERIES", 50)):  # fmt: skip
        monkeypatch.setattr(pydocs, name, value)
    return root


def read_all(folder):
    train = read_queries([folder / "train-queries.tsv"])
    valid = read_queries([folder / "valid-queries.tsv"])
    c = Collection("pydocs", folder)
    return train, valid, c.queries(), {document.id: document.text for document in c.documents()}, c


def test_sets_are_separate(packages):
    folder = pydocs.build()
    assert folder == paths.COLLECTIONS / "pydocs"
    train, valid, test, documents, c = read_all(folder)
    assert (len(train), len(valid), len(test), len(documents)) == (50, 15, 10, 40)
    every = [pydocs._normalised(text) for text in (*train, *valid, *test.values())]
    assert len(set(every)) == len(every)
    assert not set(map(pydocs._normalised, documents.values())) & set(every)
    assert not any("docstring of a test" in text for text in every)
    qrels = c.qrels("test", test)
    for query, relevant in qrels.items():
        (document,) = relevant
        case = json.dumps(test[query]).split("case ")[1].split(".")[0]
        assert f"for case {case}," in documents[document]


def test_same_packages_same_collection(packages, tmp_path):
    first = pydocs.build(tmp_path / "one")
    second = pydocs.build(tmp_path / "two")
    for file in ("corpus.jsonl", "queries.jsonl", "train-queries.tsv", "qrels/test.tsv"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_too_few_docstrings(packages, monkeypatch):
    monkeypatch.setattr(pydocs, "DOCUMENTS", 4000)
    with pytest.raises(UserError, match="too few"):
        pydocs.build()
    assert not (paths.COLLECTIONS / "pydocs").exists()
