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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event

from disret.command_line import Ended, argument_parser, at_end, run, tell, threads
from disret.data.catalog import datasets
from disret.data.collection import check_name
from disret.files import check_writable, claim
from disret.sweep.processes import call, environment_of
from disret.sweep.students import Student, plan

BATCH_SIZES = (4, 8, 16, 32, 64)  # of the timing
TIMED = ("encoder", "batch_size", "dataset", "device")
SPEED = ("encoder", "batch_size", "queries_per_second", "parameters", "dataset")  # what is used


def main() -> None:
    args = parse_args()
    for name in args.datasets:
        check_name(name)
    check_writable(args.output / "sweep.csv")
    claim(args.output)

    import torch

    from disret.distil.model_card import write_model_card
    from disret.encode.models import describe, load_encoder
    from disret.retrieve.scores import read_scores
    from disret.sweep.report import write_report
    from disret.tables import read_rows

    scores, speed = args.output / "scores.csv", args.output / "speed.csv"
    read_scores(scores)
    read_rows(speed, SPEED)
    depth = describe(load_encoder(args.teacher, "cpu", dtype="auto")).layers
    students = plan(depth, args.others)
    folders = [student.folder(args.output) for student in students]
    one_of_each = {student.size: student.folder(args.output) for student in students}
    distil_all(args, students)
    call(
        "benchmark.py", "--datasets", *args.datasets, "--document-encoder", args.teacher,
        "--query-encoder", *folders, "--score-function", args.score_function, "--output", scores,
        processes=max(1, min(args.jobs, torch.cuda.device_count())),
    )  # fmt: skip
    known = read_scores(scores)
    for folder in folders:
        write_model_card(folder, known)
    time_encoders(args, [args.teacher, *map(str, one_of_each.values())], speed)
    tell(write_report(args.output, args.teacher, depth, students, one_of_each))


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
                tell(f"\n{students.index(student) + 1} of {len(students)}: {student.name}")
                call(
                    "distill.py", "--teacher", args.teacher, *student.flags, *args.distil,
                    "--output", folder, "--resume",
                    environment=place,
                    log=folder.with_name(f"{folder.name}.log") if args.jobs > 1 else None,
                )  # fmt: skip
        except BaseException:
            failed.set()
            raise
        finally:
            places.put(place)

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            list(pool.map(distil, students))
        except (KeyboardInterrupt, Ended):
            at_end.close()  # the threads wait for scripts, which end with it
            raise


def time_encoders(args: argparse.Namespace, encoders: list[str], speed: Path) -> None:
    """Time some encoders, unless the table has them, on these queries and this machine."""
    from disret.devices import device_name, resolve_device
    from disret.tables import read_rows

    here = args.datasets[-1], device_name(resolve_device(None))
    wanted = {(encoder, size, *here) for encoder in encoders for size in BATCH_SIZES}
    if not wanted <= {tuple(row.get(key) for key in TIMED) for row in read_rows(speed)}:
        partial = args.output / "speed.partial.csv"
        call(
            "ispeed.py", "--encoders", *encoders, "--datasets", args.datasets[-1],
            "--batch-sizes", *BATCH_SIZES, "--output", partial,
        )  # fmt: skip
        partial.replace(speed)


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
    add("--jobs", type=threads, default=1, metavar="N",
        help="students to distil at once: one for each GPU, or for each core of a small CPU")
    add("distil", nargs="*", metavar="-- ARGUMENT", help="arguments of distill.py")
    # fmt: on
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
