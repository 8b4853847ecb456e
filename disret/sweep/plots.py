"""Figures: PNG, PDF or SVG, as the name of the file says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from disret.files import whole_file

LOGARITHMIC = 20  # times as fast, from which on
LABELS = 24  # that fit above each other in a panel


def timed_on(rows: Sequence[Mapping[str, Any]]) -> str:
    """The queries and machines of rows of `ispeed.py`, for the foot of a figure."""
    datasets, devices = (
        " and ".join(dict.fromkeys(row[key] for row in rows)) for key in ("dataset", "device")
    )
    return f"timed on queries of {datasets}; {devices}"


def plot_tradeoff(
    points: Sequence[dict],
    path: Path,
    source: str,
    speed: str = "queries per second, times the teacher",
) -> None:
    """Retention against speed-up.

    Args:
        points: dicts with `name`, `speedup` (times the teacher) and `retention` (percent).
        source: data and machine, for the foot.
        speed: what the speed-up is of.
    """
    from matplotlib.ticker import StrMethodFormatter

    with new_figure(path, 6.4, 4.2, source=source) as (_, (axes,)):
        for point in points:
            place = point["speedup"], point["retention"]
            axes.plot(*place, "o", markersize=8)
            axes.annotate(
                point["name"], place, (0, 9), textcoords="offset points", ha="center", fontsize=9
            )
        axes.set_xlabel(speed)
        axes.set_ylabel("retention, percent")
        axes.margins(x=0.25, y=0.2)
        if max((point["speedup"] for point in points), default=0) > LOGARITHMIC:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}x"))
        else:
            axes.set_xlim(left=0)


def plot_layers(panels: Mapping[str, Sequence[dict]], path: Path) -> None:
    """Retention by number and choice of layers, each panel in its own range.

    Args:
        panels: by title, dicts with `layers` (how many), `retention` (percent) and `name`.
    """
    with new_figure(path, 5.2 * len(panels), 4.6, len(panels)) as (_, axes):
        for ax, (title, points) in zip(axes, panels.items(), strict=True):
            counts = sorted({point["layers"] for point in points})
            shares = [point["retention"] for point in points]
            apart = (max(shares) - min(shares)) / LABELS
            for x, count in enumerate(counts):
                column = [point for point in points if point["layers"] == count]
                places = spread_out([point["retention"] for point in column], apart)
                for point, place in zip(column, places, strict=True):
                    ax.plot(x, point["retention"], "o", color=f"C{x}")
                    ax.annotate(
                        point["name"], (x, point["retention"]), (x + 0.12, place), fontsize=8,
                        va="center", arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.6"},
                    )  # fmt: skip
            ax.set_xticks(range(len(counts)), [str(count) for count in counts])
            ax.set_xlim(-0.4, len(counts) - 0.2)
            ax.set_xlabel("layers")
            ax.set_title(title, fontsize=10)
        axes[0].set_ylabel("retention, percent")


def spread_out(values: Sequence[float], apart: float) -> list[float]:
    """Places near the values, each at least `apart` from the next, for labels.

    Returns:
        In the order of the values; in theirs from the lowest to the highest.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    order = np.argsort(values, kind="stable")
    steps = apart * np.arange(len(values))
    places = np.empty(len(values))
    places[order] = isotonic_regression(np.asarray(values)[order] - steps).x + steps
    return places.tolist()


def plot_throughput(lines: Mapping[str, Mapping[int, float]], path: Path, source: str) -> None:
    """Queries per second by batch size.

    Args:
        lines: by encoder, queries per second by batch size.
        source: data and machine, for the foot.
    """
    with new_figure(path, 5.6, 4.6, source=source) as (figure, (axes,)):
        for name, speeds in lines.items():
            axes.plot(list(speeds), list(speeds.values()), "o-", label=name)
        sizes = sorted({size for speeds in lines.values() for size in speeds})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("batch size")
        axes.set_ylabel("queries per second")
        figure.legend(loc="outside upper center", frameon=False, ncols=2)


@contextmanager
def new_figure(
    path: Path,
    width: float,
    height: float,
    panels: int = 1,
    source: str = "",
    sharey: bool = False,
) -> Iterator[Any]:
    """A figure and its panels side by side; it is saved if the block succeeds.

    Args:
        path: .png, .pdf or .svg.
        width, height: in inches.
        source: for the foot.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, panels, figsize=(width, height), layout="constrained", squeeze=False, sharey=sharey
    )
    if source:
        figure.supxlabel(source, fontsize=7, color="0.4")
    yield figure, axes[0]
    for ax in axes[0]:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip("."), dpi=150)
    pyplot.close(figure)
