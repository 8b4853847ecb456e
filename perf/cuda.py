#!/usr/bin/env python
"""What one GPU does with a BERT-base teacher and its two-layer student, of random weights.

    python perf/cuda.py                      # minutes on an H100; nothing is downloaded
    python perf/cuda.py --parts search       # one part of it
    python perf/cuda.py --scale 0.001 --device cpu --output /tmp/x.json    # whether it runs

Parts: `documents` a second, beside sentence-transformers and the card's own matrix product; the
teacher pass over as many queries as MS MARCO has and `distil`, one epoch of the student; exact
`search`, beside the time that its bytes take to the card and on it; and queries a second
`online`, plain, compiled and as CUDA graphs.
"""

import argparse
import copy
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret.command_line import add_device, argument_parser, positive, positive_float, run, say
from disret.files import check_writable, write_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("documents", "distil", "search", "online")
WORDS = 30_000
DOCUMENTS, DOCUMENT_WORDS = 20_000, (40, 250)
QUERIES, QUERY_WORDS = 808_731, (3, 12)  # as many as MS MARCO has to train on
INDEX, DIMENSION, SEARCHES, K = (1_000_000, 8_841_823), 768, 6980, 1000
BLOCK = 65_536  # vectors sent together
BATCH = 128


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add("--scale", type=positive_float, default=1.0, help="of all numbers (default: 1)")
    add("--rounds", type=positive, default=3, help="of which the median counts (default: 3)")
    add("--output", type=Path, default=RESULTS / "cuda.json",
        help="(default: perf/results/cuda.json)")
    # fmt: on
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Each part gives rows; the file has them as soon as they are known."""
    args = parse_args()
    check_writable(args.output)

    from disret.devices import device_name, resolve_device, resolve_dtype, versions
    from disret.tables import format_table

    args.device = resolve_device(args.device)
    args.dtype = resolve_dtype("auto", args.device)
    report: dict[str, Any] = {
        "device": device_name(args.device), "versions": versions(), "dtype": args.dtype,
        "scale": args.scale,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        teacher = random_teacher(Path(folder) / "teacher")
        for part in args.parts:
            say(f"{part} …")
            report[part] = globals()[part](args, teacher)
            write_json(args.output, report)
            print(f"\n{format_table(report[part])}", flush=True)
    print(f"\nOn {report['device']}; all of it is in {args.output}.")


# --- What is measured on --------------------------------------------------------------------------


def random_teacher(folder: Path) -> "SentenceTransformer":
    """BERT-base with random weights, and a tokenizer that knows `WORDS` words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: row for row, word in enumerate([*special, *map(word_of, range(WORDS))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(vocabulary))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(
        modules=[Transformer(str(folder), max_seq_length=512), Pooling(768)], device="cpu"
    ).eval()


def word_of(number: int) -> str:
    """A word of four letters at least."""
    letters = []
    number += 26**3
    while number:
        number, letter = divmod(number, 26)
        letters.append(chr(97 + letter))
    return "".join(letters)


def texts(count: int, words: tuple[int, int]) -> list[str]:
    chance = random.Random(0)
    known = [word_of(number) for number in range(WORDS)]
    return [" ".join(chance.choices(known, k=chance.randint(*words))) for _ in range(count)]


def scaled(args: argparse.Namespace, count: int) -> int:
    return max(64, int(count * args.scale))


def seconds(
    args: argparse.Namespace, work: Callable[..., object], *inputs: Any, rounds: int = 0
) -> float:
    """Median time of some work, until the device has finished it; it has run once before."""
    work(*inputs)
    taken = []
    for _ in range(rounds or args.rounds):
        synchronise(args.device)
        start = time.perf_counter()
        work(*inputs)
        synchronise(args.device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def synchronise(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def placed(args: argparse.Namespace, model: "SentenceTransformer", dtype: str) -> Any:
    from disret.encode.models import place

    copied = copy.deepcopy(model)
    place(copied, args.device, dtype)
    return copied


# --- The parts ------------------------------------------------------------------------------------


def documents(args: argparse.Namespace, teacher: "SentenceTransformer") -> list[dict[str, Any]]:
    """Documents a second, and the share of the matrix product's speed that the layers reach."""
    import torch

    from disret.encode.batches import BatchEncoder

    some = texts(scaled(args, DOCUMENTS), DOCUMENT_WORDS)
    side = 8192 if args.device.startswith("cuda") else 1024
    matrix = torch.randn(side, side, device=args.device, dtype=getattr(torch, args.dtype))
    peak = 2 * side**3 / seconds(args, torch.matmul, matrix, matrix)
    del matrix
    model = placed(args, teacher, args.dtype)
    encoder = BatchEncoder(model)
    tokens = encoder.tokenise(some, "document")
    layers = sum(p.numel() for p in teacher[0].model.encoder.parameters())
    # Each weight multiplies each token; each token meets each of its text, in scores and in sums.
    products = 2 * layers * tokens.lengths.sum()
    products += 4 * 768 * 12 * (tokens.lengths.astype(float) ** 2).sum()
    rows = []
    for how, work in (
        ("this project", partial(encoder.encode_document, some)),
        ("this project, tokenised before", partial(encoder.encode, tokens, "document")),
        ("sentence-transformers", partial(
            model.encode_document, some, batch_size=BATCH, show_progress_bar=False)),
    ):  # fmt: skip
        taken = seconds(args, work)
        rows.append({
            "how": how, "documents": len(some), "tokens": int(tokens.lengths.sum()),
            "documents_per_second": round(len(some) / taken, 1),
            "percent_of_a_matrix_product": round(100 * products / taken / peak, 1),
            "product_tflops": round(peak / 1e12, 1),
        })  # fmt: skip
    return rows


def distil(args: argparse.Namespace, teacher: "SentenceTransformer") -> list[dict[str, Any]]:
    """The teacher pass over all queries and one epoch of a student with two layers."""
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    from disret import paths
    from disret.devices import mixed_precision
    from disret.distil.layers import keep_layers
    from disret.distil.training import DistillationTrainer, for_short_texts, trainer_settings
    from disret.distil.training_data import TrainingData, tokenised_queries
    from disret.encode.batches import BatchEncoder
    from disret.encode.embedding_cache import Rows, embedded

    queries = texts(scaled(args, QUERIES), QUERY_WORDS)
    whole = teacher[0].model
    student = copy.deepcopy(teacher, {id(whole): keep_layers(whole, [0, 11])}).to(args.device)
    model = placed(args, teacher, args.dtype)
    rows = []

    def note(what: str, start: float) -> float:
        synchronise(args.device)
        now = time.perf_counter()
        rows.append({
            "what": what, "queries": len(queries), "seconds": round(now - start, 1),
            "queries_per_second": round(len(queries) / (now - start), 1),
        })  # fmt: skip
        return now

    with tempfile.TemporaryDirectory() as folder:
        paths.DOWNLOADS = Path(folder)
        start = time.perf_counter()
        encoder = BatchEncoder(model)
        dimension = model.get_embedding_dimension()
        targets = Rows(embedded("random", encoder.tokenise, encoder.encode, queries, dimension))
        start = note("teacher pass", start)
        examples = TrainingData(tokenised_queries(student, queries), targets)
        start = note("tokenise for the student", start)
        settings = trainer_settings(
            Path(folder) / "checkpoints", args.device, mixed_precision(args.device),
            num_train_epochs=1, eval_steps=10**9, per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
        )  # fmt: skip
        settings.eval_strategy = settings.save_strategy = "no"
        settings.load_best_model_at_end = False
        trainer = DistillationTrainer(
            model=student, args=settings, data=examples,
            loss=EmbedDistillLoss(student, distance_metric="mse"),
        )  # fmt: skip
        start = time.perf_counter()
        with for_short_texts(student, dropout=False):
            trainer.train()
        note("one epoch of two layers", start)
    return rows


def search(args: argparse.Namespace, teacher: "SentenceTransformer") -> list[dict[str, Any]]:
    """Exact search of synthetic vectors in float16, as the shards hold them."""
    import numpy as np
    import torch

    from disret.retrieve.search import search_with_torch

    generator = np.random.default_rng(0)
    count = scaled(args, SEARCHES)
    queries = generator.standard_normal((count, DIMENSION), dtype=np.float32)
    block = generator.standard_normal((BLOCK, DIMENSION), dtype=np.float32).astype(np.float16)
    rows = []
    held = torch.from_numpy(block).to(args.device).float()
    pinned = torch.from_numpy(block)
    pinned = pinned.pin_memory() if args.device.startswith("cuda") else pinned
    product = seconds(args, torch.matmul, torch.from_numpy(queries).to(args.device), held.T)
    sent = seconds(args, partial(pinned.to, args.device, non_blocking=True, copy=True))

    def blocks(size: int) -> Iterator["np.ndarray"]:
        for start in range(0, size, BLOCK):
            yield block[: size - start].copy()  # as read from a disk's cache

    def find(size: int, k: int) -> None:
        search_with_torch(blocks(size), queries, k, args.device)

    for size in dict.fromkeys(scaled(args, wanted) for wanted in INDEX):
        k = min(K, size)
        taken = seconds(args, find, size, k, rounds=1)
        rows.append({
            "vectors": size, "queries": count, "k": k, "seconds": round(taken, 2),
            "queries_per_second": round(count / taken, 1),
            "seconds_of_bare_products": round(product * size / BLOCK, 2),
            "seconds_of_sending": round(sent * size / BLOCK, 2),
            "gigabytes_per_second": round(size * DIMENSION * 2 / taken / 1e9, 1),
        })  # fmt: skip
    return rows


def online(args: argparse.Namespace, teacher: "SentenceTransformer") -> list[dict[str, Any]]:
    """Queries a second of teacher and student, plain, compiled and replayed as a CUDA graph."""
    import torch

    from disret.distil.layers import keep_layers

    whole = teacher[0].model
    two = copy.deepcopy(teacher, {id(whole): keep_layers(whole, [0, 11])})
    queries = texts(scaled(args, 2048), QUERY_WORDS)
    precisions = ("float32", "float16", "bfloat16") if args.device.startswith("cuda") else (
        "float32",)  # fmt: skip
    rows = []
    for name, model in (("twelve layers", teacher), ("two layers", two)):
        for dtype in precisions:
            for how, make in WAYS.items():
                if how == "CUDA graph" and not args.device.startswith("cuda"):
                    continue
                if how == "torch.compile" and dtype != args.dtype:
                    continue  # it takes a minute each
                encoder = placed(args, model, dtype)
                for size in (1, 16, 64):
                    step = make(encoder)
                    batches = [queries[i : i + size] for i in range(0, len(queries), size)]
                    batches = batches[: scaled(args, 256)]

                    def work(step=step, batches=batches) -> None:
                        for batch in batches:
                            step(batch)

                    try:
                        with torch.inference_mode():
                            taken = seconds(args, work)
                    except Exception as error:  # of a compiler that is not there, for example
                        say(f"{name}, {dtype}, {how}: {str(error).splitlines()[0]}")
                        continue
                    rows.append({
                        "encoder": name, "dtype": dtype, "how": how, "batch_size": size,
                        "queries_per_second": round(sum(map(len, batches)) / taken, 1),
                        "milliseconds_per_batch": round(1e3 * taken / len(batches), 3),
                    })  # fmt: skip
    return rows


Step = Callable[[list[str]], "torch.Tensor"]
LONGEST = 16  # tokens; the queries have at most 14


def plain(model: "SentenceTransformer") -> Step:
    return lambda batch: model.encode_query(
        batch, batch_size=len(batch), convert_to_tensor=True, show_progress_bar=False
    ).cpu()


def compiled(model: "SentenceTransformer") -> Step:
    import torch

    if not hasattr(model[0].model, "_orig_mod"):
        model[0].model = torch.compile(model[0].model, dynamic=True)
    return plain(model)


def graphed(model: "SentenceTransformer") -> Step:
    """One graph for the batch's shape, all texts padded to LONGEST tokens."""
    import torch

    held: dict[str, Any] = {}

    def features_of(batch: list[str]) -> dict[str, Any]:
        encoded = model.tokenizer(
            batch, padding="max_length", max_length=LONGEST, truncation=True, return_tensors="pt"
        )
        return {name: value.to(model.device) for name, value in encoded.items()}

    def step(batch: list[str]) -> "torch.Tensor":
        features = features_of(batch)
        if not held:
            held["inputs"] = features
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # warm-up, which a capture needs
                for _ in range(3):
                    model(dict(features))
            torch.cuda.current_stream().wait_stream(side)
            held["graph"] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held["graph"]):
                held["output"] = model(dict(features))["sentence_embedding"]
        for name, value in features.items():
            held["inputs"][name].copy_(value)
        held["graph"].replay()
        return held["output"].cpu()

    return step


WAYS: dict[str, Callable[["SentenceTransformer"], Step]] = {
    "plain": plain, "torch.compile": compiled, "CUDA graph": graphed,
}  # fmt: skip


if __name__ == "__main__":
    run(main)
