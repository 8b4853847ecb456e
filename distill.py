#!/usr/bin/env python
"""Distil a teacher's query encoder into a small student by embedding alignment.

    python distill.py --teacher msmarco-bert-base-dot-v5 --layers 0 11 --mixed-precision \\
        --output models/student                                  # the paper, one GPU
    torchrun --nproc-per-node 4 distill.py …                     # several GPUs
    python distill.py --teacher path/to/model --layers 0 5 --queries log.tsv \\
        --valid-queries held-out.tsv --output models/student     # your retriever, your queries
    python distill.py --teacher T --init-with distilbert-base-uncased --output models/student
    python distill.py --teacher T --layers 0 5 --recipe best --output models/student
    python distill.py --teacher T --init-with static --recipe best --output models/student

The student starts from layers of the teacher, from another model or from token embeddings, and
learns to put each query where the teacher puts it: the documents' index stays as it is. No
judgments are needed. The output is a complete sentence-transformers model.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING

from disret.command_line import UserError, argument_parser, command_line, is_main_process, run, say
from disret.data.collection import check_name, find_collections
from disret.data.download import mirror_from
from disret.data.query_files import training_queries
from disret.data.sentences import collection_sentences
from disret.devices import world_size
from disret.distil.layers import check_layers
from disret.distil.run import (
    check_output,
    claim,
    is_finished,
    last_checkpoint,
    save_student,
    text_sha256,
    unfinished,
)
from disret.paths import HOME
from disret.tables import read_rows

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from disret.distil.training import Examples

# What a recipe decides. An argument of that name takes its place.
RECIPES = {
    "paper": {
        "num_epochs": 1, "train_batch_size": 128, "adamw_lr": 1e-4, "adamw_eps": 1e-6,
        "lr_schedule": "linear", "warmup_steps": 1000, "eval_steps": 2000, "dropout": True,
        "mixed_precision": False,
    },
    "best": {
        "num_epochs": 5, "train_batch_size": 128, "adamw_lr": 1e-3, "adamw_eps": 1e-9,
        "lr_schedule": "cosine", "warmup_steps": 100, "eval_steps": 2000, "dropout": False,
        "mixed_precision": True,
    },
}  # fmt: skip
# The learning rate of `best` for token embeddings, each of which few batches touch.
STATIC_LR = 1e-2
# Arguments that do not decide the student, and so are not recorded with it.
CIRCUMSTANCES = (
    "resume", "overwrite", "debug", "device", "mirror", "output", "eval_batch_size", "router",
    "export", "push_to_hub", "results",
)  # fmt: skip
POSITIVE = (
    "train_batch_size", "eval_batch_size", "max_seq_length", "eval_steps", "num_epochs",
    "max_queries",
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--teacher", required=True, metavar="MODEL",
        help="directory or hub name of a sentence-transformers model")
    add("--recipe", choices=list(RECIPES), default="paper",
        help="the authors' training, or the one that keeps most (default: paper)")
    add("--init-with", default="subset", metavar="subset|static|MODEL",
        help="start from layers of the teacher, from embeddings of its tokens without any layer, "
        "or from this model (default: subset)")
    add("--layers", nargs="+", type=int, metavar="N",
        help="layers of the teacher to keep, from 0, in this order; first and last are best "
        "(of MODEL, if that is what the student starts from; default there: all)")
    add("--projection-activation", choices=["identity", "relu"], default="identity",
        help="after the Dense layer of a MODEL of another dimension; the authors used relu")
    add("--output", type=Path, required=True, metavar="DIR", help="where the student goes")
    add("--queries", nargs="+", type=Path, metavar="FILE",
        help="queries to train on: tsv (id, tab, text), jsonl (text) or plain text, also .gz "
        "(default: MS MARCO's training queries)")
    add("--valid-queries", nargs="+", type=Path, metavar="FILE",
        help="queries to validate on (default: MS MARCO's dev queries)")
    add("--max-queries", type=int, metavar="N", help="train on the first N queries only")
    add("--adapt", metavar="NAME|DIR",
        help="also train on sentences of this collection, at most as many as there are queries")
    add("--keep-order", action="store_true", help="do not shuffle the queries")
    add("--loss", choices=["mse", "l2"], default="mse",
        help="mean squared error, which the authors' code minimises, or Euclidean distance")
    add("--train-batch-size", type=int, help="over all processes")
    add("--eval-batch-size", type=int, metavar="N",
        help="encode as many tokens at once as N queries of maximum length have (default: 4,096 "
        "tokens on the CPU, 65,536 on CUDA)")
    add("--max-seq-length", type=int, default=256, help="tokens of a query (default: 256)")
    add("--warmup-steps", type=int)
    add("--eval-steps", type=int, help="steps between checkpoints")
    add("--num-epochs", type=int)
    add("--adamw-lr", type=float, help="learning rate")
    add("--adamw-eps", type=float)
    add("--lr-schedule", choices=["linear", "cosine"], help="decay of the learning rate to 0")
    add("--dropout", action=argparse.BooleanOptionalAction, help="as the student's model has it")
    add("--mixed-precision", action=argparse.BooleanOptionalAction,
        help="bfloat16, or float16 where that is absent")
    add("--teacher-dtype", choices=["auto", "bfloat16", "float32"], default="auto",
        help="precision of the teacher's embeddings (default: bfloat16 where the device has it)")
    add("--seed", type=int, default=42, help="default: 42")
    add("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")
    add("--resume", action="store_true",
        help="go on from the last checkpoint, or leave a finished student as it is")
    add("--overwrite", action="store_true", help="replace what is at --output")
    add("--router", action="store_true",
        help="also save teacher and student as one model, OUTPUT-router")
    add("--export", action="store_true",
        help="also write the student for a service without torch, OUTPUT/query-encoder")
    add("--results", type=Path, metavar="CSV",
        help="table of benchmark.py whose rows about the student go into its model card (default: "
        "benchmarks/results.csv)")
    add("--push-to-hub", metavar="NAME", help="upload the student to this model repository")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    # fmt: on
    epilog = "\n".join(
        f"--recipe {name}: " + ", ".join(f"{key} {value}" for key, value in settings.items())
        for name, settings in RECIPES.items()
    )
    parser.epilog = f"""What a recipe decides, unless it is given:
{epilog}; with --init-with static, adamw_lr {STATIC_LR}"""
    args = parser.parse_args()
    if args.recipe == "best" and args.init_with == "static" and args.adamw_lr is None:
        args.adamw_lr = STATIC_LR
    for name, value in RECIPES[args.recipe].items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    if args.init_with == "subset" and not args.layers:
        parser.error("--layers is missing: say which of the teacher's layers to keep")
    if args.init_with == "static" and args.layers:
        parser.error("--init-with static has no --layers")
    check_layers(args.layers or [])
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    for name in POSITIVE:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 4294967295")
    if args.warmup_steps < 0 or args.adamw_lr <= 0 or args.adamw_eps <= 0:
        parser.error("--warmup-steps must not be negative, learning rate and eps be positive")
    if args.train_batch_size % world_size():
        parser.error(f"--train-batch-size must be a multiple of the {world_size()} processes")
    args.output = args.output.absolute()
    return args


def main() -> None:
    args = parse_args()
    check_output(args.output, args.resume, args.overwrite)
    check_before_long_work(args)
    mirror = mirror_from(args.mirror)
    queries, valid_queries = training_queries(
        args.queries, args.valid_queries, args.max_queries, mirror
    )
    sentences = []
    if args.adapt:
        collections = find_collections(args.adapt, mirror)
        sentences = collection_sentences(collections, len(queries), args.seed)

    from disret.devices import resolve_dtype, training_device
    from disret.distil.hub import upload
    from disret.distil.model_card import write_model_card
    from disret.distil.router import save_router
    from disret.distil.targets import query_embeddings
    from disret.distil.training import Examples
    from disret.encode.models import fingerprint, load_encoder, max_seq_length, set_precision
    from disret.encode.tokens import tokenised_queries

    device = training_device(args.device)
    args.teacher_dtype = resolve_dtype(args.teacher_dtype, device)
    teacher = load_encoder(args.teacher, device)
    teacher.max_seq_length = max_seq_length(teacher, args.max_seq_length)
    # Token embeddings come from the teacher alone, by long work.
    static = args.init_with == "static"
    student = None if static else init_student(args, teacher, device)

    teacher_sha256 = fingerprint(teacher)
    texts = queries + sentences
    run_content = {
        "arguments": recorded(args),
        "inputs": {
            "teacher_sha256": teacher_sha256,
            "initial_student_sha256": teacher_sha256 if static else fingerprint(student),
            "queries_sha256": text_sha256(texts),
            "valid_queries_sha256": text_sha256(valid_queries),
        },
    }
    if is_finished(args.output, run_content, args.resume):
        say(f"{args.output} is finished already.")
    else:
        started = time.perf_counter()
        student = student or init_student(args, teacher, device)
        set_precision(teacher, args.teacher_dtype)
        targets, valid_targets = (
            query_embeddings(
                teacher, teacher_sha256, args.teacher_dtype, some, args.eval_batch_size,
                f"teacher, {kind} queries",
            )
            for kind, some in (("training", texts), ("validation", valid_queries))
        )  # fmt: skip
        del teacher  # its work is done; leave the memory to the student
        embedded = time.perf_counter()
        training = Examples(tokenised_queries(student, texts), targets)
        curve = distil(args, run_content, student, training, (valid_queries, valid_targets), device)
        if is_main_process():
            report = {
                **run_content,
                "command": command_line(),
                "teacher_is_local": Path(args.teacher).exists(),
                "queries": {
                    "training": len(queries),
                    "sentences": len(sentences),
                    "validation": len(valid_queries),
                },
                "processes": world_size(),
                "seconds": {
                    "teacher_embeddings": round(embedded - started, 1),
                    "training": round(time.perf_counter() - embedded, 1),
                },
                "validation_mse": curve,
            }
            save_student(args.output, student, report)
    if is_main_process():
        name = args.push_to_hub or args.output.name
        write_model_card(args.output, name, read_rows(args.results))
        if args.router:
            save_router(args.teacher, args.output)
        if args.export:
            from disret.serve.export import export_once

            export_once(args.output, valid_queries)
        if args.push_to_hub:
            print(f"uploaded to {upload(args.output, args.push_to_hub)}")


# --- Student initialisation ---------------------------------------------------------------------


def init_student(
    args: argparse.Namespace, teacher: "SentenceTransformer", device: str
) -> "SentenceTransformer":
    """The student before training."""
    from disret.encode.models import load_encoder, max_seq_length

    if args.init_with == "static":
        return init_from_tokens(teacher)
    if args.init_with == "subset":
        student = init_from_layers(teacher, args.layers)
    else:
        other = load_encoder(args.init_with, device)
        if args.layers:
            other = init_from_layers(other, args.layers)
        student = init_from_model(teacher, other, args.projection_activation, args.seed)
    student.max_seq_length = max_seq_length(student, args.max_seq_length)
    return student


def init_from_layers(teacher: "SentenceTransformer", layers: list[int]) -> "SentenceTransformer":
    """A student that keeps the given layers of the teacher, and everything else of it.

    Tokenizer, embeddings, pooling, Dense, Normalize and prompts are the teacher's.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer

    from disret.distil.layers import keep_layers

    if not isinstance(teacher[0], Transformer):
        raise UserError(
            f"the model starts with {type(teacher[0]).__name__}, which has no layers to keep."
        )
    shortened = keep_layers(teacher[0].model, layers)
    student = copy.deepcopy(teacher)
    student[0].model = shortened
    return student


def init_from_model(
    teacher: "SentenceTransformer", other: "SentenceTransformer", activation: str, seed: int
) -> "SentenceTransformer":
    """A student with another model's transformer, aligned with the teacher's space.

    Pooling is the teacher's. A Dense layer leads to the teacher's dimension where they differ.
    Its activation was ReLU in the authors' code, which cannot reach negative coordinates.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )

    poolings = [module for module in teacher if isinstance(module, Pooling)]
    if not poolings:
        raise UserError("the teacher has no pooling that a student could copy.")
    if not isinstance(other[0], Transformer):
        raise UserError(
            f"a student cannot start from {type(other[0]).__name__}; name a transformer model."
        )
    width = other[0].get_embedding_dimension()
    pooling = Pooling(width, poolings[0].pooling_mode, poolings[0].include_prompt)
    modules = [other[0], pooling]
    pooled = pooling.get_embedding_dimension()
    dimension = teacher.get_embedding_dimension()
    if pooled != dimension:
        torch.manual_seed(seed)
        function = torch.nn.ReLU() if activation == "relu" else torch.nn.Identity()
        modules.append(Dense(pooled, dimension, activation_function=function))
    if any(isinstance(module, Normalize) for module in teacher):
        modules.append(Normalize())
    return SentenceTransformer(
        modules=modules,
        prompts=other.prompts,
        default_prompt_name=other.default_prompt_name,
        similarity_fn_name=teacher.similarity_fn_name,
        device=str(teacher.device),
    )


def init_from_tokens(teacher: "SentenceTransformer") -> "SentenceTransformer":
    """A student without layers: the mean of an embedding for each token, in the teacher's space."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    from disret.distil.static import static_embedding

    modules = [static_embedding(teacher)]
    if any(isinstance(module, Normalize) for module in teacher):
        modules.append(Normalize())
    return SentenceTransformer(
        modules=modules,
        similarity_fn_name=teacher.similarity_fn_name,
        device=str(teacher.device),
    )


# --- Distillation by embedding alignment ---------------------------------------------------------


def distil(
    args: argparse.Namespace,
    run_content: dict,
    student: "SentenceTransformer",
    training: "Examples",
    validation: tuple[list[str], "np.ndarray"],
    device: str,
) -> list[dict[str, float]]:
    """Train the student's query embeddings onto the teacher's; leaves the best weights in it.

    Args:
        run_content: what an unfinished run must have been made of to be continued.
        validation: queries, and the teacher's embeddings of them, float32
            [n_queries, dimension].

    Returns:
        The validation MSE by step, from step 0, before training.
    """
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    from disret.devices import mixed_precision
    from disret.distil.training import (
        DistillationTrainer,
        QueryMSEEvaluator,
        for_short_texts,
        mse_before,
        mse_from,
    )

    steps = -(-len(training.embeddings) // args.train_batch_size) * args.num_epochs
    if args.warmup_steps >= steps:
        say(f"note: {args.warmup_steps} warm-up steps cover all {steps} steps of training.")
    dtype = mixed_precision(device) if args.mixed_precision else "float32"
    if args.mixed_precision and dtype == "float32":
        say("note: this CPU has no bfloat16, so --mixed-precision trains in float32.")
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(unfinished(args.output) / "checkpoints"),
        num_train_epochs=args.num_epochs,
        per_device_train_batch_size=args.train_batch_size // world_size(),
        learning_rate=args.adamw_lr,
        adam_epsilon=args.adamw_eps,
        weight_decay=0.01,
        warmup_steps=args.warmup_steps,
        lr_scheduler_type=args.lr_schedule,
        eval_strategy="steps",
        eval_steps=args.eval_steps,
        save_strategy="steps",
        save_steps=args.eval_steps,
        save_total_limit=1,  # the best one stays beside the last
        load_best_model_at_end=True,
        metric_for_best_model="negative_mse",
        greater_is_better=True,
        logging_steps=50,
        logging_nan_inf_filter=False,
        seed=args.seed,
        use_cpu=device == "cpu",
        report_to="none",
        disable_tqdm=False,  # whatever the level of transformers' logging
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
    )
    evaluator = QueryMSEEvaluator(*validation)
    with settings.main_process_first(local=False):
        claim(args.output, run_content, args.overwrite)
        before = mse_before(unfinished(args.output), evaluator, student)
        checkpoint = last_checkpoint(args.output)
    trainer = DistillationTrainer(
        model=student,
        args=settings,
        examples=training,
        evaluator=evaluator,
        # The paper's objective: the squared distance between student and teacher embeddings.
        loss=EmbedDistillLoss(student, distance_metric=args.loss),
        keep_order=args.keep_order,
    )
    with for_short_texts(student, args.dropout):
        trainer.train(resume_from_checkpoint=checkpoint)
    evaluations = [log for log in trainer.state.log_history if "eval_negative_mse" in log]
    return [
        {"step": 0, "mse": before},
        *({"step": log["step"], "mse": mse_from(log)} for log in evaluations),
    ]


# --- Input and output ---------------------------------------------------------------------------


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse what would only fail after training."""
    from disret.distil.router import router_folder

    if args.results is None:
        args.results = HOME / "benchmarks" / "results.csv"
    elif not args.results.exists():
        raise UserError(f"there is no file {args.results}.")
    read_rows(args.results)
    if args.router:
        check_output(router_folder(args.output), args.resume, args.overwrite)
    if args.adapt:
        check_name(args.adapt)
    if args.export:
        from disret.serve.export import check_packages

        check_packages()
    if args.push_to_hub and is_main_process():
        from disret.distil.hub import check_upload

        check_upload(args.push_to_hub)


def recorded(args: argparse.Namespace) -> dict:
    """The arguments that decide the student, as JSON."""
    values = {key: value for key, value in vars(args).items() if key not in CIRCUMSTANCES}
    for key in ("queries", "valid_queries"):
        values[key] = [str(path) for path in values[key]] if values[key] else None
    return values


if __name__ == "__main__":
    run(main)
