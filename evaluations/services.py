"""The tables of teachers whose weights nobody has: services, vectors alone, orphaned indexes."""

from pathlib import Path
from statistics import mean

from found import HERE, METRIC, percent, scores

from disret.retrieve.scores import mean_retention
from disret.tables import Row, read_rows

# Students of a service: what they are, and how many texts were sent for them.
ENDPOINT = {
    "plain-12k": ("static, not around the mean", 12_000),
    "plain-150k": ("static, not around the mean", 150_000),
    "words-12k": ("static", 12_000),
    "words-50k": ("static", 50_000),
    "words-150k": ("static", 150_000),
    "words-400k": ("static", 400_000),
    "layers-0-5-150k": ("layers 0 and 5 of all-MiniLM-L6-v2", 150_000),
}
FOUR = ("stackfaq", "nfcorpus", "pydocs", "arguana-2000")
ORPHANS = ("scifact", "nfcorpus", "arguana-2000", "stackfaq", "pydocs")
GERMAN = 126_778  # texts that were sent
OLD_QUERIES = (0, 1000, 10_000)  # whose vectors are beside those of an index


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
    folder = HERE / "endpoint"
    sent = {int(row["texts"]): row for row in read_rows(folder / "texts.csv")}
    trained = {row["student"]: row for row in read_rows(folder / "training.csv")}
    found = {Path(name).name: row for (name, _), row in scores(folder).items()}
    rows = []
    for name, (start, texts) in ENDPOINT.items():
        by_set, tokens = found[name], int(sent[texts]["tokens"])
        embedding = float(sent[texts]["service_minutes"])
        training, shown = (float(trained[name][each]) for each in ("seconds", "presentations"))
        rows.append({
            "student": start,
            "texts": f"{texts:,}",
            "tokens": f"{tokens / 1e6:.1f} M",
            "at $0.02 or $0.13 a million": f"${tokens * 2e-8:.2f} or ${tokens * 13e-8:.2f}",
            "minutes: service, training": f"{embedding:.0f}, {training / 60:.1f}",
            "shown": f"{shown / 1e6:.1f} M",
            **{d: percent(by_set[d]["retention"]) for d in FOUR},
            "mean of four": percent(mean_retention([by_set[d] for d in FOUR])),
            "overlap@10": f"{mean(by_set[d]['overlap@10'] for d in FOUR):.3f}",
            "centred cosine": f"{mean(by_set[d]['centred cosine'] for d in FOUR):.3f}",
        })  # fmt: skip
    return rows


def owner() -> list[Row]:
    """Static students of a service in short, for its owner."""
    shown = ("texts", "at $0.02 or $0.13 a million", "minutes: service, training", "mean of four",
             "overlap@10")  # fmt: skip
    named = {"mean of four": "retention, mean of four sets"}
    return [{named.get(name, name): row[name] for name in shown}
            for row in endpoint() if row["student"] == "static"]  # fmt: skip


def orphans() -> list[Row]:
    """Students of an index whose model is gone, by the old queries whose vectors are left."""
    found = {Path(name).name: by_set for (name, _), by_set in scores(HERE / "orphan").items()}
    rows = []
    for collection in ORPHANS:
        of = {count: found[f"{collection}-{count}"][collection] for count in OLD_QUERIES}
        rows.append({
            "index": collection,
            "documents": f"{of[0]['documents']:,}",
            **{_old(count): percent(row["retention"]) for count, row in of.items()},
            **{f"overlap@10, {_old(count)}": f"{row['overlap@10']:.3f}"
               for count, row in of.items()},
        })  # fmt: skip
    means = {
        _old(count): percent(mean(found[f"{c}-{count}"][c]["retention"] for c in ORPHANS))
        for count in OLD_QUERIES
    }
    return [*rows, {"index": "mean", "documents": None, **means}]


def _old(count: int) -> str:
    return f"{count:,} queries" if count else "documents alone"


def orphan() -> list[Row]:
    """The same in short, for the owner of such an index."""
    return [{name: value for name, value in row.items() if not name.startswith("overlap")}
            for row in orphans()]  # fmt: skip


def language() -> list[Row]:
    """Students of a service in a second language."""
    (found,) = [by_set for (name, _), by_set in scores(HERE / "language").items() if "/" in name]
    row = found["debian-de"]
    return [{
        "student": "static",
        "texts, German": f"{GERMAN:,}",
        "debian-de nDCG@10": f"{row['NDCG@10']:.4f}",
        "retention": percent(row["retention"]),
        "overlap@10": f"{row['overlap@10']:.3f}",
        "centred cosine": f"{row['centred cosine']:.3f}",
    }]  # fmt: skip


def vectors() -> list[Row]:
    """Static students of all-mpnet-base-v2's vectors, by the number of texts."""
    rows = []
    by_name = {Path(name).name: found for (name, _), found in scores(HERE / "vectors").items()}
    sets = by_name.pop("all-mpnet-base-v2")
    for name, found in by_name.items():
        is_whole = len(found) == len(sets)
        rows.append({
            "texts": f"{int(name.removeprefix('static-')):,}",
            **{d: percent(found[d]["retention"]) if d in found else None for d in sets},
            "mean": percent(mean_retention(found.values())) if is_whole else None,
            **{measure: f"{mean(row[measure] for row in found.values()):.3f}" if is_whole else None
               for measure in ("overlap@10", "centred cosine")},
        })  # fmt: skip
    return sorted(rows, key=lambda row: int(row["texts"].replace(",", "")))


def dimensions() -> list[Row]:
    """A teacher and its students on an index that PCA has cut, of the whole teacher's nDCG@10."""
    found: dict[str, dict[str, Row]] = {}  # of three document encoders, which are the teacher, cut
    for row in read_rows(HERE / "dimensions" / "scores.csv"):
        found.setdefault(Path(row["query_encoder"]).name, {})[row["dataset"]] = row
    teacher, student = list(found)[:2]
    whole, rows = found[teacher], []
    for size in ("", "-384", "-256"):
        row = {"dimensions": size.lstrip("-") or "768"}
        own_name = student.replace("static", "own")
        for title, name in (("the teacher", teacher), ("its student, cut", student),
                            ("a student of the cut", own_name)):  # fmt: skip
            if by_set := found.get(name + size):
                kept = mean(100 * by_set[d][METRIC] / whole[d][METRIC] for d in whole)
                own = f" ({percent(mean_retention(by_set.values()))})"
                row[title] = f"{percent(kept)}{own if title != 'the teacher' else ''}"
        rows.append(row)
    return rows
