"""The tables of `make texts`: what is in the mix, and what it brings."""

from pathlib import Path
from statistics import mean

from found import HERE, percent, scores
from retaining import minutes

from disret.files import read_json
from disret.retrieve.scores import mean_retention
from disret.tables import Row, read_rows

FOLDER = HERE / "mix"
COMMITTED = "models/all-MiniLM-L6-v2-static"
STARTS = {
    "layers": "two of the teacher's six layers",
    "static": "no layer (static)",
    "other": "two of all-mpnet-base-v2's twelve layers",
}


def mix() -> list[Row]:
    """The kinds of text, and how many there were of each that was reached."""
    got = {row["kind"]: row["texts"] for row in read_rows(FOLDER / "sources.csv")}
    return [
        {"kind": row["kind"], "source": row["source"].replace("debian:", "Debian's "),
         "licence": row["licence"],
         "texts": f"{int(got[row['kind']]):,}" if row["kind"] in got else "hub not reached"}
        for row in read_rows(HERE.parent / "beyond" / "texts.csv")
    ]  # fmt: skip


def sources() -> list[Row]:
    """What the student that is in the repository was trained on."""
    return [{"kind": row["kind"], "packages": row["source"].removeprefix("debian:"),
             "licence": row["licence"], "texts": f"{int(row['texts']):,}"}
            for row in read_rows(FOLDER / "sources.csv")]  # fmt: skip


def committed() -> list[Row]:
    """The student that is in the repository, on each set."""
    found = {key: row for key, row in scores(FOLDER).items() if Path(key[0]).name == COMMITTED[7:]}
    ((_, by_set),) = found.items()
    rows = [{"collection": name, "nDCG@10": f"{row['NDCG@10']:.4f}",
             "kept of the teacher": percent(row["retention"]),
             "overlap@10": f"{row['overlap@10']:.3f}"} for name, row in by_set.items()]  # fmt: skip
    kept = percent(mean_retention(by_set.values()))
    overlap = f"{mean(row['overlap@10'] for row in by_set.values()):.3f}"
    total = {"collection": "mean", "nDCG@10": None, "kept of the teacher": kept}
    return [*rows, {**total, "overlap@10": overlap}]


def few() -> list[Row]:
    """What 5,000 queries bring, alone and beside the mix, by what a student starts from."""
    found = {Path(name).name: by_set for (name, _), by_set in scores(FOLDER).items()}
    rows = []
    for start, shown in STARTS.items():
        row, overlaps, times = {"student": shown}, [], []
        for texts, column in (("log", "5,000 queries alone"), ("mix", "with the mix")):
            by_set = found[f"{start}-{texts}"]
            seconds = read_json(FOLDER / f"{start}-{texts}.json")["seconds"]["training"]
            row[column] = percent(mean_retention(by_set.values()))
            overlaps.append(f"{mean(r['overlap@10'] for r in by_set.values()):.3f}")
            times.append(minutes(seconds) if seconds >= 60 else f"{seconds:.0f} s")
        row |= {"overlap@10": ", ".join(overlaps), "training, one core": ", ".join(times)}
        rows.append(row)
    return rows


def decisions() -> list[Row]:
    """The verdicts of `beyond/decide.py` on real cases."""
    rows = []
    for path in sorted((HERE / "decide").glob("*.json")):
        for report in read_json(path)["reports"]:
            teacher, *others = report["rows"]
            chosen = next(row for row in report["rows"] if row["name"] == report["choice"])
            best = max((row for row in others if row["kind"] == "student"),
                       key=lambda row: row["ndcg"])  # fmt: skip
            rows.append({
                "teacher": Path(teacher["name"]).name, "collection": report["collection"],
                "judged": f"{report['queries']:,}", "verdict": report["verdict"],
                "take": Path(chosen["name"]).name, "it keeps": percent(chosen["kept"]),
                "best student": f"{Path(best['name']).name}, {percent(best['kept'])}",
                "a query": f"{teacher['total_ms']:.2f} ms, {chosen['total_ms']:.2f} ms",
                "a month": f"${teacher['month']:,.0f}, ${chosen['month']:,.0f}",
            })  # fmt: skip
    return rows
