#!/usr/bin/env python
"""Distil a teacher's query encoder into a small student by embedding alignment.

    python distill.py --teacher msmarco-bert-base-dot-v5 --layers 0 11 --mixed-precision \\
        --output models/student                                  # the paper, one GPU
    torchrun --nproc-per-node 4 distill.py …                     # several GPUs
    python distill.py --teacher path/to/model --layers 0 5 --queries log.tsv \\
        --valid-queries held-out.tsv --output models/student     # your retriever, your queries
    python distill.py --teacher T --init-with distilbert-base-uncased --output models/student
    python distill.py --teacher T --init-with static --recipe best --output models/student

The student starts from layers of the teacher, from another model or from token embeddings, and
learns to put each query where the teacher puts it: the documents' index stays as it is. No
judgments are needed. The output is a complete sentence-transformers model.
"""

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING

from disret import command_line, distributed
from disret.command_line import UserError, about, not_negative, positive, positive_float, say
from disret.data.collection import check_name
from disret.data.download import mirror_from
from disret.data.query_files import query_source, training_queries, weighted_source
from disret.data.sentences import collection_sentences
from disret.devices import mixed_precision, resolve_dtype, training_device, world_size
from disret.distil.closed_form import align
from disret.distil.dose import PASSES, PRESENTATIONS, dose
from disret.distil.layers import NoLayerList, check_layers, keep_layers
from disret.distil.model_card import write_model_card
from disret.distil.static import feed_forward, student_of_texts, student_of_tokens
from disret.distil.student_folder import (
    Damaged,
    Different,
    Diverged,
    Foreign,
    Run,
    Taken,
    Unfinished,
    Unloaded,
)
from disret.distil.teachers import Teacher, open_teacher
from disret.distil.training_data import TrainingData, tokenised_queries, weights_of
from disret.encode.models import load_encoder, with_prompt
from disret.encode.service import NoKey, host_of, is_address, parsed_options

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from disret.encode.cached import Rows

    # Queries, and the teacher's embeddings of them, float32 [n_queries, dimension].
    Validation = tuple[list[str], Rows]

# What a recipe decides. An argument of that name takes its place.
RECIPES = {
    "paper": {
        "num_epochs": 1, "train_batch_size": 128, "adamw_lr": 1e-4, "adamw_eps": 1e-6,
        "lr_schedule": "linear", "warmup_steps": 1000, "eval_steps": 2000, "dropout": True,
        "mixed_precision": False, "projection_start": "random", "feed_forward": False, "words": 0,
    },
    "best": {
        "train_batch_size": 128, "adamw_lr": 1e-3, "adamw_eps": 1e-9, "lr_schedule": "cosine",
        "dropout": False, "mixed_precision": True, "projection_start": "ridge",
        "feed_forward": True, "words": 30_000,
    },
}  # fmt: skip
MODEL_LR = 3e-4  # of `best` where the student starts from another model, which forgets
ADVICE = {
    Taken: "name another --output, or replace it with --overwrite",
    Foreign: "name another --output",
    Unfinished: "go on with --resume or start with --overwrite",
    Different: "give the same, name another --output, or start with --overwrite",
    Damaged: "start with --overwrite",
    Diverged: "lower --adamw-lr or leave out --mixed-precision, and start with --overwrite",
    Unloaded: "run the same with --resume to try again",
    NoLayerList: "start the student from a model instead (--init-with MODEL)",
    NoKey: "set the variable OPENAI_API_KEY",
}


@command_line.advised(ADVICE)
def main() -> None:
    """The method.

    1. Read queries, without judgments.
    2. Start a student from the teacher's layers, its tokens or another model.
    3. Embed the queries with the teacher.
    4. Train the student to put each query there.
    5. Save it, with its card.
    """
    args = parse_args()
    run = Run(args)
    texts = read_texts(args, run)
    device = training_device(args.device)
    distributed.join(device)
    prepared = distributed.decided_by_first(lambda: prepare(args, run, texts, device))
    if args.dry_run:
        return
    student, examples, validation = prepared
    if student is None:
        say(f"{args.output} is finished already.")
    else:
        curve = distil(args, run, student, examples, validation, device)
        run.lap("training")
        run.save(student, curve)
    if command_line.is_main_process():
        write_model_card(args.output, [])
    distributed.leave()


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--teacher", metavar="MODEL|URL",
        help="directory or hub name of a sentence-transformers model, or the address of an "
        "embedding service in OpenAI's protocol, such as https://HOST/v1")
    add("--teacher-model", metavar="NAME", help="the model, as the service calls it")
    add("--teacher-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to the service, such as dimensions=256")
    add("--teacher-vectors", nargs="+", metavar="FILE",
        help="texts with a teacher's vectors instead of a teacher: .parquet, .jsonl, .npz, or "
        "hub:NAME[/CONFIG][:SPLIT]")
    add("--teacher-prompt", metavar="TEXT|NAME",
        help="put before its queries: a text, or a prompt of the model (default: the model's own)")
    add("--student-prompt", metavar="TEXT",
        help="put before the student's queries; '' for none (default: the teacher's)")
    add("--truncate-dim", type=positive, metavar="N",
        help="keep the teacher's first N dimensions, as of a Matryoshka model")
    add("--dry-run", action="store_true", help="say what would be embedded, and stop")
    add("--recipe", choices=list(RECIPES), default="paper",
        help="the authors' training, or the one that keeps most (default: paper)")
    add("--init-with", default="subset", metavar="subset|static|MODEL",
        help="layers of the teacher, embeddings of its tokens, or this model (default: subset)")
    add("--layers", nargs="+", type=int, metavar="N",
        help="layers to keep, from 0, in this order; first and last are best (of MODEL: or all)")
    add("--vocabulary", metavar="MODEL",
        help="whose tokens a static student has, where the teacher's are unknown")
    add("--feed-forward", action=argparse.BooleanOptionalAction,
        help="put two layers behind a static student's mean, which it starts as")
    add("--words", type=not_negative, metavar="N",
        help="the N most frequent words of the texts that the teacher splits have a token in a "
        "static student")
    add("--projection-start", choices=["random", "ridge"],
        help="of the Dense layer after a MODEL: random, or least squares to the teacher's vectors "
        "(default: random for --recipe paper, unless the teacher has no weights)")
    add("--projection-activation", choices=["identity", "relu"], default="identity",
        help="after the Dense layer of a MODEL of another dimension; the authors used relu")
    add("--output", type=lambda path: Path(path).resolve(), required=True, metavar="DIR",
        help="where the student goes")
    add("--queries", nargs="+", type=weighted_source, metavar="FILE[@N]",
        help="tsv (id, tab, text), jsonl (text) or plain text, also .gz, or "
        "hub:NAME[/CONFIG][:SPLIT]#COLUMN; each pass shows them N times (default: MS MARCO's)")
    add("--valid-queries", nargs="+", type=query_source, metavar="FILE",
        help="queries to validate on (default: MS MARCO's dev queries)")
    add("--max-queries", type=positive, metavar="N", help="train on the first N queries only")
    add("--adapt", metavar="NAME|DIR",
        help="also train on sentences of this collection, at most as many as there are queries")
    add("--keep-order", action="store_true", help="do not shuffle the queries")
    add("--loss", choices=["mse", "l2"], default="mse",
        help="mean squared error, as in the authors' code, or Euclidean distance")
    add("--train-batch-size", type=positive, help="over all processes")
    add("--eval-batch-size", type=positive, metavar="N",
        help="encode as many tokens at once as N queries of maximum length have (default: 4,096 "
        "tokens on the CPU, 65,536 on CUDA)")
    add("--max-seq-length", type=positive, default=256, help="tokens of a query (default: 256)")
    add("--warmup-steps", type=not_negative)
    add("--eval-steps", type=positive, help="steps between checkpoints")
    add("--num-epochs", type=not_negative,
        help="passes over the texts; 0 leaves the student as it starts")
    add("--presentations", type=positive, metavar="N",
        help="train until texts were shown so often, all together, instead of --num-epochs")
    add("--adamw-lr", type=positive_float, help="learning rate")
    add("--adamw-eps", type=positive_float)
    add("--lr-schedule", choices=["linear", "cosine"], help="decay of the learning rate to 0")
    add("--dropout", action=argparse.BooleanOptionalAction, help="as the student's model has it")
    add("--mixed-precision", action=argparse.BooleanOptionalAction,
        help="bfloat16, or float16 on GPUs without it")
    add("--teacher-dtype", choices=["auto", "bfloat16", "float16", "float32"],
        default="auto", help="precision of the teacher's embeddings (default: bfloat16 where the "
        "device has it, float16 on other GPUs)")
    add("--seed", type=command_line.seed, default=42, help="default: 42")
    add("--resume", action="store_true",
        help="go on from the last checkpoint, or leave a finished student as it is")
    add("--overwrite", action="store_true", help="replace what is at --output")
    # fmt: on
    command_line.add_device(parser)
    command_line.add_mirror(parser)
    parser.epilog = command_line.described(RECIPES) + (
        f"; {PASSES} passes, or {PRESENTATIONS:,} presentations if that is more; adamw_lr "
        f"{MODEL_LR} from another model"
    )
    args = parser.parse_args()
    args.query_weights = None
    if args.queries:
        args.queries, weights = zip(*args.queries, strict=True)
        args.query_weights = list(weights) if set(weights) != {1.0} else None
    if args.recipe == "best" and args.init_with not in ("subset", "static"):
        args.adamw_lr = args.adamw_lr or MODEL_LR
    if args.presentations and args.num_epochs is not None:
        parser.error("--presentations and --num-epochs exclude each other")
    if args.feed_forward and args.init_with != "static":
        parser.error("--feed-forward is for --init-with static")
    if args.words and (args.init_with != "static" or args.vocabulary):
        parser.error("--words is for --init-with static and a teacher whose tokens are known")
    for name, value in RECIPES[args.recipe].items():
        if getattr(args, name) is None and not (name == "num_epochs" and args.presentations):
            setattr(args, name, value)
    if args.projection_activation == "relu":
        args.projection_start = "random"  # least squares know no ReLU
    check_teacher(args, parser)
    if args.init_with == "subset" and not args.layers:
        parser.error("--layers is missing: say which of the teacher's layers to keep")
    if args.init_with == "static" and args.layers:
        parser.error("--init-with static has no --layers")
    args.feed_forward = args.feed_forward and args.init_with == "static"
    args.words = args.words if args.init_with == "static" and not args.vocabulary else 0
    with about("--layers"):
        check_layers(args.layers or [])
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.train_batch_size % world_size():
        parser.error(f"--train-batch-size must be a multiple of the {world_size()} processes")
    if args.adapt:
        check_name(args.adapt)
    return args


def check_teacher(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what does not fit a model, a service or vectors; name vectors as a teacher."""
    if bool(args.teacher) == bool(args.teacher_vectors):
        parser.error("name a --teacher or --teacher-vectors")
    is_service = is_address(args.teacher or "")
    if is_service != bool(args.teacher_model):
        parser.error("--teacher-model is the model of a service, whose address --teacher is")
    if args.teacher_option and not is_service:
        parser.error("--teacher-option is of a service, whose address --teacher is")
    args.teacher = args.teacher or Path(args.teacher_vectors[0]).name
    if not (is_service or args.teacher_vectors):
        return
    if is_service:
        host_of(args.teacher)
        parsed_options(args.teacher_option)
    what = "a service" if is_service else "vectors alone"
    if args.init_with == "subset":
        parser.error(f"{what} has no layers to keep: --init-with MODEL or static")
    if args.init_with == "static" and not args.vocabulary:
        parser.error(f"{what} has no tokens: name a model that has with --vocabulary")
    if args.projection_activation == "relu":
        parser.error(f"--projection-activation relu cannot start from {what}")
    unfit = ["truncate_dim"]
    if args.teacher_vectors:
        unfit += ["queries", "valid_queries", "adapt", "teacher_prompt"]
    for name in unfit:
        if getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} is for a model, and not for {what}")
    args.projection_start = "ridge"


def read_texts(args: argparse.Namespace, run: Run) -> tuple[list[str], list[str], list[str]] | None:
    """Queries and sentences to train on, and queries to validate on; None if vectors have them."""
    if args.teacher_vectors:
        return None
    mirror = mirror_from(args.mirror)
    queries, valid, run.sources = training_queries(
        args.queries, args.valid_queries, args.max_queries, mirror, args.query_weights
    )
    return queries, collection_sentences(args.adapt, len(queries), args.seed, mirror), valid


def prepare(
    args: argparse.Namespace,
    run: Run,
    found: tuple[list[str], list[str], list[str]] | None,
    device: str,
) -> "tuple[SentenceTransformer | None, TrainingData | None, Validation]":
    """Do all that needs the teacher, on the one process that has room for it.

    Args:
        found: the texts; None if the teacher has them.

    Returns:
        The student before training, what it trains on, and what it is validated on; no student if
        that is finished already.
    """
    args.teacher_dtype = resolve_dtype(args.teacher_dtype, device)
    teacher = open_teacher(args, device)
    queries, sentences, valid = found or teacher.texts
    texts = queries + sentences
    if args.dry_run:
        teacher.announce(texts + valid)
        return None, None, (valid, None)
    start = load_start(args, teacher)
    run.identify(teacher, start, queries, sentences, valid)
    if run.is_finished:
        return None, None, (valid, None)
    teacher.announce(texts + valid)
    student = init_student(args, teacher, start, texts, device)
    targets, valid_targets = teacher.embed(texts), teacher.embed(valid)
    teacher.release()  # its work is done; leave the memory to the student
    run.lap("teacher_embeddings")
    sources = run.sources.get("training", [])
    weights = weights_of(
        [*(source.count for source in sources), len(sentences)],
        [*(source.weight for source in sources), 1.0],
    )
    examples = TrainingData(tokenised_queries(student, texts), targets, weights)
    return student, examples, (valid, valid_targets)


# --- Student initialisation ---------------------------------------------------------------------


def load_start(args: argparse.Namespace, teacher: Teacher) -> "SentenceTransformer | None":
    """What the student starts from: the teacher's layers, or another model; None if static."""
    if args.init_with == "subset":
        with about("--layers"):
            return init_from_layers(teacher.model, args.layers)
    if args.init_with == "static":
        return None
    other = load_encoder(args.init_with, "cpu", args.max_seq_length)
    with about(f"--init-with {args.init_with}"):
        return init_from_layers(other, args.layers) if args.layers else other


def init_student(
    args: argparse.Namespace,
    teacher: Teacher,
    start: "SentenceTransformer | None",
    texts: list[str],
    device: str,
) -> "SentenceTransformer":
    """The student before training."""
    with about(f"--init-with {args.init_with}"):
        if args.init_with == "subset":
            student = start
        elif args.init_with != "static":
            student = init_from_model(
                teacher, start, args.projection_activation, args.projection_start, texts,
                args.seed, device,
            )  # fmt: skip
        elif args.vocabulary:
            student = student_of_texts(args.vocabulary, teacher, texts, args.max_seq_length)
        else:
            student = student_of_tokens(teacher.on_device(), texts, args.words)
        if args.feed_forward:
            feed_forward(student)
    if args.student_prompt is not None:
        with_prompt(student, args.student_prompt)
    return student


def init_from_layers(teacher: "SentenceTransformer", layers: list[int]) -> "SentenceTransformer":
    """A student that keeps the given layers of the teacher, and everything else of it.

    Tokenizer, embeddings, pooling, Dense, Normalize and prompts are the teacher's.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer

    if not isinstance(teacher[0], Transformer):
        raise UserError(f"the model is a {type(teacher[0]).__name__} and has no layers to keep.")
    whole = teacher[0].model
    kept = keep_layers(whole, layers)
    return copy.deepcopy(teacher, {id(whole): kept}).float()  # what is kept for the whole


def init_from_model(
    teacher: Teacher,
    other: "SentenceTransformer",
    activation: str,
    projection_start: str,
    texts: list[str],
    seed: int,
    device: str,
) -> "SentenceTransformer":
    """A student with another model's transformer, aligned with the teacher's space.

    Pooling is the teacher's, if that is known. A Dense layer leads to the teacher's dimension: a
    random one where the dimensions differ, or always one of least squares. Its activation was ReLU
    in the authors' code, which cannot reach negative coordinates.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as st

    if not isinstance(other[0], st.Transformer):
        name = type(other[0]).__name__
        raise UserError(f"a student cannot start from a {name}; name a transformer model.")
    poolings = [module for module in teacher.model or other if isinstance(module, st.Pooling)]
    if not poolings:
        raise UserError("the teacher has no pooling that a student could copy.")
    width = other[0].get_embedding_dimension()
    pooling = st.Pooling(width, poolings[0].pooling_mode, poolings[0].include_prompt)
    pooled = pooling.get_embedding_dimension()
    torch.manual_seed(seed)
    function = torch.nn.ReLU() if activation == "relu" else torch.nn.Identity()
    dense = st.Dense(pooled, teacher.dimension, activation_function=function)
    modules = [other[0], pooling]
    if projection_start == "ridge":
        body = SentenceTransformer(modules=modules, prompts=other.prompts, device="cpu")
        align(dense, body, texts, teacher.embed(texts), device)
    if projection_start == "ridge" or pooled != teacher.dimension:
        modules.append(dense)
    if teacher.normalises():
        modules.append(st.Normalize())
    return SentenceTransformer(
        modules=modules,
        prompts=other.prompts,
        default_prompt_name=other.default_prompt_name,
        similarity_fn_name=teacher.model.similarity_fn_name if teacher.model else None,
        device="cpu",
    )


# --- Distillation by embedding alignment ---------------------------------------------------------


def distil(
    args: argparse.Namespace,
    run: Run,
    student: "SentenceTransformer",
    examples: TrainingData,
    validation: "Validation",
    device: str,
) -> list[dict[str, float]]:
    """Train the student's query embeddings onto the teacher's; leaves the best weights in it.

    Returns:
        The validation MSE by step, from step 0, before training.
    """
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from disret.distil import training

    student.to(device)
    # NCCL cannot add up sparse gradients.
    sparse = isinstance(student[0], StaticEmbedding) and world_size() == 1
    if args.mixed_precision:
        run.training_dtype = mixed_precision(device)
        if run.training_dtype == "float32":
            say("note: this CPU has no bfloat16, so --mixed-precision trains in float32.")
    plan = dose(
        len(examples.rows), args.train_batch_size, args.presentations, args.num_epochs,
        args.warmup_steps, args.eval_steps,
    )  # fmt: skip
    if 0 < plan.steps < 2 * plan.warmup_steps:
        say(
            f"note: {min(plan.warmup_steps, plan.steps):,} of {plan.steps:,} steps of training are "
            "warm-up, so the student will learn little; use --recipe best."
        )
    settings = training.trainer_settings(
        run.checkpoints, device, run.training_dtype, seed=args.seed,
        num_train_epochs=plan.num_epochs, eval_steps=plan.eval_steps,
        per_device_train_batch_size=args.train_batch_size // world_size(),
        learning_rate=args.adamw_lr, adam_epsilon=args.adamw_eps, weight_decay=0.01,
        warmup_steps=plan.warmup_steps, lr_scheduler_type=args.lr_schedule,
    )  # fmt: skip
    evaluator = training.QueryMSEEvaluator(validation[0], validation[1][:])
    with settings.main_process_first(local=False):
        run.claim()
        before = training.mse_before(run.partial, evaluator, student)
        checkpoint = run.last_checkpoint()
    if not plan.steps:
        return [{"step": 0, "mse": before}]
    untrained = copy.deepcopy(student.state_dict())
    trainer = training.DistillationTrainer(
        model=student,
        args=settings,
        examples=examples,
        evaluator=evaluator,
        # The paper's objective: the squared distance between student and teacher embeddings.
        loss=EmbedDistillLoss(student, distance_metric=args.loss),
        keep_order=args.keep_order,
        sparse=sparse,
    )
    with training.for_short_texts(student, args.dropout):
        trainer.train(resume_from_checkpoint=checkpoint)
    curve = trainer.validation_mse()
    training.check_best(evaluator, student, curve)
    if before < min(point["mse"] for point in curve):
        say("note: training has not brought the student nearer; it is kept as it started.")
        student.load_state_dict(untrained)
    return [{"step": 0, "mse": before}, *curve]


if __name__ == "__main__":
    command_line.run(main)
