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
from collections.abc import Sequence
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


class Encoder(NamedTuple):
    name: str
    weights: str  # fingerprint
    model: "SentenceTransformer"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("--datasets", nargs="+", default=list(datasets()), metavar="NAME|DIR",
        help="data sets, or directories in BEIR's layout (default: the paper's 15)")
    add("--document-encoder", default="msmarco-bert-base-dot-v5", metavar="MODEL",
        help="model that embeds the documents (default: %(default)s)")
    add("--query-encoder", metavar="MODEL",
        help="model that embeds the queries (default: the document encoder)")
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add("--output", type=Path, default=HOME / "benchmarks" / "results.csv", metavar="CSV",
        help="results, a row for each data set as it finishes; rows that it holds already are not "
        "computed again (default: benchmarks/results.csv)")
    add("--extension", choices=["flat"], default="flat", help="kind of index: exact search")
    add("--k-values", nargs="+", type=int, default=[10, 100], metavar="K",
        help="cut-offs of the metrics (default: 10 100)")
    add("--score-function", choices=["dot", "cos_sim"], default="dot",
        help="dot product or cosine of the angle (default: dot)")
    add("--batch-size", type=int, default=32, help="texts encoded at once (default: 32)")
    add("--no-baseline", action="store_true",
        help="do not score the document encoder's own queries")
    add("--save-runs", type=Path, metavar="DIR", help="write TREC run files there")
    add("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    add("--debug", action="store_true", help="show tracebacks")
    # fmt: on
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

    from disret.devices import resolve_device
    from disret.results import format_table, read_rows
    from disret.score_rows import main_metric, summary

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
        collections = find_collections(dataset, mirror)
        split = args.split or default_split(dataset)
        rows += score_dataset(args, collections, split, teacher, contestants, done)
    print(format_table(summary(rows, main_metric(args.k_values))))
    print(f"\nEvery metric is in {args.output}.")


def score_dataset(
    args: argparse.Namespace,
    collections: Sequence[Collection],
    split: str,
    teacher: Encoder,
    contestants: Sequence[Encoder],
    done: Sequence[dict],
) -> list[dict]:
    """Score every contestant on a data set; each row goes to the output as soon as it is known.

    Args:
        collections: one, or the parts of a data set that counts as their average.
        done: rows of earlier runs, which are not computed again.

    Returns:
        A row for each contestant.
    """
    from disret.results import append_row
    from disret.score_rows import assemble, average_parts, find_scores, identify, main_metric
    from disret.scoring import retention

    for collection in collections:
        collection.check_split(split)
    metric = main_metric(args.k_values)
    teacher_scores: dict[str, float] = {}  # by collection

    def finish(identity: dict, scores: dict) -> dict:
        """Add retention, and save the row unless the output has it."""
        name = identity["dataset"]
        if identity["query_weights"] == identity["document_weights"]:
            teacher_scores[name] = scores[metric]
        known = teacher_scores.get(name)
        kept = None if known is None else retention(scores[metric], known)
        row = assemble(identity, scores, kept)
        if find_scores(done, identity, args.k_values) is None:
            append_row(args.output, row)
        return row

    rows = []
    for contestant in contestants:
        parts = []
        for collection in collections:
            identity = identify(collection, split, args.score_function, teacher[:2], contestant[:2])
            scores = find_scores(done, identity, args.k_values)
            if scores is None or not has_run_file(args, collection, split, contestant):
                scores = evaluate(args, collection, split, teacher, contestant)
            else:
                say(f"{collection.name}, {contestant.name}: in {args.output} already.")
            row = finish(identity, scores)
            parts.append((identity, scores))
        rows.append(row if len(collections) == 1 else finish(*average_parts(parts)))
    return rows


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
        path = run_file(args, collection, split, contestant)
        write_trec_run(path, hits, Path(contestant.name).name)
    return {
        **metrics(qrels, hits, args.k_values),
        "documents": len(document_ids),
        "queries": len(query_ids),
    }


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
    return Encoder(name, fingerprint(model), model)


def check_dimensions(teacher: Encoder, student: Encoder) -> None:
    expected, got = (e.model.get_embedding_dimension() for e in (teacher, student))
    if got != expected:
        raise UserError(
            f"{student.name} gives {got} dimensions, but the index of {teacher.name} has "
            f"{expected}: it is not a query encoder for this index."
        )


def run_file(
    args: argparse.Namespace, collection: Collection, split: str, contestant: Encoder
) -> Path:
    name = f"{collection.name.replace('/', '-')}.{split}.{Path(contestant.name).name}.trec"
    return args.save_runs / name


def has_run_file(
    args: argparse.Namespace, collection: Collection, split: str, contestant: Encoder
) -> bool:
    """Whether the run file is there, or not asked for."""
    return not args.save_runs or run_file(args, collection, split, contestant).exists()


if __name__ == "__main__":
    run(main)
