#!/usr/bin/env python
"""The paper's comparison of students in one command: distil each, score it, time one of each size.

    python sweep.py --teacher msmarco-bert-base-dot-v5 --others distilbert-base-uncased \\
        --output evaluations/sweep -- --mixed-precision                   # the paper, one GPU
    python sweep.py --teacher models/all-MiniLM-L6-v2 --datasets scifact nfcorpus \\
        --score-function cos_sim --output evaluations/sweep -- --recipe best --num-epochs 1

It calls distill.py, benchmark.py and ispeed.py in a loop and prints each command, so that any can
be repeated by itself. What follows `--` goes to distill.py. The teacher's query embeddings, the
tokenised queries and the document index are made for the first student and read by the others.
Run it again after a kill: it goes on where it was.
"""

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from disret.catalog import datasets
from disret.collection import check_name
from disret.files import check_writable
from disret.paths import MODELS
from disret.subsets import subsets
from disret.terminal import UserError, run

HERE = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("--teacher", default="msmarco-bert-base-dot-v5", metavar="MODEL",
        help="directory or hub name (default: %(default)s)")
    add("--others", nargs="+", default=[], metavar="MODEL[:LAYERS]",
        help="models that students start from as well, whole or cut, such as distilbert:0,5")
    add("--datasets", nargs="+", default=list(datasets()), metavar="NAME|DIR",
        help="data sets to score on (default: the paper's 15)")
    add("--score-function", choices=["dot", "cos_sim"], default="dot", help="(default: dot)")
    add("--output", type=Path, required=True, metavar="DIR",
        help="where tables and figures go; students go to models/, in a folder of that name")
    add("--batch-sizes", nargs="+", type=int, default=[4, 8, 16, 32, 64], metavar="N",
        help="of the timing (default: 4 8 16 32 64)")
    add("--jobs", type=int, default=1, metavar="N",
        help="students to distil at once: one for each GPU, or for each core of a small CPU")
    add("--debug", action="store_true", help="show tracebacks")
    add("distil", nargs="*", metavar="-- ARGUMENT", help="arguments of distill.py")
    # fmt: on
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs must be positive, got {args.jobs}")
    return args


class Student(NamedTuple):
    """A student of the comparison.

    Attributes:
        name: how it starts, such as `layers 0 5`.
        flags: what tells distill.py so.
        size: what students of equal speed have in common.
    """

    name: str
    flags: list[str]
    size: str

    def folder(self, sweep: Path) -> Path:
        """Where it is saved, from here if it lies below."""
        folder = MODELS / sweep.name / self.name.replace(" ", "-")
        here = Path.cwd()
        return folder.relative_to(here) if folder.is_relative_to(here) else folder


def main() -> None:
    args = parse_args()
    check_writable(args.output / "sweep.csv")
    for name in args.datasets:
        check_name(name)

    from disret.encoders import describe, load_encoder
    from disret.results import read_rows
    from disret.sweep_report import write_report

    depth = describe(load_encoder(args.teacher, "cpu")).layers
    students = plan(depth, args.others)
    distil_all(args, students)
    folders = {student.name: student.folder(args.output) for student in students}
    call(
        "benchmark.py", "--datasets", *args.datasets, "--document-encoder", args.teacher,
        "--query-encoder", *folders.values(), "--score-function", args.score_function,
        "--output", args.output / "scores.csv",
    )  # fmt: skip
    speed = args.output / "speed.csv"
    one_of_each = {student.size: student.folder(args.output) for student in students}
    timed = {row["encoder"] for row in read_rows(speed)}
    if not {args.teacher, *map(str, one_of_each.values())} <= timed:
        partial = args.output / "speed.partial.csv"
        call(
            "ispeed.py", "--encoders", args.teacher, *one_of_each.values(),
            "--datasets", args.datasets[-1], "--batch-sizes", *args.batch_sizes,
            "--output", partial,
        )  # fmt: skip
        partial.replace(speed)
    print(write_report(args.output, args.teacher, depth, folders))


def plan(depth: int, others: list[str]) -> list[Student]:
    """The paper's subsets of a teacher's layers, and what starts from other models."""
    students = []
    for subset in subsets(depth):
        layers = [str(layer) for layer in subset.layers]
        students.append(
            Student(f"layers {' '.join(layers)}", ["--layers", *layers], f"{len(layers)} layers")
        )
    for other in others:
        model, _, cut = other.partition(":")
        layers = cut.split(",") if cut else []
        name = " ".join([f"from {Path(model).name}", *(["layers", *layers] if layers else [])])
        flags = ["--init-with", model, *(["--layers", *layers] if layers else [])]
        students.append(Student(name, flags, name))
    return students


def distil_all(args: argparse.Namespace, students: list[Student]) -> None:
    """Distil every student, `--jobs` at a time, on a GPU or a share of the cores each."""
    import torch

    places: Queue[int] = Queue()
    for place in range(args.jobs):
        places.put(place)

    def distil(student: Student) -> None:
        place = places.get()
        environment = {}
        if args.jobs > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
            if count := torch.cuda.device_count():
                environment["CUDA_VISIBLE_DEVICES"] = str(place % count)
        folder = student.folder(args.output)
        call(
            "distill.py", "--teacher", args.teacher, *student.flags, *args.distil,
            "--output", folder, "--resume", environment=environment,
            log=folder.with_name(f"{folder.name}.log") if args.jobs > 1 else None,
        )  # fmt: skip
        places.put(place)

    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = [pool.submit(distil, student) for student in students]
        try:
            for future in as_completed(waiting):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def call(
    script: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    log: Path | None = None,
) -> None:
    """Run one of the scripts and print its command.

    Args:
        log: a file for what it prints, when several run at once.

    Raises:
        UserError: it failed.
    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ python {script} {shlex.join(words)}", flush=True)
    command = [sys.executable, str(HERE / script), *words]
    environment = {**os.environ, **(environment or {})}
    if log is None:
        status = subprocess.run(command, env=environment, check=False).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            status = subprocess.run(
                command, env=environment, stdout=file, stderr=file, check=False
            ).returncode
    if status:
        where = f"; {log} says why" if log else ""
        raise UserError(f"{script} ended with status {status}{where}. Run the same again to go on.")


if __name__ == "__main__":
    run(main)
