"""Figures: PNG, PDF or SVG, as the name of the file says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

from disret.files import whole_file

LOGARITHMIC = 20  # times as fast, from which on
SPEED_UP = "queries per second, times the teacher"
# Which the colour-blind tell apart; grey in place of black, which a dark page has as its ground.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
INK = "#768390"  # of text and axes, read on light and on dark: the ground is transparent
LABELS = 24  # that fit above each other in a panel


def timed_on(rows: Sequence[Mapping[str, Any]]) -> str:
    """The queries and machines of rows of `ispeed.py`, for the foot of a figure."""
    datasets, devices = (
        " and ".join(dict.fromkeys(row[key] for row in rows)) for key in ("dataset", "device")
    )
    return f"timed on queries of {datasets}; {devices}"


def plot_tradeoff(
    points: Sequence[tuple[str, float, float]], path: Path, source: str, speed: str = SPEED_UP
) -> None:
    """Retention against speed-up.

    Args:
        points: name, speed-up (times the teacher) and retention (percent).
        source: data and machine, for the foot.
        speed: what the speed-up is of.
    """
    from matplotlib.ticker import StrMethodFormatter

    with new_figure(path, 6.4, 4.2, source=source) as (_, (axes,)):
        faster = sorted(speedup for _, speedup, _ in points)
        for name, *place in points:
            axes.plot(*place, "o", markersize=8)
            offset = (0, -17 if faster.index(place[0]) % 2 else 9)  # neighbours do not meet
            axes.annotate(name, place, offset, textcoords="offset points", ha="center", fontsize=9,
                          parse_math=False)  # fmt: skip
        axes.set_xlabel(speed)
        axes.set_ylabel("retention, percent")
        axes.margins(x=0.25, y=0.2)
        if max((speedup for _, speedup, _ in points), default=0) > LOGARITHMIC:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}x"))
        else:
            axes.set_xlim(left=0)


def plot_layers(panels: Mapping[str, Sequence[tuple[int, float, str]]], path: Path) -> None:
    """Retention by number and choice of layers, each panel in its own range.

    Args:
        panels: by title, number of layers, retention (percent) and name of each student.
    """
    with new_figure(path, 5.2 * len(panels), 4.6, len(panels)) as (_, axes):
        for ax, (title, points) in zip(axes, panels.items(), strict=True):
            counts = sorted({count for count, _, _ in points})
            shares = [share for _, share, _ in points]
            apart = (max(shares) - min(shares)) / LABELS
            for x, count in enumerate(counts):
                column = [point for point in points if point[0] == count]
                upwards = sorted(column, key=itemgetter(1))
                places = spread_out([share for _, share, _ in upwards], apart)
                place_of = dict(zip(upwards, places, strict=True))
                for point in column:
                    _, share, name = point
                    ax.plot(x, share, "o", color=f"C{x}")
                    ax.annotate(
                        name, (x, share), (x + 0.12, place_of[point]), fontsize=8, va="center",
                        arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.6"},
                        parse_math=False,
                    )  # fmt: skip
            ax.set_xticks(range(len(counts)), list(map(str, counts)))
            ax.set_xlim(-0.4, len(counts) - 0.2)
            ax.set_xlabel("layers")
            ax.set_title(title, fontsize=10)
        axes[0].set_ylabel("retention, percent")


def spread_out(values: Sequence[float], apart: float) -> list[float]:
    """Places near the values, which ascend, each at least `apart` above the last, for labels."""
    import numpy as np
    from scipy.optimize import isotonic_regression

    steps = apart * np.arange(len(values))
    return (isotonic_regression(values - steps).x + steps).tolist()


def plot_throughput(lines: Mapping[str, Mapping[int, float]], path: Path, source: str) -> None:
    """Queries per second by batch size, a line for each encoder; `source` is for the foot."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    with new_figure(path, 5.6, 4.6, source=source) as (figure, (axes,)):
        for name, speeds in lines.items():
            axes.plot(list(speeds), list(speeds.values()), "o-", label=name)
        sizes = sorted({size for speeds in lines.values() for size in speeds})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("batch size")
        axes.set_ylabel("queries per second")
        legend = figure.legend(loc="outside upper center", frameon=False, ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may have a dollar sign


@contextmanager
def new_figure(
    path: Path, width: float, height: float, panels: int = 1, source: str = "",
    sharey: bool = False, rows: int = 1,
) -> Iterator[Any]:  # fmt: skip
    """A figure of some inches and its panels, in rows; it is saved if the block succeeds."""
    from matplotlib import cycler, rc_context
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with rc_context({"axes.prop_cycle": cycler(color=OKABE_ITO)} | dict.fromkeys(inked, INK)):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, -(-panels // rows), squeeze=False, sharey=sharey).ravel()
        for ax in axes[panels:]:
            ax.remove()
        axes = axes[:panels]
        if source:
            figure.supxlabel(source, fontsize=7, parse_math=False)
        yield figure, axes
        for ax in axes:
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        with whole_file(path) as partial:
            kind = path.suffix.lstrip(".")
            figure.savefig(partial, format=kind, dpi=150, transparent=True)
