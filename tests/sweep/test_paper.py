"""The paper's figures are those that it states."""

import pytest

from disret.sweep.paper import paper_models, paper_retention, paper_speedup, paper_student
from disret.sweep.students import subsets


@pytest.mark.parametrize(
    ("layers", "kept"),
    [((0,), 82.9), ((0, 11), 92.5), ((0, 1, 10, 11), 96.2), ((4, 5, 6, 7), 87.4)],
)
def test_retention(layers, kept):
    assert paper_retention(paper_student(layers)) == pytest.approx(kept, abs=0.05)


def test_every_subset_was_scored_by_the_paper():
    assert all(paper_retention(paper_student(layers)) for layers in subsets(12))
    assert paper_retention(paper_student((0, 11)), ["no-such-set"]) is None


def test_speedup():
    assert [round(paper_speedup(layers, 64), 1) for layers in (1, 2, 4)] == [9.1, 5.3, 2.9]
    assert paper_speedup(3, 64) is None
    assert paper_speedup(2, 65) is None


def test_other_models():
    assert "distilbert-base-uncased" in paper_models()
    assert all(paper_retention(name) for name in paper_models())
