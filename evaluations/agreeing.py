"""The tables of agreement: what an overlap with the teacher's hits says about retention."""

from itertools import pairwise
from statistics import median

from found import HERE, percent
from scipy.stats import spearmanr

from disret.tables import Row, read_rows

OVERLAPS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)


def pairs() -> list[Row]:
    """Every student on every collection for which agreement and retention were measured."""
    found = {}
    for path in sorted(HERE.glob("*/scores.csv")):
        for row in read_rows(path):
            is_measured = row.get("overlap@10") is not None and row["retention"] is not None
            if is_measured and row["query_backend"] == "torch":
                found[row["collection"], row["query_weights"]] = row
    return list(found.values())


def agreement() -> list[Row]:
    """What retention goes with how much agreement."""
    rows, measured = [], pairs()
    for low, high in pairwise(OVERLAPS):
        shares = [row["retention"] for row in measured if low <= row["overlap@10"] < high]
        if shares:
            rows.append({
                "overlap@10": f"{low:.1f} to {min(high, 1):.1f}",
                "students and sets": len(shares),
                "median retention": percent(median(shares)),
                "lowest": percent(min(shares)),
                "highest": percent(max(shares)),
            })  # fmt: skip
    return rows


def correlations() -> list[Row]:
    """How well each measure of agreement orders students and sets by retention."""
    measured = pairs()
    shares = [row["retention"] for row in measured]
    return [
        {"measure": name,
         "Spearman correlation with retention":
         f"{spearmanr([row[name] for row in measured], shares).statistic:.2f}"}
        for name in ("overlap@10", "overlap@100", "rbo", "first@10", "cosine")
    ]  # fmt: skip
