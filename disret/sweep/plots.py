"""Figures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from disret.files import whole_file
from disret.serve.backends import BACKENDS


def plot_tradeoff(points: Sequence[dict], path: Path) -> None:
    """Retention against speed-up, as a PNG.

    Args:
        points: dicts with `name`, `speedup` (times the teacher) and `retention` (percent).
    """
    with _figure(path, 5.6, 4.4) as (figure, (axes,)):
        for point in points:
            axes.plot(point["speedup"], point["retention"], "o", markersize=8, label=point["name"])
        axes.set_xlabel("queries per second, times the teacher")
        axes.set_ylabel("nDCG@10 kept, percent of the teacher")
        axes.margins(0.2)
        axes.set_xlim(left=0)
        figure.legend(loc="outside lower center", frameon=False)


def plot_layers(panels: Mapping[str, Sequence[dict]], path: Path) -> None:
    """Retention by number and choice of layers, as a PNG.

    Args:
        panels: by title, dicts with `layers` (how many), `retention` (percent) and `name`.
    """
    with _figure(path, 5.2 * len(panels), 4.6, len(panels)) as (_, axes):
        for ax, (title, points) in zip(axes, panels.items(), strict=True):
            counts = sorted({point["layers"] for point in points})
            for number, point in enumerate(sorted(points, key=lambda point: point["retention"])):
                x = counts.index(point["layers"])
                ax.plot(x, point["retention"], "o", color=f"C{x}")
                right = number % 2 == 0  # neighbours in height are named on different sides
                ax.annotate(
                    point["name"], (x, point["retention"]), (8 if right else -8, -3),
                    textcoords="offset points", fontsize=8, ha="left" if right else "right",
                )  # fmt: skip
            ax.set_xticks(range(len(counts)), [str(count) for count in counts])
            ax.set_xlim(-0.6, len(counts) - 0.4)
            ax.set_xlabel("layers kept")
            ax.set_title(title, fontsize=10)
        axes[0].set_ylabel("nDCG@10 kept, percent of the teacher")


def plot_throughput(lines: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Queries per second by batch size, as a PNG.

    Args:
        lines: by encoder, queries per second by batch size.
    """
    with _figure(path, 5.6, 4.4) as (figure, (axes,)):
        for name, speeds in lines.items():
            axes.plot(list(speeds), list(speeds.values()), "o-", label=name)
        sizes = sorted({size for speeds in lines.values() for size in speeds})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("batch size")
        axes.set_ylabel("queries per second")
        figure.legend(loc="outside lower center", frameon=False, ncols=2)


def plot_speed(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Latency of one query, and queries per second of batches, as a PNG.

    Args:
        rows: of `ispeed.py`; several query sets are averaged.
    """
    sizes = sorted({row["batch_size"] for row in rows})
    largest = sizes[-1]
    panels = [("queries_per_second", largest, f"queries per second, batch size {largest}")]
    if sizes[0] == 1:
        panels.insert(0, ("p50_ms", 1, "median time of one query, ms"))
    names = list(dict.fromkeys((row["encoder"], row["backend"]) for row in rows))
    height = 1.2 + 0.32 * len(names)
    with _figure(path, 4.2 * len(panels) + 1.6, height, len(panels)) as (_, axes):
        for ax, (column, size, title) in zip(axes, panels, strict=True):
            for position, (encoder, backend) in enumerate(reversed(names)):
                values = [row[column] for row in rows
                          if (row["encoder"], row["backend"], row["batch_size"])
                          == (encoder, backend, size)]  # fmt: skip
                mean = sum(values) / len(values)
                ax.barh(position, mean, color=f"C{list(BACKENDS).index(backend)}")
                text = f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"
                place = (mean, position)
                ax.annotate(text, place, (3, -3), textcoords="offset points", fontsize=8)
            labels = [f"{Path(encoder).name}, {backend}" for encoder, backend in reversed(names)]
            ax.set_yticks(range(len(names)), labels, fontsize=8)
            ax.set_xscale("log")
            ax.margins(x=0.2)
            ax.set_title(title, fontsize=10)


@contextmanager
def _figure(path: Path, width: float, height: float, panels: int = 1) -> Iterator[Any]:
    """A figure with panels side by side, saved when the block succeeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, panels, figsize=(width, height), layout="constrained", squeeze=False, sharey=True
    )
    yield figure, axes[0]
    for ax in axes[0]:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
    pyplot.close(figure)
