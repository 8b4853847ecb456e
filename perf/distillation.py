#!/usr/bin/env python
"""How fast students are distilled: this project against sentence-transformers as its users do it.

    python perf/distillation.py --teacher models/all-MiniLM-L6-v2
    python perf/distillation.py --memory        # MS MARCO's 808,731 queries, 768 dimensions

The peer encodes with `SentenceTransformer.encode`'s defaults, puts the embeddings into a data set
and trains with the trainer's default collator and sampler, as sentence-transformers' distillation
example does. Both train on the same queries, in batches of 128, and take turns within a round.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret.command_line import add_device, add_mirror, argument_parser, positive, run, say
from disret.data.download import mirror_from
from disret.data.queries import msmarco_queries, read_queries
from disret.files import check_writable, write_json
from disret.sweep.students import subsets

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from disret.distil.training_data import TrainingData

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 128
PART = 0.25  # of the queries, for the peer
MSMARCO_QUERIES = 808_731


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--teacher", default="models/all-MiniLM-L6-v2", help="(default: %(default)s)")
    add("--queries", type=positive, default=8192,
        help="MS MARCO training queries; the peer, whose speed does not depend on their number, "
        "gets the first quarter (default: 8192)")
    add("--rounds", type=positive, default=3, help="(default: 3)")
    add("--jobs", type=positive, default=2,
        help="students trained at once in the last comparison, CPU only (default: 2)")
    add("--memory", action="store_true", help="measure memory at MS MARCO's size instead")
    add("--output", type=Path, help="(default: perf/results/distillation[-memory].json)")
    # fmt: on
    add_mirror(parser)
    add_device(parser)
    args = parser.parse_args()
    name = "distillation-memory.json" if args.memory else "distillation.json"
    args.output = args.output or RESULTS / name
    return args


def main() -> None:
    args = parse_args()
    check_writable(args.output)
    train, _ = msmarco_queries(mirror_from(args.mirror))

    from disret.devices import device_name, training_device, versions
    from disret.tables import format_table

    device = training_device(args.device)  # one GPU, as distill.py takes
    measure = measure_memory if args.memory else measure_speed
    rows, settings = measure(args, read_queries([train]), device)
    report = {"device": device_name(device), "versions": versions(), **settings, "rows": rows}
    write_json(args.output, report)
    print(format_table([{k: v for k, v in row.items() if k != "runs"} for row in rows]))
    print(f"\nOn {report['device']}; all of it is in {args.output}.")


# --- Speed ----------------------------------------------------------------------------------------


def measure_speed(
    args: argparse.Namespace, log: list[str], device: str
) -> tuple[list[dict], dict[str, Any]]:
    """Time each way to do each part, in turns.

    Returns:
        A row for each: queries a second, of all students together, and how many times the peer's.
    """
    import random

    from disret.devices import resolve_dtype, share_of_cores
    from disret.encode.batches import BatchEncoder
    from disret.encode.models import load_encoder, set_precision

    queries = random.Random(0).sample(log, args.queries)
    some = queries[: int(PART * len(queries))]
    dtype = resolve_dtype("auto", device)
    library = load_encoder(args.teacher, device)
    low = load_encoder(args.teacher, device)
    set_precision(low, dtype)

    def cut(layers: tuple[int, ...]) -> "SentenceTransformer":
        return cut_to(library, layers)

    kept = subsets(library[0].model.config.num_hidden_layers)
    pair = next(layers for layers, choice in kept.items() if choice == "first, last")
    embeddings = BatchEncoder(low).encode_query(queries)
    one, all_of_them = f"training, layers {pair}", f"training, {len(kept)} students"
    library_name, ours = "sentence-transformers", "this project"
    contestants: list[tuple[str, str, int, Callable[[], object]]] = [
        ("teacher pass", library_name, len(some), lambda: library.encode(some)),
        ("teacher pass", ours, len(queries), lambda: BatchEncoder(low).encode_query(queries)),
        (one, library_name, len(some),
         lambda: train_as_users_do(cut(pair), some, embeddings, bf16=False)),
        (one, f"{library_name}, bf16", len(some),
         lambda: train_as_users_do(cut(pair), some, embeddings, bf16=True)),
        (one, f"{ours}, with dropout", len(queries),
         lambda: train_on_queries(cut(pair), queries, embeddings, dropout=True)),
        (one, ours, len(queries),
         lambda: train_on_queries(cut(pair), queries, embeddings, dropout=False)),
    ]  # fmt: skip
    for _, _, _, work in contestants[:2]:  # warm-up
        work()
    if device == "cpu":
        pool = ProcessPoolExecutor(
            args.jobs, get_context("spawn"), start_worker,
            (args.teacher, queries, embeddings, share_of_cores(args.jobs)),
        )  # fmt: skip
        list(pool.map(train_in_worker, [pair] * args.jobs))  # warm-up
        # The large ones first, so that all workers end at about the same time.
        contestants.append((
            all_of_them, ours, len(queries) * len(kept),
            lambda: list(pool.map(train_in_worker, list(reversed(kept)))),
        ))  # fmt: skip
    else:
        contestants.append((
            all_of_them, ours, len(queries) * len(kept),
            lambda: [train_on_queries(cut(layers), queries, embeddings, dropout=False)
                     for layers in kept],
        ))  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"part": part, "how": how, "queries": count, "runs": []}
        for part, how, count, _ in contestants
    ]
    for turn in range(1, args.rounds + 1):
        for row, (part, how, _, work) in zip(rows, contestants, strict=True):
            say(f"round {turn} of {args.rounds}: {part}, {how}")
            start = time.perf_counter()
            work()
            synchronise(device)
            row["runs"].append(round(time.perf_counter() - start, 2))

    def whole(training: str, how: str) -> dict[str, Any]:
        """The teacher pass and a training after it, as a row."""
        parts = [row for row in rows if row["how"] == how]
        first, second = (next(row for row in parts if row["part"] == part)
                         for part in ("teacher pass", training))  # fmt: skip
        return {
            "part": f"teacher pass and {training}",
            "how": how,
            "queries": second["queries"],
            "runs": [round(a + b, 2) for a, b in zip(first["runs"], second["runs"], strict=True)],
        }

    rows += [whole(one, library_name), whole(one, ours), whole(all_of_them, ours)]
    peers: dict[str, float] = {}
    for row in rows:
        speed = row["queries"] / statistics.median(row["runs"])
        row["queries_per_second"] = round(speed, 1)
        if row["how"] == library_name:
            peers[row["part"]] = speed
        peer = peers.get(row["part"], peers.get(f"teacher pass and {one}"))
        row["times"] = round(speed / peer, 2) if peer else None
    settings = {"teacher": Path(args.teacher).name, "queries": args.queries, "batch_size": BATCH,
                "layers": pair, "rounds": args.rounds}  # fmt: skip
    return rows, settings


def cut_to(teacher: "SentenceTransformer", layers: tuple[int, ...]) -> "SentenceTransformer":
    from disret.distil.layers import keep_layers

    student = copy.deepcopy(teacher)
    student[0].model = keep_layers(teacher[0].model, layers)
    return student


_shared: dict[str, Any] = {}  # of a worker process


def start_worker(teacher: str, queries: list[str], embeddings: Any, threads: int) -> None:
    import torch

    from disret.encode.models import load_encoder

    torch.set_num_threads(threads)
    _shared.update(teacher=load_encoder(teacher, "cpu"), queries=queries, embeddings=embeddings)


def train_in_worker(layers: tuple[int, ...]) -> None:
    student = cut_to(_shared["teacher"], layers)
    train_on_queries(student, _shared["queries"], _shared["embeddings"], dropout=False)


def train_as_users_do(
    student: "SentenceTransformer", queries: list[str], embeddings: Any, bf16: bool
) -> None:
    """One epoch with sentence-transformers, written as its documentation shows."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MSELoss

    dataset = Dataset.from_dict({"sentence": queries, "label": embeddings[: len(queries)]})
    with tempfile.TemporaryDirectory() as folder:
        SentenceTransformerTrainer(
            model=student,
            args=arguments(folder, student, bf16=bf16),
            train_dataset=dataset,
            loss=MSELoss(student),
        ).train()


def train_on_queries(
    student: "SentenceTransformer", queries: list[str], embeddings: Any, dropout: bool
) -> None:
    """One epoch as distill.py does it, with tokens on file as after the first student."""
    from disret.distil.training_data import TrainingData, tokenised_queries

    train(student, TrainingData(tokenised_queries(student, queries), embeddings), dropout)


def train(student: "SentenceTransformer", examples: "TrainingData", dropout: bool = False) -> None:
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    from disret.devices import mixed_precision
    from disret.distil.training import DistillationTrainer, for_short_texts

    bf16 = mixed_precision(str(student.device)) == "bfloat16"
    with tempfile.TemporaryDirectory() as folder, for_short_texts(student, dropout):
        DistillationTrainer(
            model=student,
            args=arguments(folder, student, bf16=bf16),
            data=examples,
            loss=EmbedDistillLoss(student, distance_metric="mse"),
        ).train()


def arguments(folder: str, student: "SentenceTransformer", **kwargs: Any) -> Any:
    """What both have in common."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    return SentenceTransformerTrainingArguments(
        output_dir=folder, num_train_epochs=1, per_device_train_batch_size=BATCH,
        learning_rate=1e-4, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_strategy="no", use_cpu=student.device.type == "cpu", **kwargs,
    )  # fmt: skip


def synchronise(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# --- Memory ---------------------------------------------------------------------------------------


def measure_memory(
    args: argparse.Namespace, log: list[str], device: str
) -> tuple[list[dict], dict[str, Any]]:
    """Peak memory of each stage for as many queries as MS MARCO has and a 768-dimensional teacher.

    The teacher is a random BERT of that width, thin otherwise, as its depth costs time and no
    memory. Queries beyond the log's are its queries with a number. Training takes 50 steps; before,
    every batch of an epoch is made, so that every embedding has been read.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from disret import paths
    from disret.distil.training import QueryBatchSampler
    from disret.distil.training_data import TrainingData, tokenised_queries
    from disret.encode.batches import BatchEncoder
    from disret.encode.embedding_cache import Rows, embedded
    from disret.encode.timings import Timings

    queries = [f"{query} {round}" if round else query
               for round in range(-(-MSMARCO_QUERIES // len(log))) for query in log]  # fmt: skip
    queries = queries[:MSMARCO_QUERIES]
    timings = Timings()
    with tempfile.TemporaryDirectory() as folder:
        paths.DOWNLOADS = Path(folder)
        tokenizer = AutoTokenizer.from_pretrained(args.teacher)
        settings = BertConfig(vocab_size=len(tokenizer), hidden_size=768, intermediate_size=256,
                              num_hidden_layers=1, num_attention_heads=12)  # fmt: skip
        torch.manual_seed(0)
        BertModel(settings).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        teacher = SentenceTransformer(
            modules=[Transformer(folder, max_seq_length=256), Pooling(768)], device=device
        )
        with timings.measure("teacher pass", len(queries)):
            encoder = BatchEncoder(teacher)
            targets = Rows(embedded("random", encoder.tokenise, encoder.encode, queries, 768))
        with timings.measure("tokenise", len(queries)):
            examples = TrainingData(tokenised_queries(teacher, queries), targets)
        sampler = QueryBatchSampler(
            examples.dataset(), examples.tokens.lengths, batch_size=BATCH, drop_last=False, seed=0
        )
        with timings.measure("make every batch", len(queries)):
            for batch in sampler:
                examples.collate([{"row": row} for row in batch])
        with timings.measure("train 50 steps", 50 * BATCH):
            some = tokenised_queries(teacher, queries[: 50 * BATCH])
            train(teacher, TrainingData(some, targets[: 50 * BATCH]))
    return timings.rows(), {"queries": len(queries), "dimensions": 768, "batch_size": BATCH}


if __name__ == "__main__":
    run(main)
