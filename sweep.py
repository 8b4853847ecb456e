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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event
from typing import NamedTuple

from disret.catalog import datasets
from disret.collection import check_name
from disret.files import check_writable
from disret.layers import check_layers
from disret.paths import MODELS
from disret.subsets import subsets
from disret.terminal import UserError, argument_parser, run

HERE = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
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
        layers: those that are kept; none for the whole of another model.
        other: the model that it starts from, if not from the teacher.
    """

    name: str
    layers: list[str]
    other: str = ""

    @property
    def flags(self) -> list[str]:
        """What tells distill.py so."""
        start = ["--init-with", self.other] if self.other else []
        return [*start, *(["--layers", *self.layers] if self.layers else [])]

    @property
    def size(self) -> str:
        """What students of equal speed have in common."""
        return self.name if self.other else f"{len(self.layers)} layers"

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
    from disret.model_card import write_model_card
    from disret.results import read_rows
    from disret.sweep_report import write_report

    depth = describe(load_encoder(args.teacher, "cpu")).layers
    students = plan(depth, args.others)
    check_students(students)
    distil_all(args, students)
    folders = {student.name: student.folder(args.output) for student in students}
    scores = args.output / "scores.csv"
    call(
        "benchmark.py", "--datasets", *args.datasets, "--document-encoder", args.teacher,
        "--query-encoder", *folders.values(), "--score-function", args.score_function,
        "--output", scores,
    )  # fmt: skip
    for folder in folders.values():
        write_model_card(folder, folder.name, read_rows(scores))
    speed = args.output / "speed.csv"
    one_of_each = {student.size: student.folder(args.output) for student in students}
    wanted = {(encoder, str(size)) for encoder in (args.teacher, *map(str, one_of_each.values()))
              for size in args.batch_sizes}  # fmt: skip
    if not wanted <= {(row["encoder"], row["batch_size"]) for row in read_rows(speed)}:
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
        students.append(Student(" ".join(["layers", *layers]), layers))
    for other in others:
        model, _, cut = other.partition(":")
        layers = cut.split(",") if cut else []
        name = " ".join(["from", Path(model).name, *(["layers", *layers] if layers else [])])
        students.append(Student(name, layers, model))
    return students


def check_students(students: list[Student]) -> None:
    """Refuse, before any long work, what distill.py would refuse when its turn comes.

    Raises:
        UserError: there is nothing to compare, or a student cannot start.
    """
    from disret.encoders import describe, load_encoder

    if not students:
        raise UserError("the teacher has no two layers to choose from; name --others.")
    names = [student.name for student in students]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--others: two students would be called {name!r}.")
    for student in students:
        if student.other:
            depth = describe(load_encoder(student.other, "cpu")).layers
            try:
                check_layers([int(layer) for layer in student.layers], depth)
            except ValueError:
                raise UserError(
                    f"--others {student.other}: expected layers such as 0,5, got "
                    f"{','.join(student.layers)!r}."
                ) from None


def distil_all(args: argparse.Namespace, students: list[Student]) -> None:
    """Distil every student, `--jobs` at a time, on a GPU or a share of the cores each."""
    places: Queue[dict[str, str]] = Queue()
    for place in range(args.jobs):
        places.put(environment_of(place, args.jobs))
    failed = Event()

    def distil(student: Student) -> None:
        place = places.get()
        folder = student.folder(args.output)
        try:
            if not failed.is_set():
                call(
                    "distill.py", "--teacher", args.teacher, *student.flags, *args.distil,
                    "--output", folder, "--resume",
                    environment=place,
                    log=folder.with_name(f"{folder.name}.log") if args.jobs > 1 else None,
                )  # fmt: skip
        except UserError:
            failed.set()
            raise
        finally:
            places.put(place)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(distil, students))


def environment_of(place: int, places: int) -> dict[str, str]:
    """The variables of one of several processes: its GPU, or its share of the cores."""
    import torch

    if places == 1:
        return {}
    threads = str(max(1, (os.cpu_count() or 1) // places))
    if not (count := torch.cuda.device_count()):
        return {"OMP_NUM_THREADS": threads}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(map(str, range(count)))
    return {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}


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
