"""The tables of teachers whose weights nobody has: services, vectors alone, orphaned indexes."""

from pathlib import Path
from statistics import mean

from found import HERE, percent, scores

from disret.retrieve.scores import mean_retention
from disret.tables import Row, read_rows

# Students of a service: what they are, and how many texts were sent for them.
ENDPOINT = {
    "plain-12k": ("static, not around the mean", 12_000),
    "plain-150k": ("static, not around the mean", 150_000),
    "words-12k": ("static", 12_000),
    "words-50k": ("static", 50_000),
    "words-150k": ("static", 150_000),
    "words-480k": ("static", 480_000),
}


def black_box() -> list[Row]:
    """Students of a teacher whose vectors alone are there, by passes over the queries."""
    rows = []
    for (encoder, _), found in scores(HERE / "black-box").items():
        start, _, passes = Path(encoder).name.partition("-")
        if not passes.isdecimal():
            continue  # the teacher
        rows.append({
            "student": {"model": "from all-MiniLM-L6-v2, 6 layers", "static": "static"}[start],
            "passes": passes,
            **{f"{d} retention": percent(row["retention"]) for d, row in found.items()},
            "mean": percent(mean_retention(found.values())),
            **{f"{d} overlap@10": f"{row['overlap@10']:.3f}" for d, row in found.items()},
            "mean cosine": f"{mean(row['cosine'] for row in found.values()):.3f}",
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["student"], int(row["passes"])))


def endpoint() -> list[Row]:
    """Students of a teacher that only a service has, by the number of texts sent to it."""
    tokens = {
        int(row["texts"]): int(row["tokens"]) for row in read_rows(HERE / "endpoint" / "texts.csv")
    }
    found = {Path(name).name: row for (name, _), row in scores(HERE / "endpoint").items()}
    rows = []
    for name, (start, texts) in ENDPOINT.items():
        by_set, sent = found[name], tokens[texts]
        rows.append({
            "student": start,
            "texts": f"{texts:,}",
            "tokens": f"{sent / 1e6:.1f} M",
            "at $0.02 or $0.13 a million": f"${sent * 2e-8:.2f} or ${sent * 13e-8:.2f}",
            **{d: percent(row["retention"]) for d, row in by_set.items()},
            "mean": percent(mean_retention(by_set.values())),
            "overlap@10": f"{mean(row['overlap@10'] for row in by_set.values()):.3f}",
            "cosine": f"{mean(row['cosine'] for row in by_set.values()):.3f}",
            "centred cosine": _of_centred(by_set),
        })  # fmt: skip
    return rows


def _of_centred(by_set: dict[str, Row]) -> str | None:
    found = [row["centred cosine"] for row in by_set.values()]
    return None if None in found else f"{mean(found):.3f}"


def owner() -> list[Row]:
    """Static students of a service in short, for its owner."""
    shown = ("texts", "tokens", "at $0.02 or $0.13 a million", "mean", "overlap@10")
    named = {"mean": "retention, mean of three sets"}
    return [{named.get(name, name): row[name] for name in shown}
            for row in endpoint() if row["student"] == "static"]  # fmt: skip
