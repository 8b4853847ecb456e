"""The tables of serving: exports, approximate and compressed indexes, BM25 beside."""

from pathlib import Path
from statistics import mean

from found import (
    HERE,
    METRIC,
    NAMES,
    STUDENTS,
    TEACHER,
    compared,
    interval,
    newest_searches,
    percent,
    timed,
    times,
)

from disret.retrieve.approximate import RECALL, good_setting, reaching
from disret.retrieve.scores import newest_scores
from disret.tables import Row, read_rows


def online() -> list[Row]:
    """Each size in torch, float32 and int8: one query, a batch, scores."""
    alone = timed(STUDENTS / "speed-nq.csv", 1)
    batch = timed(STUDENTS / "speed.csv", 64, "nfcorpus")
    reference = TEACHER, "torch"
    rows = []
    for key in alone:
        found = compared(STUDENTS, key)
        one, many = alone[key], batch[key]
        rows.append({
            "query encoder": NAMES[key[0]],
            "backend": key[1],
            "one query, p50": f"{one['p50_ms']:.3g} ms",
            "p95": f"{one['p95_ms']:.3g} ms",
            "p99": f"{one['p99_ms']:.3g} ms",
            "faster": times(alone[reference]["p50_ms"] / one["p50_ms"]),
            "queries/s, batch 64": f"{many['queries_per_second']:,.0f}",
            "times": times(many["queries_per_second"] / batch[reference]["queries_per_second"]),
            "retention (95 % interval)": interval(found),
        })  # fmt: skip
    return rows


def exports() -> list[Row]:
    """How large exports are, and how close int8 is."""
    return [
        {
            "query encoder": NAMES[row["encoder"]],
            "float32": f"{row['float32_mb']} MB",
            "int8": f"{row['int8_mb']} MB",
            "cosine of int8 to the model": f"{row['int8_mean_cosine']:.4f}",
            "how": row["int8"],
        }
        for row in read_rows(STUDENTS / "exports.csv")
    ]


def effort() -> list[Row]:
    """How far a student's search must look for its teacher's recall, and what speed is left."""
    rows = []
    for kind in ("hnsw", "ivf"):
        for found in newest_searches(HERE / "ann" / f"{kind}.sweep.csv").values():
            teacher = [row for row in found if row["query_weights"] == row["document_weights"]]
            of_teacher = good_setting(teacher)
            for name in dict.fromkeys(row["query_encoder"] for row in found):
                own = [row for row in found if row["query_encoder"] == name]
                if own == teacher:
                    continue
                reached = reaching(own, of_teacher)
                rows.append({
                    "index": of_teacher["index"], "data set": of_teacher["dataset"],
                    "student": NAMES[name],
                    "teacher's setting": f"{of_teacher['setting']} ({of_teacher[RECALL]:.3f})",
                    "student's for that": reached["setting"] if reached else "more than was tried",
                    "encoding": reached and _faster(of_teacher, reached, "encode_ms"),
                    "with search": reached and _faster(of_teacher, reached, "total_ms"),
                })  # fmt: skip
    return rows


def compressed() -> list[Row]:
    """What vectors of fewer bytes cost teacher and students, of the teacher's exact nDCG@10."""
    import faiss

    exact = newest_scores(
        read_rows(HERE / "ann" / "compressed.csv"), lambda row: row["query_encoder"]
    )
    searches = newest_searches(HERE / "ann" / "compressed.sweep.csv").values()
    found = [row for rows in searches for row in rows]
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in found:
        of_teacher = exact[TEACHER][row["dataset"]][METRIC]
        cell = cells.setdefault((row["index"], row["setting"]), {})
        cell.setdefault(row["query_encoder"], []).append(100 * row[METRIC] / of_teacher)
    flat = {name: [row["retention"] for row in exact[name].values()] for name in NAMES}
    return [
        {"index": kind, "setting": "" if setting == "the defaults" else setting,
         "bytes a vector": faiss.index_factory(384, kind).sa_code_size(),
         **{NAMES[name]: percent(mean(cell[name])) for name in NAMES}}
        for (kind, setting), cell in {("Flat", ""): flat, **cells}.items()
    ]  # fmt: skip


def hybrid() -> list[Row]:
    """nDCG@10 alone and with BM25, by data set."""
    rows = {}
    for row in read_rows(HERE / "ann" / "hybrid.csv"):
        names = [text for name, text in NAMES.items() if Path(name).name + "." in row["run"]]
        (name,) = names or [row["run"]]
        alone, both = row[METRIC], row["with BM25"]
        cell = f"{alone:.3f}" + (f" to {both:.3f}" if both else "")
        rows.setdefault(name, {"run": name})[row["dataset"]] = cell
    return list(rows.values())


def _faster(teacher: Row, student: Row, name: str) -> str:
    return times(teacher[name] / student[name])
