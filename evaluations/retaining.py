"""The tables of retention: what students keep, of which layers, texts, doses and teachers."""

import math
from pathlib import Path
from statistics import mean

from found import (
    HERE,
    METRIC,
    NAMES,
    STUDENTS,
    TEACHER,
    compared,
    compared_by_name,
    interval,
    minutes,
    percent,
    scores,
    timed,
    times,
)

from disret.files import read_json
from disret.retrieve.scores import mean_retention, newest_scores
from disret.sweep import report
from disret.sweep.paper import paper_retention, paper_speedup, paper_student
from disret.tables import Row, read_rows

# The rows of the first table, by encoder and backend.
FIRST = [(TEACHER, "torch"), *((name, "export") for name in NAMES)]
FIRST_NAMES = {(TEACHER, "export"): "the teacher, exported"}
NAMES_OF_TWELVE = {
    "models/all-mpnet-base-v2": "all-mpnet-base-v2, another teacher",
    "models/mpnet/two-texts": "its two layers",
}
FIRST_OF_TWELVE = list(zip(NAMES_OF_TWELVE, ("torch", "export"), strict=True))
# Students of fewer kinds of text.
FEWER = {
    TEACHER: "all-MiniLM-L6-v2, the teacher",
    "models/best/layers-0-5-wordnet": "two layers, with a dictionary",
    "models/best/layers-0-5": "two layers",
    "models/best/layers-5": "one layer",
}
SWEEPS = {"six": "sweep-all-MiniLM-L6-v2", "twelve": "sweep-all-mpnet-base-v2"}
# Students of more kinds of text, and what each was made of.
TEXTS = {
    "two-texts-2m": ("two layers", "all kinds"),
    "two-texts": ("two layers", "all kinds"),
    "two-texts-05": ("two layers", "all kinds"),
    "two-texts-b32": ("two layers, batches of 32", "all kinds"),
    "one-texts": ("one layer", "all kinds"),
    "static-words": ("static, dense layers, words", "all kinds"),
    "static-words-1m": ("static, dense layers, words", "all kinds"),
    "static-pairs-2m": ("static, dense layers, pairs of tokens", "all kinds"),
    "static-pairs": ("static, dense layers, pairs of tokens", "all kinds"),
    "static-texts": ("static, dense layers", "all kinds"),
    "static-texts-1m": ("static, dense layers", "all kinds"),
    "static-kinds": ("static, dense layers", "all kinds, one a batch"),
    "static-queries": ("static, dense layers", "queries alone"),
    "static-queries-plain": ("static", "queries alone"),
}
# Of all-mpnet-base-v2: what each started from, its texts and its recipe.
TWELVE = {
    "models/mpnet/two-texts": ("layers 0 and 11", "all kinds", "best"),
    "models/mpnet/two-paper": ("layers 0 and 11", "queries alone", "paper"),
    "models/mpnet/six-texts": ("all-MiniLM-L6-v2, six layers", "all kinds", "best"),
}
TIMED_ON = (
    ("speed-h100.csv", "nfcorpus", "an H100, float32"),
    ("speed.csv", "nq.tsv", "2 cores of an AMD EPYC, float32"),
)


def first() -> list[Row]:
    """The README's first: a row for each teacher and size of student, and the paper's student."""
    rows = []
    for folder, speed, scored, keys in (
        (STUDENTS, "speed-nq.csv", "export", FIRST),
        (HERE / "twelve", "speed.csv", "torch", FIRST_OF_TWELVE),
    ):
        one_by_one = timed(folder / speed, 1)
        slowest = one_by_one[keys[0]]["p50_ms"]
        for key in keys:
            key_of_scores = (key[0], scored if key[1] == "export" else key[1])
            p50 = one_by_one[key]["p50_ms"]
            rows.append({
                "query encoder": FIRST_NAMES.get(key) or (NAMES | NAMES_OF_TWELVE)[key[0]],
                "faster": times(slowest / p50),
                "kept": interval(compared(folder, key_of_scores)),
                "one query": f"{p50:.2f} ms" if p50 >= 0.1 else f"{p50:.3f} ms",
            })  # fmt: skip
    few = next(row for row in doses() if row["queries"] == "10,000")
    place = next(n for n, row in enumerate(rows) if row["query encoder"] == "two layers")
    name = "two layers, 10,000 queries of a log alone"
    kept = f"{few['mean']}, three sets"
    rows.insert(place + 1, {**rows[place], "query encoder": name, "kept": kept})
    paper = paper_retention(paper_student((0, 11)))
    return [*rows, {
        "query encoder": "the paper's two of twelve layers",
        "faster": f"{times(paper_speedup(2, 64))}, GPU, batches of 64",
        "kept": f"{percent(paper)}, fifteen sets",
        "one query": None,
    }]  # fmt: skip


def students() -> list[Row]:
    """Two layers and one, on queries and with a dictionary."""
    rows, scores_by_key = [], scores(HERE / "students")
    for encoder, name in FEWER.items():
        found = compared(HERE / "students", (encoder, "torch"))
        own = scores_by_key[encoder, "torch"]
        rows.append({
            "query encoder": name,
            **{f"{d} nDCG@10": f"{own[d][METRIC]:.4f}" for d in own},
            **{f"{d} retention": percent(found[f"{d} retention"]) for d in own},
            "mean retention (95 % interval)": interval(found),
            "training": minutes(found["training_seconds"]),
        })  # fmt: skip
    return rows


def joined(folder: Path, names: dict[str, str]) -> list[Row]:
    """Scores and speed at the largest batch size, as `make example` shows them."""
    speeds = read_rows(folder / "speed.csv")
    largest = max(row["batch_size"] for row in speeds)
    rows = []
    for encoder, name in names.items():
        own = newest_scores(read_rows(folder / "scores.csv"))[encoder]
        some = [r for r in speeds if (r["encoder"], r["batch_size"]) == (encoder, largest)]
        rows.append({
            "encoder": name,
            "layers": some[0]["layers"],
            "parameters": f"{some[0]['parameters'] / 1e6:.1f} M",
            **{f"{d} nDCG@10": f"{row[METRIC]:.4f}" for d, row in own.items()},
            **{f"{d} retention": percent(row["retention"]) for d, row in own.items()},
            **({"mean": percent(mean_retention(own.values()))} if len(own) > 1 else {}),
            **{f"{row['dataset']} queries/s, batch {largest}":
               f"{row['queries_per_second']:.0f} ({times(row['speedup'])})" for row in some},
        })  # fmt: skip
    return rows


def example() -> list[Row]:
    return joined(
        HERE / "pydocs",
        {TEACHER: "all-MiniLM-L6-v2",
         f"{TEACHER}-pydocs-layers-0-5": "its student, layers 0 and 5"},
    )  # fmt: skip


def paper_recipe() -> list[Row]:
    return joined(
        HERE / "all-MiniLM-L6-v2",
        {TEACHER: "all-MiniLM-L6-v2", f"{TEACHER}-layers-0-5": "layers 0 and 5"},
    )


def other_model() -> list[Row]:
    teacher = "models/all-mpnet-base-v2"
    return joined(
        HERE / "all-mpnet-base-v2",
        {teacher: "all-mpnet-base-v2", f"{teacher}-from-MiniLM": "started from all-MiniLM-L6-v2"},
    )


def recipes() -> list[Row]:
    """What was tried, each against one epoch of the best recipe."""
    rows = []
    for row in read_rows(HERE / "recipes" / "comparison.csv"):
        if row["encoder"] == TEACHER:
            continue
        rows.append({
            "student": Path(row["encoder"]).name,
            "validation MSE": f"{row['validation_mse']:.2e}",
            **{name: percent(row[name]) for name in row if name.endswith(" retention")},
            "mean": percent(row["mean"]),
            "difference": f"{row['difference']:+.1f}" if row["difference"] is not None else None,
            "p": row["p"],
        })  # fmt: skip
    return rows


def texts() -> list[Row]:
    """Students by kinds of text and dose, on six collections."""
    found = compared_by_name(STUDENTS)
    return [
        {"student": student, "texts": kinds,
         "presentations": f"{row['presentations'] / 1e6:.1f} M",
         "training, one core": minutes(row["training_seconds"]),
         **{name: percent(row[name]) for name in row if name.endswith(" retention")},
         "mean (95 % interval)": interval(row), "mean overlap@10": f"{row['overlap@10']:.3f}"}
        for name, (student, kinds) in TEXTS.items() if (row := found.get(name))
    ]  # fmt: skip


def adapt() -> list[Row]:
    """What sentences of a collection do for it and for others."""
    found = compared_by_name(HERE / "recipes")
    labels = {"baseline": "without", "adapt-nfcorpus": "`--adapt nfcorpus`",
              "adapt-scifact": "`--adapt scifact`"}  # fmt: skip
    return [
        {"one epoch": label,
         **{f"{d} retention": percent(found[name][f"{d} retention"])
            for d in ("scifact", "nfcorpus", "pydocs")}}
        for name, label in labels.items()
    ]  # fmt: skip


def sweep(folder: str) -> list[Row]:
    """Retention by choice of layers, beside the paper's."""
    teacher, *found = report.read_sweep(HERE / folder)
    return report.students_table(found, teacher)


def more() -> list[Row]:
    """What each option buys, with its price."""
    tried, trained = compared_by_name(HERE / "recipes"), compared_by_name(HERE / "students")

    def mean(name: str) -> float:
        return tried[name]["mean"]

    def training(name: str) -> str | None:
        return minutes(trained[name]["training_seconds"])

    steps = [
        ("the paper's recipe", "`--recipe paper --mixed-precision`", mean("paper"), None),
        ("no dropout, a cosine, a higher rate", "`--recipe best --num-epochs 1`",
         mean("baseline"), None),
        ("five epochs", "`--recipe best`", mean("5-epochs"), training("layers-0-5")),
        ("a dictionary beside the queries", "`--queries LOG downloads/wordnet.txt`",
         mean("wordnet-3-epochs"), training("layers-0-5-wordnet")),
    ]  # fmt: skip
    rows, before = [], None
    for what, command, value, took in steps:
        gain = None if before is None else f"{value - before:+.1f} points"
        rows.append({"": what, "command": command, "mean retention": percent(value),
                     "gain": gain, "training, one core": took})  # fmt: skip
        before = value
    own, without = (tried[name]["scifact retention"] for name in ("adapt-scifact", "baseline"))
    rows.append({
        "": "sentences of your own collection", "command": "`--adapt DIR`",
        "mean retention": f"SciFact {percent(own)}",
        "gain": f"{own - without:+.1f} points there",
        "training, one core": None,
    })  # fmt: skip
    return rows


def twelve() -> list[Row]:
    """Students of a teacher of twelve layers, beside the paper's of its own teacher."""
    three = ("scifact", "nfcorpus", "arguana")
    paper = paper_student((0, 11))

    def row(names: tuple[str, str, str], retention: dict[str, float]) -> Row:
        student, texts, recipe = names
        return {
            "student": student, "texts": texts, "recipe": recipe,
            **{name: percent(retention[name]) for name in three},
            "mean of these": percent(mean(retention[name] for name in three)),
            **{name: percent(retention[name]) if name in retention else None
               for name in ("stackfaq", "pydocs", "trecdl19")},
        }  # fmt: skip

    def kept(found: dict[str, Row]) -> dict[str, float]:
        return {dataset: own["retention"] for dataset, own in found.items()}

    rows = []
    on_six = scores(HERE / "twelve")
    for name, names in TWELVE.items():
        compare = compared(HERE / "twelve", (name, "torch"))
        rows.append({
            **row(names, kept(on_six[name, "torch"])),
            "six (95 % interval)": interval(compare),
            "overlap@10": f"{compare['overlap@10']:.3f}",
            "presentations": f"{compare['presentations'] / 1e6:.1f} M",
        })  # fmt: skip
    on_three = newest_scores(read_rows(HERE / "twelve" / "queries.csv"))
    names = ("layers 0 and 11", "queries alone", "best")
    alone = row(names, kept(on_three["models/mpnet/layers-0-11"]))
    rows.append(alone | {"presentations": "0.6 M"})
    names = ("the paper's, of its own teacher", "MS MARCO's queries", "paper")
    rows.append(row(names, {name: paper_retention(paper, [name]) for name in three}))
    return [dict.fromkeys(rows[0]) | row for row in rows]


def twelve_speed() -> list[Row]:
    """Two of twelve layers against all, by what they run on."""
    rows = []
    for file, dataset, where in TIMED_ON:
        for size in (1, 16, 64):
            teacher, *others = timed(HERE / "twelve" / file, size, dataset).values()
            for student in others:
                if student["encoder"] == teacher["encoder"]:
                    continue
                gain = student["queries_per_second"] / teacher["queries_per_second"]
                paper = paper_speedup(2, size) if student["backend"] == "torch" else None
                rows.append({
                    "on": where, "in": student["backend"], "batch": size,
                    "teacher, queries/s": f"{teacher['queries_per_second']:,.0f}",
                    "two layers, queries/s": f"{student['queries_per_second']:,.0f}",
                    "times": times(gain),
                    "the paper's": times(paper) if paper else None,
                })  # fmt: skip
    return rows


def doses() -> list[Row]:
    """Two layers of six by the number of queries that a user has."""
    rows = []
    for (encoder, _), found in scores(HERE / "dose").items():
        name, _, queries = Path(encoder).name.partition("-")
        if name != "queries":
            continue  # the teacher
        report = read_json(HERE / "dose" / f"{Path(encoder).name}.json")
        steps = report["validation_mse"][-1]["step"]
        per_pass = math.ceil(int(queries) / report["arguments"]["train_batch_size"])
        rows.append({
            "queries": f"{int(queries):,}",
            "passes": f"{steps / per_pass:.0f}",
            "training, one core": minutes(report["seconds"]["training"]),
            **{f"{d} retention": percent(row["retention"]) for d, row in found.items()},
            "mean": percent(mean_retention(found.values())),
            "mean overlap@10": f"{mean(row['overlap@10'] for row in found.values()):.3f}",
        })  # fmt: skip
    return sorted(rows, key=lambda row: int(row["queries"].replace(",", "")))


def prompts() -> list[Row]:
    """What an instruction before each query costs a student of two layers."""
    alone, batch = (timed(HERE / "prompt" / "speed.csv", size) for size in (1, 64))
    slow = next(iter(alone))
    return [
        {"student": {"with": "with the prompt", "without": "without"}[Path(key[0]).name],
         "one query": f"{alone[key]['p50_ms']:.2f} ms "
         f"({times(alone[slow]['p50_ms'] / alone[key]['p50_ms'])})",
         "queries/s, batch 64": f"{batch[key]['queries_per_second']:.0f} "
         f"({times(batch[key]['queries_per_second'] / batch[slow]['queries_per_second'])})"}
        for key in alone
    ]  # fmt: skip


def peers() -> list[Row]:
    """What others published of their students, this project's beside them."""
    own = {row["query encoder"]: row for row in first()}
    rows = [
        {"who": "this project", "student": name, "teacher": "all-MiniLM-L6-v2",
         "kept": own[name]["kept"].partition(" (")[0], "on": "six small sets",
         "training": "2.5 M presentations, one core", "a query": own[name]["one query"],
         "source": "above", "how sure": "measured"}
        for name in ("two layers", "no layer (static)")
    ]  # fmt: skip
    return [*rows, *({key: value or "" for key, value in row.items()}
                     for row in read_rows(HERE / "peers.csv"))]  # fmt: skip
