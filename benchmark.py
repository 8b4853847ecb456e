#!/usr/bin/env python
"""Score query encoders on BEIR over the document index of one encoder.

    python benchmark.py --query-encoder models/student              # the paper: all 15 data sets
    python benchmark.py --datasets scifact nfcorpus --document-encoder models/all-MiniLM-L6-v2 \\
        --query-encoder models/student --score-function cos_sim
    python benchmark.py --datasets path/to/my/collection …          # a folder in BEIR's layout

Documents are embedded and indexed once per document encoder; then only queries are embedded. With
--query-encoder the document encoder's own queries are scored on the same index, and retention is
the share of its nDCG@10 that the query encoder keeps.
"""

import argparse
import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from disret.catalog import datasets
from disret.collection import Collection, check_name, default_split, find_collections
from disret.download import mirror_from
from disret.files import check_writable
from disret.paths import HOME
from disret.terminal import UserError, run, say

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

COUNTS = ("documents", "queries")


class Encoder(NamedTuple):
    name: str
    model: "SentenceTransformer"
    weights: str  # fingerprint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--datasets",
        nargs="+",
        default=list(datasets()),
        metavar="NAME|DIR",
        help="data sets, or directories in BEIR's layout (default: the paper's 15)",
    )
    add(
        "--document-encoder",
        default="msmarco-bert-base-dot-v5",
        metavar="MODEL",
        help="model that embeds the documents (default: %(default)s)",
    )
    add(
        "--query-encoder",
        metavar="MODEL",
        help="model that embeds the queries (default: the document encoder)",
    )
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add(
        "--output",
        type=Path,
        default=HOME / "benchmarks" / "results.csv",
        metavar="CSV",
        help="results, a row for each data set as it finishes; rows that it holds already are not "
        "computed again (default: benchmarks/results.csv)",
    )
    add("--extension", choices=["flat"], default="flat", help="kind of index: exact search")
    add(
        "--k-values",
        nargs="+",
        type=int,
        default=[10, 100],
        metavar="K",
        help="cut-offs of the metrics (default: 10 100)",
    )
    add(
        "--score-function",
        choices=["dot", "cos_sim"],
        default="dot",
        help="dot product or cosine of the angle (default: dot)",
    )
    add("--batch-size", type=int, default=32, help="texts encoded at once (default: 32)")
    add(
        "--no-baseline", action="store_true", help="do not score the document encoder's own queries"
    )
    add("--save-runs", type=Path, metavar="DIR", help="write TREC run files there")
    add("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    add("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args()
    if min(args.k_values) < 1:
        parser.error(f"--k-values must be positive, got {min(args.k_values)}")
    if args.batch_size < 1:
        parser.error(f"--batch-size must be positive, got {args.batch_size}")
    args.k_values = sorted(set(args.k_values))
    return args


def main() -> None:
    args = parse_args()
    mirror = mirror_from(args.mirror)
    check_before_long_work(args)

    from disret.encoders import resolve_device
    from disret.results import format_table, read_rows

    done = read_rows(args.output)
    device = resolve_device(args.device)
    teacher = load(args.document_encoder, device)
    contestants = [teacher]  # the teacher first: retention is measured against it
    if args.query_encoder is not None:
        student = load(args.query_encoder, device)
        check_dimensions(teacher, student)
        contestants = [student] if args.no_baseline else [teacher, student]

    rows = []
    for dataset in args.datasets:
        split = args.split or default_split(dataset)
        collections = find_collections(dataset, mirror)
        for collection in collections:
            collection.check_split(split)
        teacher_scores: dict[str, float] = {}  # by collection
        for contestant in contestants:
            scored = []
            for collection in collections:
                row = describe_run(args, collection, split, teacher, contestant)
                found = find_done(done, row, args)
                if found is None:
                    row.update(evaluate(args, collection, split, teacher, contestant))
                    add_retention(row, teacher_scores, args)
                    save(row, args.output)
                else:
                    row.update(found)
                    add_retention(row, teacher_scores, args)
                    say(f"{collection.name}, {contestant.name}: in {args.output} already.")
                scored.append(row)
            if len(collections) > 1:
                row = average_of_parts(scored, args)
                add_retention(row, teacher_scores, args)
                if find_done(done, row, args) is None:
                    save(row, args.output)
                scored = [row]
            rows += scored
    print(format_table(summarise(rows, contestants, args)))
    print(f"\nEvery metric is in {args.output}.")


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse unknown data sets, missing splits and an output that cannot be written."""
    for name in args.datasets:
        check_name(name)
        if name not in datasets():
            for collection in find_collections(name):
                collection.check_split(args.split or default_split(name))
    check_writable(args.output)
    if args.save_runs:
        check_writable(args.save_runs / "run")


def load(name: str, device: str) -> Encoder:
    from disret.encoders import fingerprint, load_encoder

    model = load_encoder(name, device)
    return Encoder(name, model, fingerprint(model)[:16])


def check_dimensions(teacher: Encoder, student: Encoder) -> None:
    expected, got = (e.model.get_embedding_dimension() for e in (teacher, student))
    if got != expected:
        raise UserError(
            f"{student.name} gives {got} dimensions, but the index of {teacher.name} has "
            f"{expected}: it is not a query encoder for this index."
        )


def evaluate(
    args: argparse.Namespace,
    collection: Collection,
    split: str,
    teacher: Encoder,
    contestant: Encoder,
) -> dict[str, float]:
    """Index the documents with the teacher, search with the contestant's queries, and score.

    Returns:
        The metrics, and the numbers of documents and of queries scored.
    """
    import numpy as np

    from disret.index import normalised, open_index
    from disret.scoring import metrics, to_run, write_trec_run

    queries = collection.queries()
    index, document_ids = open_index(
        collection,
        teacher.model,
        teacher.name,
        args.score_function,
        args.batch_size,
        args.extension,
    )
    qrels = collection.qrels(split, queries, set(document_ids))
    query_ids = list(qrels)
    vectors = contestant.model.encode_query(
        [queries[query_id] for query_id in query_ids],
        batch_size=args.batch_size,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    if not np.isfinite(vectors).all():
        raise UserError(
            f"{contestant.name} gives embeddings that are not numbers on {collection.name}."
        )
    vectors = normalised(vectors) if args.score_function == "cos_sim" else np.float32(vectors)

    # One hit more than asked for: a query's own document, if retrieved, does not count.
    k = max(args.k_values)
    scores, rows = index.search(vectors, min(k + 1, len(document_ids)))
    hits = to_run(query_ids, document_ids, scores, rows, k)
    if args.save_runs:
        path = run_file(args, collection.name, split, contestant.name)
        write_trec_run(path, hits, Path(contestant.name).name)
    return {
        **metrics(qrels, hits, args.k_values),
        "documents": len(document_ids),
        "queries": len(query_ids),
    }


def describe_run(
    args: argparse.Namespace,
    collection: Collection,
    split: str,
    teacher: Encoder,
    contestant: Encoder,
) -> dict:
    """What a row was measured on, in the paper's columns and those that tell runs apart."""
    return {
        "datetime": datetime.now().isoformat(" ", "seconds"),
        "dataset": collection.name,
        "document_encoder": teacher.name,
        "query_encoder": contestant.name,
        "split": split,
        "score_function": args.score_function,
        "document_weights": teacher.weights,
        "query_weights": contestant.weights,
        "collection": collection.fingerprint(split)[:16],
    }


def find_done(done: Sequence[dict], row: dict, args: argparse.Namespace) -> dict | None:
    """The metrics of an earlier run of the same thing, if it had all the cut-offs."""
    if args.save_runs and "/" not in row["dataset"]:
        path = run_file(args, row["dataset"], row["split"], row["query_encoder"])
        if not path.exists():
            return None
    same = ("dataset", "split", "score_function", "document_weights", "query_weights", "collection")
    for earlier in done:
        if all(earlier.get(key) == row[key] for key in same):
            numbers = {key: earlier.get(key) for key in (*metric_names(args), *COUNTS)}
            if None not in numbers.values():
                return {key: float(value) for key, value in numbers.items()}
    return None


def average_of_parts(rows: Sequence[dict], args: argparse.Namespace) -> dict:
    """The row of a data set in parts: metrics averaged over the parts, as the paper did."""
    average = {
        name: round(sum(row[name] for row in rows) / len(rows), 5) for name in metric_names(args)
    }
    counts = {name: sum(row[name] for row in rows) for name in COUNTS}
    parts = "+".join(row["collection"] for row in rows)
    digest = hashlib.sha256(parts.encode()).hexdigest()[:16]
    dataset = rows[0]["dataset"].rpartition("/")[0]
    return {**rows[0], "dataset": dataset, "collection": digest, **average, **counts}


def add_retention(row: dict, teacher_scores: dict[str, float], args: argparse.Namespace) -> None:
    """Set the share of the teacher's nDCG that the row keeps, in percent, where it is known."""
    from disret.scoring import retention

    score = row[main_metric(args)]
    if row["query_weights"] == row["document_weights"]:
        teacher_scores[row["dataset"]] = score
    teacher_score = teacher_scores.get(row["dataset"])
    row["retention"] = None if teacher_score is None else retention(score, teacher_score)


def summarise(
    rows: Sequence[dict], contestants: Sequence[Encoder], args: argparse.Namespace
) -> list[dict]:
    """A line for each data set and their average, a column for each encoder."""
    metric = main_metric(args)
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        of_dataset = [row for row in rows if row["dataset"] == dataset]
        line = {"dataset": dataset, "documents": int(of_dataset[0]["documents"])}
        line["queries"] = int(of_dataset[0]["queries"])
        line.update({f"{metric} {row['query_encoder']}": row[metric] for row in of_dataset})
        if len(contestants) > 1:
            line["retention %"] = of_dataset[-1]["retention"]
        lines.append(line)
    if len(lines) > 1:
        average = {"dataset": "average", "documents": None, "queries": None}
        for column in list(lines[0])[3:]:
            known = [line[column] for line in lines if line[column] is not None]
            average[column] = round(sum(known) / len(known), 5) if known else None
        lines.append(average)
    return lines


def save(row: dict, output: Path) -> None:
    from disret.results import append_row

    append_row(output, row)


def run_file(args: argparse.Namespace, dataset: str, split: str, encoder: str) -> Path:
    return args.save_runs / f"{dataset.replace('/', '-')}.{split}.{Path(encoder).name}.trec"


def metric_names(args: argparse.Namespace) -> list[str]:
    names = [f"{kind}@{k}" for kind in ("NDCG", "MAP", "Recall", "P") for k in args.k_values]
    return [*names, "MRR@10"]


def main_metric(args: argparse.Namespace) -> str:
    """The metric that retention is measured on: nDCG@10, or at the least cut-off given."""
    return f"NDCG@{10 if 10 in args.k_values else args.k_values[0]}"


if __name__ == "__main__":
    run(main)
