"""Figures."""

from collections.abc import Sequence
from pathlib import Path

from disret.files import whole_file


def plot_tradeoff(points: Sequence[dict], path: Path) -> None:
    """Retention against speed-up, as a PNG.

    Args:
        points: dicts with `name`, `speedup` (times the teacher) and `retention` (percent).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.6, 4.4), layout="constrained")
    for point in points:
        axes.plot(point["speedup"], point["retention"], "o", markersize=8, label=point["name"])
    axes.set_xlabel("queries per second, times the teacher")
    axes.set_ylabel("nDCG@10 kept, percent of the teacher")
    axes.margins(0.2)
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
    pyplot.close(figure)
