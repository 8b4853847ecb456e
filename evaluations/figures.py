"""Figures of the evaluations alone: speed, agreement with the teacher, and effort of a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from found import NAMES

from disret.sweep.plots import new_figure, timed_on

SHAPES = "osD^vPX"


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
    with new_figure(path, width, height, len(panels), timed_on(rows), sharey=True) as (_, axes):
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
    """Retention against agreement with the teacher, a colour and a shape for each collection.

    Args:
        rows: of `benchmark.py`, with `dataset`, `overlap@10` and `retention`.
    """
    with new_figure(path, 5.6, 4.2) as (_, (axes,)):
        for dataset, shape in zip(
            dict.fromkeys(row["dataset"] for row in rows), SHAPES, strict=False
        ):
            points = [(r["overlap@10"], r["retention"]) for r in rows if r["dataset"] == dataset]
            axes.plot(*zip(*points, strict=True), shape, label=dataset, alpha=0.8)
        axes.axhline(100, color="0.7", lw=0.8)
        axes.set_xlabel("overlap@10 with the teacher")
        axes.set_ylabel("retention of nDCG@10, percent")
        axes.legend(frameon=False, fontsize=8)


def plot_effort(panels: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Recall against time, a panel for each data set and index, a line for each encoder.

    Args:
        panels: by title, rows of `benchmark.py`'s sweeps, with `query_encoder`, `query_backend`,
            `setting`, `recall@10` and `total_ms`; rows that lack one of these two are left out.
    """
    from matplotlib.ticker import LogFormatter, StrMethodFormatter

    threads = dict.fromkeys(str(row["threads"]) for rows in panels.values() for row in rows)
    source = f"medians of single queries; threads of the CPU: {' and '.join(threads)}"
    with new_figure(path, 11, 8, len(panels), source, rows=min(2, len(panels))) as (figure, axes):
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            lines: dict[str, list[Mapping[str, Any]]] = {}
            for row in rows:
                if row["recall@10"] is not None and row["total_ms"] is not None:
                    name = NAMES.get(row["query_encoder"], row["query_encoder"])
                    lines.setdefault(name, []).append(row)
            for name, points in lines.items():
                times, recalls = ([p[key] for p in points] for key in ("total_ms", "recall@10"))
                ax.plot(times, recalls, "o-", markersize=4, label=name)
                for point, *place in zip(points[:1], times, recalls, strict=False):
                    ax.annotate(
                        point["setting"], place, (6, -4), textcoords="offset points", fontsize=8
                    )
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            ax.margins(x=0.25)
            ax.set_xlabel("milliseconds a query, encoding and search")
            ax.set_title(title, fontsize=10)
            ax.set_ylabel("recall@10 against exact search")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", frameon=False, ncols=len(names))
