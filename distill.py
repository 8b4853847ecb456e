#!/usr/bin/env python
"""Distil a teacher's query encoder into a small student by embedding alignment.

    python distill.py --teacher msmarco-bert-base-dot-v5 --layers 0 11 --mixed-precision \\
        --output models/student                                  # the paper, one GPU
    torchrun --nproc-per-node 4 distill.py …                     # several GPUs
    python distill.py --teacher path/to/model --layers 0 5 --queries log.tsv \\
        --valid-queries held-out.tsv --output models/student     # your retriever, your queries
    python distill.py --teacher https://HOST/v1#NAME --init-with MODEL …        # an index's service
    python distill.py --teacher vectors.parquet --init-with static --vocabulary MODEL …

The student starts from layers of the teacher, from another model or from token embeddings, and
learns to put each query where the teacher puts it: the documents' index stays as it is. No
judgments are needed. The output is a complete sentence-transformers model.
"""

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING

from disret import command_line, distributed
from disret.command_line import UserError, is_main_process, positive, say
from disret.data.download import mirror_from
from disret.data.queries import query_source, weighted_source
from disret.devices import resolve_dtype, training_device, world_size
from disret.distil.centre import around_long_mean, put_mean_back
from disret.distil.closed_form import align
from disret.distil.layers import keep_layers, transformer_of
from disret.distil.model_card import write_model_card
from disret.distil.recipes import RECIPE, schedule, settled
from disret.distil.static import feed_forward, student_of_texts, student_of_tokens
from disret.distil.student_folder import StudentFolder
from disret.distil.training_data import TrainingData, read_texts, tokenised_queries
from disret.encode.encoders import Encoder, open_encoder
from disret.encode.models import load_encoder, with_prompt
from disret.retrieve.agreement import centred_cosines

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from disret.encode.embedding_cache import Rows

    Validation = tuple[list[str], Rows]  # queries, and the teacher's embeddings of them


def main() -> None:
    """The method.

    1. Open the teacher, and read queries without judgments.
    2. Start a student from the teacher's layers, its tokens or another model.
    3. Embed the queries with the teacher.
    4. Train the student to put each query there, and save it.
    """
    args = parse_args()
    reads = [*args.teacher, args.init_with, args.adapt, *dict(args.queries), *args.valid_queries]
    folder = StudentFolder(args.output, args.resume, args.overwrite, reads)
    device = training_device(args.device)
    distributed.join(device)
    prepared = distributed.decided_by_first(lambda: prepare(args, folder, device))
    if prepared is not None:
        distil(args, folder, device, *prepared)
    if is_main_process() and args.dry_run is None and not (args.output / "README.md").exists():
        write_model_card(args.output)
    distributed.leave()


def prepare(
    args: argparse.Namespace, folder: StudentFolder, device: str
) -> "tuple[SentenceTransformer, TrainingData, Validation] | None":
    """Steps 1 to 3, on the one process that has room for the teacher; None if there is no more."""
    teacher = open_encoder(
        args.teacher, device=device, dtype=resolve_dtype(args.teacher_dtype, device),
        batch_size=args.eval_batch_size, options=args.service_option, prompt=args.teacher_prompt,
        truncate_dim=args.truncate_dim, max_seq_length=args.max_seq_length,
        long_texts=args.long_texts,
    )  # fmt: skip
    texts = read_texts(
        teacher, args.queries, args.valid_queries, args.max_queries, args.adapt, args.seed,
        mirror_from(args.mirror),
    )  # fmt: skip
    if args.dry_run is not None:
        return teacher.announce(texts.training + texts.valid, args.dry_run)
    start = load_start(args, teacher)
    texts = texts.without(teacher.skipped(texts.training + texts.valid))
    if folder.identify(vars(args), teacher, start, texts):
        return say(f"{args.output} is finished already.")
    teacher.announce(texts.training + texts.valid)
    student = init_student(args, teacher, start, texts.training, device)
    targets, of_valid = teacher.embed_once(texts.training), teacher.embed_once(texts.valid)
    folder.lap("teacher_embeddings")
    if args.centred and teacher.model is None and teacher.normalises:
        targets = around_long_mean(student, targets)
    if args.init_with == "static" and args.feed_forward:
        feed_forward(student)
    tokens = tokenised_queries(student, texts.training)
    return student, TrainingData(tokens, targets, texts.weights), (texts.valid, of_valid)


# --- Student initialisation ---------------------------------------------------------------------


def load_start(args: argparse.Namespace, teacher: Encoder) -> "SentenceTransformer | None":
    """What the student starts from: the teacher's layers, or another model; None if static."""
    if args.init_with == "subset":
        if teacher.model is None:
            raise UserError(f"{teacher.name} has no layers: start from another model, or static.")
        return init_from_layers(teacher.query_model, args.layers)
    if args.init_with == "static":
        if teacher.model is None and not args.vocabulary:
            raise UserError(f"{teacher.name} has no tokens: name a model with a vocabulary.")
        return None
    other = load_encoder(args.init_with, "cpu", args.max_seq_length)
    return init_from_layers(other, args.layers) if args.layers else other


def init_student(
    args: argparse.Namespace, teacher: Encoder, start: "SentenceTransformer | None",
    texts: list[str], device: str,
) -> "SentenceTransformer":  # fmt: skip
    """The student before training."""
    if args.init_with == "subset":
        student = start
    elif args.init_with != "static":
        student = init_from_model(teacher, start, args.projection, texts, args.seed, device)
    elif args.vocabulary:
        student = student_of_texts(args.vocabulary, teacher, texts, args.max_seq_length, args.words)
    else:
        student = student_of_tokens(teacher.uncast(), texts, args.words)
    if args.student_prompt is not None:
        with_prompt(student, args.student_prompt)
    return student


def init_from_layers(teacher: "SentenceTransformer", layers: list[int]) -> "SentenceTransformer":
    """A student that keeps the given layers of the teacher, and everything else of it.

    Tokenizer, embeddings, pooling, Dense, Normalize and prompts are the teacher's.
    """
    whole = transformer_of(teacher)
    kept = keep_layers(whole, layers)
    return copy.deepcopy(teacher, {id(whole): kept}).float()  # what is kept for the whole


def init_from_model(
    teacher: Encoder, other: "SentenceTransformer", projection: str, texts: list[str], seed: int,
    device: str,
) -> "SentenceTransformer":  # fmt: skip
    """A student with another model's transformer, aligned with the teacher's space.

    Pooling is the teacher's, if it has one. A Dense layer leads to the teacher's dimension: a
    random one where the dimensions differ, or always one of least squares. Behind it was ReLU in
    the authors' code, which cannot reach negative coordinates.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as st

    transformer_of(other)  # or refuse
    modules = [*(teacher.query_model or ()), *other]
    poolings = [module for module in modules if isinstance(module, st.Pooling)]
    if not poolings:
        raise UserError(f"neither {teacher.name} nor the other model pools its tokens.")
    width = other[0].get_embedding_dimension()
    pooling = st.Pooling(width, poolings[0].pooling_mode, poolings[0].include_prompt)
    pooled = pooling.get_embedding_dimension()
    torch.manual_seed(seed)
    function = torch.nn.ReLU() if projection == "relu" else torch.nn.Identity()
    dense = st.Dense(pooled, teacher.size.dimension, activation_function=function)
    modules = [other[0], pooling]
    if projection == "ridge" or teacher.model is None:
        body = SentenceTransformer(modules=modules, prompts=other.prompts, device="cpu")
        align(dense, body, texts, teacher.embed_once(texts), device)
        modules.append(dense)
    elif pooled != teacher.size.dimension:
        modules.append(dense)
    return SentenceTransformer(
        modules=[*modules, st.Normalize()] if teacher.normalises else modules,
        prompts=other.prompts,
        default_prompt_name=other.default_prompt_name,
        similarity_fn_name=teacher.model.similarity_fn_name if teacher.model else None,
        device="cpu",
    )


# --- Distillation by embedding alignment ---------------------------------------------------------


def distil(
    args: argparse.Namespace, folder: StudentFolder, device: str, student: "SentenceTransformer",
    data: TrainingData, validation: "Validation",
) -> None:  # fmt: skip
    """Train the student's query embeddings onto the teacher's, and save the best weights."""
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    from disret.distil import training

    student.to(device)
    dtype = training.precision(device, args.mixed_precision)
    plan = schedule(
        len(data.rows), args.train_batch_size, args.presentations, args.num_epochs,
        args.warmup_steps, args.eval_steps,
    )  # fmt: skip
    settings = training.trainer_settings(
        folder.checkpoints, device, dtype, seed=args.seed, num_train_epochs=plan.num_epochs,
        per_device_train_batch_size=args.train_batch_size // world_size(),
        learning_rate=args.adamw_lr, adam_epsilon=args.adamw_eps, weight_decay=0.01,
        lr_scheduler_type=args.lr_schedule, warmup_steps=plan.warmup_steps,
        eval_steps=plan.eval_steps,
    )  # fmt: skip
    valid, teachers = validation
    evaluator = training.QueryMSEEvaluator(valid, teachers.around(data.embeddings.mean)[:])
    with settings.main_process_first(local=False):
        folder.begin()
        checkpoint = folder.last_checkpoint()
    before = after = evaluator.mse(student)
    curve = [{"step": 0, "mse": before}]
    if plan.steps:
        untrained = copy.deepcopy(student.state_dict())
        # The paper's objective: the squared distance between student and teacher embeddings.
        loss = EmbedDistillLoss(student, distance_metric=args.loss)
        trainer = training.DistillationTrainer(
            model=student, args=settings, data=data, loss=loss, evaluator=evaluator,
            keep_order=args.keep_order,
        )  # fmt: skip
        with training.for_short_texts(student, args.dropout):
            trainer.train(resume_from_checkpoint=checkpoint)
        curve += trainer.validation_mse()
        after = evaluator.mse(student)
        if after > before:
            say("note: training has not brought the student nearer; it is kept as it started.")
            student.load_state_dict(untrained)
            after = before
    if is_main_process():
        put_mean_back(student, data.embeddings)
        cosines = centred_cosines(teachers[:], evaluator.embed(student))
        folder.save(student, curve, after, cosines, dtype)


# --- Arguments ----------------------------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    # fmt: off
    add = parser.add_argument_group("teacher: the encoder of the documents").add_argument
    add("--teacher", nargs="+", required=True, metavar="ENCODER",
        help="a model, https://HOST/v1#NAME, or vectors (.parquet, .jsonl, .npz, hub:NAME)")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to a service, such as dimensions=256")
    add("--teacher-prompt", metavar="TEXT|NAME", help="before its queries (default: its own)")
    add("--teacher-dtype", choices=command_line.DTYPES, default="auto",
        help="precision of its embeddings (default: 16 bits where the device is fast in them)")
    add("--truncate-dim", type=positive, metavar="N", help="keep N dimensions (Matryoshka)")
    add("--long-texts", choices=["refuse", "cut", "skip"], default="refuse", help="of a service")
    add("--dry-run", "--price", type=command_line.positive_float, nargs="?", const=0.0,
        metavar="DOLLARS", help="say what would be embedded, at so many a million tokens; stop")

    group = parser.add_argument_group("student: how it starts, and where it goes")
    add, either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add("--init-with", default="subset", metavar="subset|static|MODEL",
        help="layers of the teacher, embeddings of its tokens, or this model (default: subset)")
    add("--layers", nargs="+", type=int, metavar="N", help="to keep, from 0; both ends are best")
    add("--vocabulary", metavar="MODEL", help="whose tokens a static student has (default: its)")
    add("--student-prompt", metavar="TEXT", help="before its queries (default: its start's)")
    add("--output", type=lambda path: Path(path).resolve(), required=True, metavar="DIR")
    either("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    either("--overwrite", action="store_true", help="replace what is at --output")

    add = parser.add_argument_group("texts").add_argument
    add("--queries", nargs="+", type=weighted_source, default=[], metavar="FILE[#COLUMN][@N]",
        help="csv, tsv, jsonl, parquet, text or hub:NAME; shown N times (default: MS MARCO's)")
    add("--valid-queries", nargs="+", type=query_source, default=[], metavar="FILE",
        help="to validate on (default: one in fifty of --queries, or MS MARCO's dev queries)")
    add("--max-queries", type=positive, metavar="N", help="train on the first N queries only")
    add("--adapt", metavar="NAME|DIR", help="also train on sentences of this collection")
    add("--keep-order", action="store_true", help="do not shuffle them")
    add("--max-seq-length", type=positive, default=256, help="tokens of a query (default: 256)")

    group = parser.add_argument_group("training: what a recipe decides, and more")
    add = group.add_argument
    add("--recipe", choices=["paper", "best"], help="(default: paper for MS MARCO, else best)")
    command_line.add_settings(group, RECIPE, exclusive=("num_epochs", "presentations"))
    add("--loss", choices=["mse", "l2"], default="mse", help="squared, or Euclidean distance")
    add("--eval-batch-size", type=positive, metavar="N", help="texts of full length at once")
    add("--seed", type=command_line.seed, default=42, help="default: 42")
    # fmt: on
    command_line.add_device(parser)
    command_line.add_mirror(parser)
    args = parser.parse_args()
    if args.init_with in ("subset", "static") and (args.init_with == "subset") != bool(args.layers):
        parser.error("name the --layers of a subset of the teacher's; a static student has none")
    vars(args).update(settled(vars(args)))
    if args.train_batch_size % world_size():
        parser.error(f"--train-batch-size must be a multiple of the {world_size()} processes")
    return args


if __name__ == "__main__":
    command_line.run(main)
