"""Figures whose labels can be read."""

from itertools import pairwise

import pytest

from disret.sweep.plots import (
    plot_layers,
    plot_throughput,
    plot_tradeoff,
    spread_out,
    timed_on,
)


@pytest.mark.parametrize(
    "values", [[1.0], [1, 1, 1], [1, 1.1, 1.2, 5, 9], [0, 0.1, 2.7, 2.8, 2.9, 3], list(range(20))]
)
def test_labels_do_not_overlap(values):
    """Each stays in the order of its value, and near it."""
    places = spread_out(values, 0.5)
    for below, above in pairwise(places):
        assert above - below >= 0.5 - 1e-9
    assert sum(places) == pytest.approx(sum(values))


def test_values_that_are_far_apart_stay_where_they_are():
    assert spread_out([1, 3, 5], 0.5) == [1, 3, 5]


def test_the_name_says_the_format(tmp_path):
    points = [("a", 2.0, 90.0)]
    for name, start in (("x.pdf", b"%PDF"), ("x.svg", b"<?xml"), ("x.png", b"\x89PNG")):
        plot_tradeoff(points, tmp_path / name, "of x; on y")
        assert (tmp_path / name).read_bytes().startswith(start)


def test_a_figure_names_data_and_machine(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text, not outlines
    rows = [
        {"dataset": dataset, "device": "a chip"}
        for dataset in ("nq", "fiqa", "nq")
    ]  # fmt: skip
    source = "timed on queries of nq and fiqa; a chip"
    plot_throughput({"a": {4: 1.0}}, tmp_path / "throughput.svg", timed_on(rows))
    plot_tradeoff([], tmp_path / "tradeoff.svg", source)
    for path in tmp_path.glob("*.svg"):
        assert source in path.read_text(), path


def test_a_name_with_dollars(tmp_path):
    plot_tradeoff([("cost$_{x$", 2.0, 90.0)], tmp_path / "tradeoff.svg", "$_{ of x")
    plot_throughput({"cost$_{x$": {4: 1.0}}, tmp_path / "throughput.svg", "$_{ of x")
    plot_layers({"a": [(1, 90.0, "cost$_{x$")]}, tmp_path / "layers.svg")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_panel_stays_legible_beside_an_outlier(tmp_path, monkeypatch):
    """The range of one panel does not press the points of another together."""
    from matplotlib.axes import Axes

    limits = []
    original = Axes.set_title

    def note(self, title, **kwargs):
        limits.append(self.get_ylim())
        return original(self, title, **kwargs)

    monkeypatch.setattr(Axes, "set_title", note)
    near = [(1, 80.0 + i, str(i)) for i in range(3)]
    far = [*near, (1, 5.0, "outlier")]
    plot_layers({"ours": far, "the paper's": near}, tmp_path / "f.png")
    assert limits[0][0] < 5
    assert limits[1][0] > 79


def test_layers(tmp_path):
    """Students of equal retention have labels of their own within a column."""
    import matplotlib.text

    found = []
    original = matplotlib.text.Annotation.__init__

    def note(self, text, xy, xytext, **kwargs):
        found.append(xytext)
        original(self, text, xy, xytext, **kwargs)

    points = [(1, 80.0, str(i)) for i in range(4)]
    points += [(2, 80.0 + i, str(i)) for i in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.text.Annotation, "__init__", note)
        plot_layers({"a": points}, tmp_path / "f.png")
    for column in (0, 1):
        heights = sorted(y for x, y in found if round(x) == column)
        assert len(heights) == 4
        assert min(b - a for a, b in pairwise(heights)) > 0.1
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
