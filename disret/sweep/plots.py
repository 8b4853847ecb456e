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

    with _figure(path, 6.4, 4.2, source=source) as (_, (axes,)):
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
    with _figure(path, 5.2 * len(panels), 4.6, len(panels)) as (_, axes):
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
    # Neighbours that are too close share their mean; a group grows until it touches no other.
    groups: list[list[int]] = []
    for row in sorted(range(len(values)), key=lambda row: values[row]):
        groups.append([row])
        while len(groups) > 1 and _gap(groups[-2], groups[-1], values, apart) < 0:
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(values)
    for group in groups:
        for row, place in zip(group, _stack(group, values, apart), strict=True):
            places[row] = place
    return places


def _stack(group: Sequence[int], values: Sequence[float], apart: float) -> list[float]:
    middle = sum(values[row] for row in group) / len(group)
    return [middle + (number - (len(group) - 1) / 2) * apart for number in range(len(group))]


def _gap(
    below: Sequence[int], above: Sequence[int], values: Sequence[float], apart: float
) -> float:
    return _stack(above, values, apart)[0] - _stack(below, values, apart)[-1] - apart


def plot_throughput(lines: Mapping[str, Mapping[int, float]], path: Path, source: str) -> None:
    """Queries per second by batch size.

    Args:
        lines: by encoder, queries per second by batch size.
        source: data and machine, for the foot.
    """
    with _figure(path, 5.6, 4.6, source=source) as (figure, (axes,)):
        for name, speeds in lines.items():
            axes.plot(list(speeds), list(speeds.values()), "o-", label=name)
        sizes = sorted({size for speeds in lines.values() for size in speeds})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("batch size")
        axes.set_ylabel("queries per second")
        figure.legend(loc="outside upper center", frameon=False, ncols=2)


def plot_speed(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Latency of one query, and queries per second of batches.

    Args:
        rows: of `ispeed.py`; several query sets are averaged.
    """
    sizes = sorted({row["batch_size"] for row in rows})
    largest = sizes[-1]
    panels = [("queries_per_second", largest, f"queries per second, batch size {largest}")]
    if sizes[0] == 1:
        panels.insert(0, ("p50_ms", 1, "median time of one query, ms"))
    names = list(dict.fromkeys((row["encoder"], row["backend"]) for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    height = 1.4 + 0.32 * len(names)
    width = 4.2 * len(panels) + 1.6
    with _figure(path, width, height, len(panels), timed_on(rows), sharey=True) as (_, axes):
        for ax, (column, size, title) in zip(axes, panels, strict=True):
            for position, (encoder, backend) in enumerate(reversed(names)):
                values = [row[column] for row in rows
                          if (row["encoder"], row["backend"], row["batch_size"])
                          == (encoder, backend, size)]  # fmt: skip
                mean = sum(values) / len(values)
                ax.barh(position, mean, color=f"C{backends.index(backend)}")
                text = f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"
                place = (mean, position)
                ax.annotate(text, place, (3, -3), textcoords="offset points", fontsize=8)
            labels = [f"{Path(encoder).name}, {backend}" for encoder, backend in reversed(names)]
            ax.set_yticks(range(len(names)), labels, fontsize=8)
            ax.set_xscale("log")
            ax.margins(x=0.2)
            ax.set_title(title, fontsize=10)


def plot_agreement(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Retention against agreement with the teacher, a colour for each collection.

    Args:
        rows: of `benchmark.py`, with `dataset`, `overlap@10` and `retention`.
    """
    with _figure(path, 5.6, 4.2) as (_, (axes,)):
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            points = [(r["overlap@10"], r["retention"]) for r in rows if r["dataset"] == dataset]
            axes.plot(*zip(*points, strict=True), "o", label=dataset, alpha=0.8)
        axes.axhline(100, color="0.7", lw=0.8)
        axes.set_xlabel("overlap@10 with the teacher")
        axes.set_ylabel("retention of nDCG@10, percent")
        axes.legend(frameon=False, fontsize=8)


def plot_effort(panels: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Recall against time, a panel for each data set and index, a line for each encoder.

    Args:
        panels: by title, rows of `beyond/approximate.py`, with `query_encoder`, `query_backend`,
            `setting`, `recall@10` and `total_ms`; rows that lack one of these two are left out.
    """
    from matplotlib.ticker import LogFormatter

    threads = dict.fromkeys(str(row["threads"]) for rows in panels.values() for row in rows)
    source = f"medians of single queries; threads of the CPU: {' and '.join(threads)}"
    with _figure(path, 5.6 * len(panels), 4.2, len(panels), source) as (_, axes):
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            lines: dict[str, list[Mapping[str, Any]]] = {}
            for row in rows:
                if row["recall@10"] is not None and row["total_ms"] is not None:
                    name = f"{Path(row['query_encoder']).name}, {row['query_backend']}"
                    lines.setdefault(name, []).append(row)
            for name, points in lines.items():
                times, recalls = ([p[key] for p in points] for key in ("total_ms", "recall@10"))
                ax.plot(times, recalls, "o-", markersize=4, label=name)
                for point, place in zip(points, zip(times, recalls, strict=True), strict=True):
                    ax.annotate(
                        point["setting"], place, (5, -8), textcoords="offset points", fontsize=7
                    )
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(LogFormatter())
            ax.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            ax.margins(x=0.25)
            ax.set_xlabel("milliseconds a query, encoding and search")
            ax.set_title(title, fontsize=10)
            ax.legend(frameon=False, fontsize=8)
        axes[0].set_ylabel("recall@10 against exact search")


@contextmanager
def _figure(
    path: Path,
    width: float,
    height: float,
    panels: int = 1,
    source: str = "",
    sharey: bool = False,
) -> Iterator[Any]:
    """A figure with panels side by side, and a source at its foot, saved if the block succeeds."""
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
