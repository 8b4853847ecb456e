"""Serve students at `/v1/embeddings`, where the clients of embedding services point already.

    python -m disret.serve models/student --port 8000
    python -m disret.serve two,text-embedding-3-small=models/two models/static@int8
    python -m disret.serve models/student --watch 0.01 --teacher https://HOST/v1#NAME
    python -m disret.serve models/student --teacher models/teacher --index documents.faiss \\
        --corpus corpus.jsonl --queries log.csv                       # a page at /

A student answers to the name of its folder, or to the names before a `=`. DISRET_API_KEY is the key
that a client has to bear. `/metrics` is for Prometheus, `/health` for who starts it. Of the first
student, a share of queries may go to its teacher too, to see whether it still follows; and with an
index, a page shows both encoders' hits side by side.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from disret.command_line import (
    Ended,
    UserError,
    argument_parser,
    not_negative,
    port,
    positive,
    positive_float,
    run,
    say,
    share,
)
from disret.files import check_writable, read_json

if TYPE_CHECKING:
    from disret.encode.encoders import Encoder
    from disret.query_encoder import QueryEncoder
    from disret.serve.api import Student
    from disret.serve.comparison import Comparison, Teacher
    from disret.serve.watch import Watch

KEY = "DISRET_API_KEY"
RANKED = 500  # queries of a log, of which the page shows the worst
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def names_and_place(text: str) -> tuple[list[str], Path, str]:
    """Names, folder and precision of `[NAME,…=]FOLDER[@int8]`."""
    names, _, place = text.rpartition("=")
    folder, _, precision = place.rpartition("@")
    if not folder or precision not in ("int8", "float32"):
        folder, precision = place, "float32"
    given = [name for name in names.split(",") if name]
    return given or [place.rstrip("/").rpartition("/")[2]], Path(folder), precision


def application(args: argparse.Namespace) -> object:
    """The ASGI application that the arguments describe; in each worker its own."""
    from disret.serve.api import Limits, Student, create_app
    from disret.serve.batching import Batcher
    from disret.serve.measures import Measures

    students: dict[str, Student] = {}
    for names, folder, precision in map(names_and_place, args.students):
        if twice := students.keys() & set(names):
            raise UserError(f"two students answer to {', '.join(sorted(twice))}; name them apart.")
        encoder = open_student(folder, precision, args.threads, args.index_of)
        measures = Measures(names[0])
        batcher = Batcher(encoder, measures, args.cache)
        student = Student(names[0], encoder, batcher, measures, args.matryoshka)
        students |= dict.fromkeys(names, student)
    first, comparison = next(iter(students.values())), None
    if args.teacher:
        from disret.serve.comparison import Teacher

        teacher = Teacher(lambda: open_teacher(args, first))
        if args.index:
            comparison = compare(args, teacher, first.encoder)
        if args.watch:
            watching = first._replace(watch=watch(args, teacher, first, comparison))
            students = {n: watching if one is first else one for n, one in students.items()}
    limits = Limits(args.max_texts, args.max_characters, args.max_requests, args.timeout)
    return create_app(students, limits, key(), comparison)


def open_student(folder: Path, precision: str, threads: int, index: Path | None) -> "QueryEncoder":
    from disret.query_encoder import ExportError, QueryEncoder

    if not folder.is_dir():
        raise UserError(f"there is no student {folder}.")
    try:
        return QueryEncoder.from_pretrained(folder, precision, threads, index)
    except (ExportError, ValueError, FileNotFoundError) as error:
        raise UserError(f"{folder}: {error}") from None


def open_teacher(args: argparse.Namespace, student: "Student") -> "Encoder":
    """The teacher as it was distilled; `UserError` if it is not that of the student."""
    try:
        from disret.encode.encoders import open_encoder

        teacher = open_encoder(
            args.teacher, options=args.service_option, prompt=args.teacher_prompt,
            truncate_dim=args.truncate_dim,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise UserError(f'asking a teacher needs {error.name}: pip install ".[train]".') from None
    if teacher.backend == "vectors":
        raise UserError(f"{teacher.name} has vectors of its own texts alone, and cannot be asked.")
    if teacher.dimension != student.encoder.dimension:
        raise UserError(f"{teacher.name} has {teacher.dimension} dimensions, {student.name} "
                        f"{student.encoder.dimension}; it is no student of it.")  # fmt: skip
    made_for = read_json(student.encoder.folder / "index.json") or {}
    own = {teacher.fingerprint, teacher.index_fingerprint}
    if made_for.get("encoder_sha256") not in own:
        say(f"note: {student.name} was distilled for an index of {made_for.get('encoder')}, by its "
            f"fingerprint another encoder than {teacher.name} as it is named here.")  # fmt: skip
    return teacher


def compare(args: argparse.Namespace, teacher: "Teacher", student: "QueryEncoder") -> "Comparison":
    """Both encoders on the index, and the queries on which they agree least."""
    from disret.data.queries import read_queries
    from disret.retrieve.foreign import open_foreign
    from disret.serve.comparison import Comparison

    encoder = teacher.encoder()
    index = open_foreign(args.index, args.ids, encoder.dimension, None, False, encoder.made_by)
    found = Comparison(index, args.corpus, teacher, student)
    if not found.texts:
        raise UserError(f"{args.corpus} has no text of a document of {args.index}: other ids.")
    if args.queries:
        found.rank(list(dict.fromkeys(read_queries(args.queries, RANKED))))
    return found


def watch(
    args: argparse.Namespace, teacher: "Teacher", student: "Student", comparison: object
) -> "Watch":
    """What asks the teacher a share of the queries."""
    from disret.serve.watch import Watch

    held_out = student.encoder.settings.get("held_out") or {}
    expected = tuple(held_out.values()) if len(held_out) == 2 else None
    if args.worst:
        check_writable(args.worst)
    return Watch(student.name, teacher, args.watch, expected, args.worst, comparison)


def key() -> str | None:
    """The key that clients have to bear, if there is to be one."""
    value = os.environ.get(KEY)
    if value is not None and (not value.strip() or value.split() != [value.strip()]
                              or not value.isascii()):  # fmt: skip
        raise UserError(f"{KEY} is empty, or has spaces or letters that no header bears; set it to "
                        "a key, or unset it.")  # fmt: skip
    return value and value.strip()


def worker() -> object:
    """For uvicorn, which starts each worker as a process of its own."""
    return application(parse_args(json.loads(os.environ["DISRET_SERVE"])))


def main() -> None:
    args = parse_args()
    if args.host not in LOOPBACK and not key():
        what = "search the documents, and read the log" if args.index else "ask"
        say(f"note: anyone who reaches {args.host} may {what}"
            f"{'.' if args.index else f'; {KEY} asks for a key.'}")  # fmt: skip
    check_free(args.host, args.port)
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="disret-metrics-") as folder:
        if args.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            os.environ["DISRET_SERVE"] = json.dumps(sys.argv[1:])
        app = application(args)  # or refuse, before a worker does
        say(f"serving {', '.join(args.students)} at http://{args.host}:{args.port}/v1")
        # Ended by a signal, uvicorn answers what it has accepted, and raises the signal again.
        with suppress(Ended, KeyboardInterrupt):
            uvicorn.run(
                "disret.serve.__main__:worker" if args.workers > 1 else app,
                factory=args.workers > 1, workers=args.workers, host=args.host, port=args.port,
                log_level="warning", access_log=False,
            )  # fmt: skip
    if args.teacher:  # a request to it may hang, which nobody waits for
        sys.stderr.flush()
        os._exit(0)


def check_free(host: str, port: int) -> None:
    """Raise `UserError` unless this process may listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot listen at {host}:{port}: {error.strerror}.") from None


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__, "python -m disret.serve")
    add = parser.add_argument
    add("students", nargs="+", metavar="[NAME,…=]FOLDER[@int8]")
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine's own)")
    add("--port", type=port, default=8000, help="default: 8000")
    add("--workers", type=positive, default=1, metavar="N", help="processes (default: 1)")
    add("--threads", type=positive, default=1, metavar="N", help="of a graph (default: 1)")
    add("--cache", type=not_negative, default=0, metavar="N", help="texts whose vectors are kept")
    add("--index-of", type=Path, metavar="FILE", help="refuse a student of another index than this")
    add("--matryoshka", action="store_true", help="`dimensions` of a request may cut vectors")
    add("--max-texts", type=positive, default=2048, metavar="N", help="of a request")
    add("--max-characters", type=positive, default=200_000, metavar="N", help="of its texts")
    add("--max-requests", type=positive, default=1024, metavar="N", help="in work at once")
    add("--timeout", type=positive_float, default=30.0, metavar="S", help="seconds of a request")
    add = parser.add_argument_group("beside the teacher").add_argument
    add("--teacher", metavar="ENCODER", help="a model, or https://HOST/v1#NAME")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE", help="as distill.py's")
    add("--teacher-prompt", metavar="TEXT|NAME", help="as distill.py's")
    add("--truncate-dim", type=positive, metavar="N", help="as distill.py's")
    add("--watch", type=share, metavar="SHARE", help="of requests, of which it gets a query too")
    add("--worst", type=Path, metavar="FILE", help="gets the queries where both differ most")
    add("--index", type=Path, metavar="PATH", help="of its documents, for a page at /")
    add("--ids", metavar="FILE[#COLUMN]|rows", help="the index's document ids, one a line")
    add("--corpus", metavar="FILE|DIR", help="a table of ids and texts, or a collection")
    add("--queries", nargs="+", metavar="FILE", help="a log, of which the page shows the worst")
    args = parser.parse_args(words)
    if bool(args.index) != bool(args.corpus) or ((args.ids or args.queries) and not args.index):
        parser.error("the page needs an --index and the --corpus with its texts")
    if bool(args.index or args.watch) != bool(args.teacher):
        parser.error("a --teacher is compared by --watch, or on an --index: name both")
    if args.worst and not args.watch:
        parser.error("--worst is of what --watch sees")
    if args.teacher and args.workers > 1:
        parser.error("a --teacher is asked by one process: serve it apart from the --workers")
    if args.index and KEY in os.environ:
        parser.error(f"the page asks without a key; it is not shown where {KEY} asks for one")
    return args


if __name__ == "__main__":
    run(main)
