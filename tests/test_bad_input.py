"""Bad input: one clear sentence, status 2, nothing lost, and the next good run succeeds.

A row of the table breaks one thing of a world that works, and says what a script must answer.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_collection
from tiny import save_encoder

from disret import paths
from disret.files import lock, remove

Step = Callable[[pytest.MonkeyPatch], object]

# Commands that work, from the folder of the world; what a case adds comes after them.
TRAIN = "--train-batch-size 16 --warmup-steps 2 --eval-steps 8 --teacher-dtype float32 --device cpu"
GOOD = {
    "distill": "--teacher teacher --layers 0 1 --recipe paper --queries train.tsv "
    f"--valid-queries valid.txt --output new {TRAIN}",
    "benchmark": "--datasets things --document-encoder teacher --query-encoder student "
    "--score-function cos_sim --dtype float32 --output scores.csv --device cpu",
    "ispeed": "--encoders teacher student --datasets things --batch-sizes 8 --num-runs 1 "
    "--output speed.csv --device cpu",
    "sweep": "--teacher teacher --datasets things --score-function cos_sim --output sweep",
    "disret.serve.export": "student --queries valid.txt",
    "beyond/significance": "run.trec run.trec --dataset things",
    "beyond/approximate": "--datasets things --document-encoder teacher --score-function cos_sim "
    "--dtype float32 --output approximate.csv --device cpu",
    "beyond/publish": "student",
    "disret.sweep.tradeoff": "--scores scores.csv --speed speed.csv",
    "beyond/texts": "wordnet words.txt",
    "disret.data.queries": "",
}
MAKES_THE_WORLD = (
    "distill --layers 0 3 --output student",
    "disret.serve.export",
    "benchmark",
    "ispeed",
    "disret.sweep.tradeoff",
)
THINGS = "home/benchmarks/raw/things"
INDEX = "home/benchmarks/faiss/things/teacher.flat.cos_sim.float32-float16"
DEEP = "[" * 100_000


# --- What a case breaks -------------------------------------------------------------------------


def text(path: str, content: str | bytes) -> Step:
    """Write a file."""

    def step(_: pytest.MonkeyPatch) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return step


def more(path: str, content: str | bytes) -> Step:
    """Add to the end of a file."""
    end = content.encode() if isinstance(content, str) else content
    return lambda _: Path(path).write_bytes(Path(path).read_bytes() + end)


def gone(path: str) -> Step:
    return lambda _: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def half(path: str) -> Step:
    return lambda _: os.truncate(path, Path(path).stat().st_size // 2)


def folder(path: str) -> Step:
    """A folder where a file belongs."""

    def step(_: pytest.MonkeyPatch) -> None:
        Path(path).unlink(missing_ok=True)
        Path(path).mkdir(parents=True)

    return step


def fifo(path: str) -> Step:
    """A pipe that nobody writes to."""

    def step(_: pytest.MonkeyPatch) -> None:
        Path(path).unlink(missing_ok=True)
        os.mkfifo(path)

    return step


def link(path: str, target: str) -> Step:
    def step(_: pytest.MonkeyPatch) -> None:
        Path(path).unlink(missing_ok=True)
        Path(path).symlink_to(target)

    return step


def rights(path: str, mode: int) -> Step:
    return lambda _: Path(path).chmod(mode)


def env(**variables: str) -> Step:
    return lambda patch: [patch.setenv(name, value) for name, value in variables.items()]


def edit(path: str, change: Callable[[dict], object]) -> Step:
    """Change a JSON file."""

    def step(_: pytest.MonkeyPatch) -> None:
        value = json.loads(Path(path).read_text())
        change(value)
        Path(path).write_text(json.dumps(value))

    return step


def line(path: str, number: int, content: str | bytes) -> Step:
    """Put another line, counted from 1, into a file."""

    def step(_: pytest.MonkeyPatch) -> None:
        lines = Path(path).read_bytes().splitlines(keepends=True)
        new = content if isinstance(content, bytes) else content.encode()
        lines[number - 1] = new + b"\n"
        Path(path).write_bytes(b"".join(lines))

    return step


# --- The table: a name, what is broken, the command, and what the sentence says -------------------

Case = tuple[str, list[Step], str, str]


def corpus(content: str | bytes) -> list[Step]:
    return [line(f"{THINGS}/corpus.jsonl", 3, content)]


def queries_of(content: str | bytes) -> list[Step]:
    return [line(f"{THINGS}/queries.jsonl", 2, content)]


def qrels(content: str | bytes) -> list[Step]:
    return [line(f"{THINGS}/qrels/test.tsv", 2, content)]


RECORD = '{"_id": "d2", "title": "t", "text": "a text"'
FILES: list[Case] = [
    # Queries to train on.
    ("queries missing", [], "distill --queries none.tsv", "no file none.tsv"),
    ("queries a folder", [], "distill --queries teacher", "teacher is a directory"),
    ("queries a pipe", [fifo("pipe.txt")], "distill --queries pipe.txt", "pipe.txt is no regular"),
    ("queries a device", [], "distill --queries /dev/null", "/dev/null is no regular file"),
    ("queries unreadable", [rights("train.tsv", 0)], "distill", "train.tsv cannot be used: Perm"),
    ("queries a loop", [link("loop.txt", "loop.txt")], "distill --queries loop.txt", "loop.txt"),
    ("queries a dead link", [link("dead.txt", "none")], "distill --queries dead.txt", "dead.txt"),
    ("queries empty", [text("train.tsv", "")], "distill", "train.tsv is empty"),
    ("queries blank", [text("train.tsv", "\n \n\n")], "distill", "train.tsv holds no queries"),
    ("queries latin-1", [line("train.tsv", 4, b"3\tna\xefve")], "distill", "line 4: not UTF-8"),
    ("queries utf-16", [text("train.tsv", "1\ta b\n".encode("utf-16"))], "distill", "is UTF-16"),
    ("queries one column", [line("train.tsv", 5, "no tab")], "distill", "line 5: 1 columns, not 2"),
    ("queries three columns", [line("train.tsv", 5, "1\ta\tb")], "distill", "line 5: 3 columns"),
    ("queries of no column", [], "distill --queries train.tsv#text", "has no column 'text'"),
    ("queries no gzip", [text("q.txt.gz", "x\n")], "distill --queries q.txt.gz", "whole gzip file"),
    ("queries half gzip",
     [text("q.txt.gz", __import__("gzip").compress(b"a query\n" * 2000)[:40])],
     "distill --queries q.txt.gz", "not a whole gzip file"),
    ("queries no JSON", [text("q.jsonl", '{"text": "a"}\nb\n')], "distill --queries q.jsonl",
     "line 2: no JSON: 'b'"),
    ("queries JSON list", [text("q.jsonl", "[1]\n")], "distill --queries q.jsonl", "line 1"),
    ("queries JSON number", [text("q.jsonl", "1\n")], "distill --queries q.jsonl", "line 1"),
    ("queries JSON null", [text("q.jsonl", '{"text": null}\n')], "distill --queries q.jsonl",
     "holds no queries"),
    ("queries JSON text a list", [text("q.jsonl", '{"text": ["a"]}\n')],
     "distill --queries q.jsonl", "line 1: ['a'] is no text"),
    ("queries JSON other field", [text("q.jsonl", '{"n": 1, "body": "a"}\n')],
     "distill --queries q.jsonl", "say which column has the texts"),
    ("queries JSON surrogate", [text("q.jsonl", '{"text": "a \\ud800"}\n')],
     "distill --queries q.jsonl", "line 1: 'a \\ud800' is no text"),
    ("validation missing", [], "distill --valid-queries none.txt", "no file none.txt"),
    ("validation the same", [], "distill --valid-queries train.tsv", "every validation query"),
    ("validation empty", [text("valid.txt", "")], "distill", "valid.txt is empty"),
    ("timing queries missing", [], "ispeed --datasets none.txt", "no data set or directory"),
    # Collections.
    ("corpus missing", [gone(f"{THINGS}/corpus.jsonl")], "benchmark", "no corpus.jsonl"),
    ("corpus empty", [text(f"{THINGS}/corpus.jsonl", "")], "benchmark", "corpus.jsonl is empty"),
    ("corpus a folder", [folder(f"{THINGS}/corpus.jsonl")], "benchmark", "is a directory"),
    ("corpus a pipe", [fifo(f"{THINGS}/corpus.jsonl")], "benchmark", "is no regular file"),
    ("corpus unreadable", [rights(f"{THINGS}/corpus.jsonl", 0)], "benchmark", "cannot be used"),
    ("corpus no JSON", corpus("{"), "benchmark", "corpus.jsonl, line 3: not JSON"),
    ("corpus a list", corpus("[]"), "benchmark", "corpus.jsonl, line 3: no _id"),
    ("corpus null", corpus("null"), "benchmark", "corpus.jsonl, line 3: no _id"),
    ("corpus a text", corpus('"a"'), "benchmark", "corpus.jsonl, line 3: no _id"),
    ("corpus latin-1", corpus(b'{"_id": "d2", "text": "na\xefve"}'), "benchmark", "not UTF-8"),
    ("corpus id a number", corpus('{"_id": 2, "text": "a"}'), "benchmark", "line 3: no _id"),
    ("corpus id empty", corpus('{"_id": "", "text": "a"}'), "benchmark", "line 3: no _id"),
    ("corpus id null", corpus('{"_id": null, "text": "a"}'), "benchmark", "line 3: no _id"),
    ("corpus id of lines", corpus('{"_id": "a\\nb", "text": "a"}'), "benchmark", "line 3: no _id"),
    ("corpus id surrogate", corpus('{"_id": "a\\udc00", "text": "a"}'), "benchmark", "line 3"),
    ("corpus id missing", corpus('{"id": "d2", "text": "a"}'), "benchmark", "line 3: no _id"),
    ("corpus twice an id", corpus('{"_id": "d1", "text": "a"}'), "benchmark", "a second 'd1'"),
    ("corpus contents", corpus('{"_id": "d2", "contents": "a"}'), "benchmark", "'text' is missing"),
    ("corpus text a list", corpus('{"_id": "d2", "text": ["a"]}'), "benchmark", "'text' is"),
    ("corpus text null", corpus('{"_id": "d2", "text": null}'), "benchmark", "'text' is missing"),
    ("corpus text surrogate", corpus('{"_id": "d2", "text": "\\ud83d"}'), "benchmark", "'text' is"),
    ("corpus title a list", corpus(RECORD.replace('"t"', '["t"]') + "}"), "benchmark", "'title'"),
    ("corpus title a number", corpus(RECORD.replace('"t"', "7") + "}"), "benchmark", "'title'"),
    ("corpus half a line", [half(f"{THINGS}/corpus.jsonl")], "benchmark", "not JSON"),
    ("collection queries missing", [gone(f"{THINGS}/queries.jsonl")], "benchmark", "no file"),
    ("collection queries empty", [text(f"{THINGS}/queries.jsonl", "")], "benchmark",
     "queries.jsonl is empty"),
    ("collection queries a folder", [folder(f"{THINGS}/queries.jsonl")], "benchmark", "directory"),
    ("collection queries field", queries_of('{"_id": "q1", "query": "a"}'), "benchmark",
     "queries.jsonl, line 2: 'text' is missing or no text; the keys are _id, query"),
    ("collection queries twice", queries_of('{"_id": "q0", "text": "a"}'), "benchmark", "second"),
    ("qrels missing", [gone(f"{THINGS}/qrels/test.tsv")], "benchmark", "judgments"),
    ("qrels no folder", [gone(f"{THINGS}/qrels")], "benchmark", "judgments"),
    ("qrels a folder", [folder(f"{THINGS}/qrels/test.tsv")], "benchmark", "is a directory"),
    ("qrels empty", [text(f"{THINGS}/qrels/test.tsv", "")], "benchmark", "test.tsv is empty"),
    ("qrels only a header", [text(f"{THINGS}/qrels/test.tsv", "qid\tdid\trel\n")], "benchmark",
     "has no judgment"),
    ("qrels two columns", qrels("q0\td0"), "benchmark", "line 2: expected query, document"),
    ("qrels five columns", qrels("q0\t0\td0\t1\tx"), "benchmark", "line 2: expected query"),
    ("qrels a fraction", qrels("q0\td0\t0.5"), "benchmark", "line 2: expected query"),
    ("qrels no number", qrels("q0\td0\tyes"), "benchmark", "line 2: expected query"),
    ("qrels 30 digits", qrels("q0\td0\t" + "1" * 30), "benchmark", "line 2: expected query"),
    ("qrels a huge grade", qrels("q0\td0\t2000000000"), "benchmark", "line 2: expected query"),
    ("qrels unknown queries", [text(f"{THINGS}/qrels/test.tsv", "x\td0\t1\n")], "benchmark",
     "no judgment of a known query"),
    ("qrels unknown documents", [text(f"{THINGS}/qrels/test.tsv", "q0\tx\t1\n")], "benchmark",
     "no judgment of a known document"),
    ("split missing", [], "benchmark --split dev", "has no split 'dev'; it has: test"),
    ("split of a path", [], "benchmark --split ../test", "has no split"),
    ("collection a file", [text("file", "x")], "benchmark --datasets file", "file"),
    ("collection an empty folder", [folder("empty")], "benchmark --datasets ./empty",
     "no corpus.jsonl"),
    ("adapt to nothing", [text(f"{THINGS}/corpus.jsonl", '{"_id": "a", "text": "one"}\n')],
     "distill --adapt things", "hold no sentences"),
    ("adapt to a broken corpus", corpus("{"), "distill --adapt things", "line 3: not JSON"),
    # Models.
    ("teacher an empty folder", [folder("empty")], "distill --teacher empty", "empty is not"),
    ("teacher a file", [text("file", "x")], "distill --teacher file", "file is not a model"),
    ("teacher without config", [gone("teacher/config.json")], "distill", "teacher is not a model"),
    ("teacher without weights", [gone("teacher/model.safetensors")], "distill", "teacher is not"),
    ("teacher of half the weights", [half("teacher/model.safetensors")], "distill", "teacher is"),
    ("teacher without a tokenizer",
     [gone("teacher/tokenizer.json"), gone("teacher/tokenizer_config.json")], "distill", "teacher"),
    ("teacher broken config", [text("teacher/config.json", "{")], "distill", "teacher is not a"),
    ("teacher config a list", [text("teacher/config.json", "[]")], "distill", "teacher is not a"),
    ("teacher modules a number", [text("teacher/modules.json", "7")], "distill", "teacher is not"),
    ("teacher unreadable", [rights("teacher/model.safetensors", 0)], "distill", "teacher is not"),
    ("student of another dimension", [], "benchmark --query-encoder wide", "gives 16 dimensions"),
    ("student without an export", [], "benchmark --query-encoder wide@onnx",
     "holds no exported query encoder"),
    ("timing without an export", [], "ispeed --encoders wide@onnx",
     "holds no exported query encoder"),
    ("export of half a graph", [half("student/onnx/model.onnx")],
     "benchmark --query-encoder student@onnx", "is damaged"),
    ("export of another model", [more("student/model.safetensors", b"x")],
     "ispeed --encoders student@onnx", "is not what"),
    ("export settings broken", [text("student/onnx/query_encoder.json", "{")],
     "benchmark --query-encoder student@onnx", "query_encoder.json is damaged"),
    ("export settings a list", [text("student/onnx/query_encoder.json", "[]")],
     "benchmark --query-encoder student@onnx", "query_encoder.json"),
    ("export settings name a path",
     [edit("student/onnx/query_encoder.json",
           lambda s: s["files"].update(float32={"../../teacher/model.safetensors": "0"}))],
     "benchmark --query-encoder student@onnx", "is damaged"),
    # Tables, runs and the rest.
    ("scores no table", [text("scores.csv", "\x00\x01")], "benchmark", "scores.csv"),
    ("scores another table", [text("scores.csv", "a,b\n1,2\n")], "benchmark", "is another table"),
    ("scores a folder", [folder("scores.csv")], "benchmark", "scores.csv is a directory"),
    ("scores a pipe", [fifo("scores.csv")], "benchmark", "scores.csv is no regular file"),
    ("scores unreadable", [rights("scores.csv", 0)], "benchmark", "scores.csv cannot be used"),
    ("scores without a number", [lambda _: Path("scores.csv").write_text(
        re.sub(r"0\.\d+", "many", Path("scores.csv").read_text(), count=1))],
     "benchmark", "has no number in its column"),
    ("scores ragged", [more("scores.csv", "1,2" + "," * 60 + "\n")], "benchmark", "scores.csv"),
    ("scores latin-1", [more("scores.csv", b"na\xefve\n")], "benchmark", "scores.csv"),
    ("took no list", [text("scores.json", "{}")], "benchmark", "scores.json exists and is not"),
    ("took no JSON", [text("scores.json", "x")], "benchmark", "scores.json exists and is not"),
    ("took deep JSON", [text("scores.json", DEEP)], "benchmark", "scores.json exists and is not"),
    ("took a folder", [folder("scores.json")], "benchmark", "scores.json"),
    ("took unreadable", [rights("scores.json", 0)], "benchmark", "scores.json cannot be used"),
    ("speeds of another table", [text("speed.csv", "a,b\n1,2\n")], "ispeed", "is another table"),
    ("speeds in scores", [], "ispeed --output scores.csv", "is another table"),
    ("card of no file", [], "beyond/publish --results none.csv", "no file none.csv"),
    ("card of another table", [text("x.csv", "a\n1\n")], "beyond/publish --results x.csv",
     "is another"),
    ("run missing", [gone("run.trec")], "beyond/significance", "no file run.trec"),
    ("run no run", [text("run.trec", "a b c\n")], "beyond/significance",
     "run.trec, line 1: expected query, Q0, document,"),
    ("run of others", [text("run.trec", "x Q0 d0 1 0.5 t\n")], "beyond/significance",
     "has none of the queries"),
    ("run binary", [text("run.trec", b"\xff\xfe\x00")], "beyond/significance",
     "run.trec is UTF-16 text"),
    ("run a folder", [folder("run.trec")], "beyond/significance", "is a directory"),
    ("trade-off of nothing", [gone("speed.csv")], "disret.sweep.tradeoff", "no encoder in common"),
    ("trade-off of scores twice", [], "disret.sweep.tradeoff --speed scores.csv", "another table"),
    ("words missing", [gone("wordnet/data.adv")], "beyond/texts", "data.adv"),
]  # fmt: skip

ARGUMENTS: list[Case] = [
    (command, [], command, says)
    for command, says in (
        ("distill --layers 9", "the model has layers 0 to 3"),
        ("distill --layers 0 0", "twice"),
        ("distill --layers -1", "layers"),
        ("distill --layers", "expected at least one argument"),
        ("distill --layers one", "invalid int value"),
        ("distill --layers 0 99999999999999999999", "the model has layers 0 to 3"),
        ("distill --init-with static", "a static student has none"),
        ("distill --init-with none", "cannot load the model"),
        ("distill --teacher none", "cannot load the model"),
        ("distill --teacher 'a b/c d/e'", "cannot load the model"),
        ("distill --teacher ../../../etc", "cannot load the model"),
        ("distill --output /proc/new", "cannot write to /proc/new"),
        ("distill --output train.tsv/new", "cannot write to"),
        ("distill --output train.tsv", "train.tsv exists and is not a model"),
        ("distill --output teacher --overwrite", "was not made by distill.py"),
        ("distill --output . --overwrite", "exists and is not a model"),
        ("distill --output student", "student exists: name another output"),
        ("distill --output student --resume", "was made with another"),
        ("distill --output student --overwrite --teacher student", "is an input of this run"),
        ("distill --output " + "x" * 300, "File name too long"),
        ("distill --output new --resume --overwrite", "not allowed with argument"),
        ("distill --train-batch-size 0", "must be positive, got 0"),
        ("distill --train-batch-size -4", "must be positive"),
        ("distill --train-batch-size 1e3", "expected a whole number"),
        ("distill --train-batch-size many", "expected a whole number"),
        ("distill --train-batch-size " + "9" * 5000, "--train-batch-size"),
        ("distill --eval-batch-size 0", "must be positive"),
        ("distill --max-seq-length 0", "must be positive"),
        ("distill --max-queries 0", "must be positive"),
        ("distill --num-epochs -1", "must not be negative"),
        ("distill --presentations 0", "must be positive"),
        ("distill --presentations 9 --num-epochs 1", "not allowed with argument"),
        ("distill --eval-steps 0", "must be positive"),
        ("distill --warmup-steps -1", "must not be negative"),
        ("distill --adamw-lr nan", "must be positive, got nan"),
        ("distill --adamw-lr inf", "must be positive, got inf"),
        ("distill --adamw-lr 0", "must be positive"),
        ("distill --adamw-lr -1", "must be positive"),
        ("distill --adamw-lr high", "expected a number"),
        ("distill --adamw-lr 1e999", "must be positive"),
        ("distill --adamw-eps nan", "must be positive"),
        ("distill --seed -1", "must be from 0"),
        ("distill --seed 4294967296", "must be from 0"),
        ("distill --loss cosine", "invalid choice"),
        ("distill --recipe worst", "invalid choice"),
        ("distill --projection step", "invalid choice"),
        ("distill --teacher-dtype int8", "invalid choice"),
        ("distill --device meta", "meta"),
        ("distill --device gpu", "gpu"),
        ("distill --device cuda:99", "the device cuda cannot be used"),
        ("distill --mirror none", "neither a directory nor an http address"),
        ("distill --mirror ftp://host", "neither a directory nor an http address"),
        ("distill --mirror train.tsv", "neither a directory nor an http address"),
        ("distill --mirror http://127.0.0.1:9 --valid-queries", "expected at least one"),
        ("distill --adapt none", "no data set or directory is called 'none'"),
        ("distill --truncate-dim 99", "the model has 32 dimensions, so 99 cannot be kept"),
        ("distill --truncate-dim 0", "must be positive"),
        ("distill --teacher http://127.0.0.1:9/v1 --init-with wide", "names no model"),
        ("distill --teacher http://127.0.0.1:9/v1#m --service-option dimensions", "KEY=VALUE"),
        ("distill --service-option dimensions=8", "teacher is no service"),
        ("distill --words 9", "for a static student alone"),
        ("distill --vocabulary none --init-with static", "a static student has none"),
        ("distill --epochs 3", "did you mean --num-epochs?"),
        ("distill extra", "unrecognized arguments: extra"),
        ("distill --queries hub:", "hub: names no data set of the hub; write hub:NAME"),
        ("distill --queries train.tsv hub:a//b#q", "hub:a//b#q names no data set of the hub"),
        ("distill --queries hub:a/b#q", "hub:a/b#q cannot be read: HF_HUB_OFFLINE is set"),
        ("distill --valid-queries hub:a/b#", "hub:a/b# names no data set of the hub"),
        ("distill --valid-queries hub:a/b:dev#q", "hub:a/b:dev#q cannot be read: HF_HUB_OFFLINE"),
        ("beyond/publish --push-to-hub ok", "HF_HUB_OFFLINE is set"),
        ("benchmark --datasets", "expected at least one argument"),
        ("benchmark --datasets scifakt", "did you mean scifact?"),
        ("benchmark --datasets none/", "no data set or directory"),
        ("benchmark --datasets scifact --mirror none", "neither a directory nor"),
        ("benchmark --datasets scifact --mirror teacher", "the mirror has no"),
        ("benchmark --datasets scifact --mirror http://127.0.0.1:9", "cannot reach"),
        ("benchmark --k-values 0", "must be positive"),
        ("benchmark --k-values ten", "expected a whole number"),
        ("benchmark --output teacher", "teacher is a directory"),
        ("benchmark --output x.json", "--output is a CSV table"),
        ("benchmark --output train.tsv/x.csv", "cannot write to"),
        ("benchmark --output /proc/x.csv", "cannot write to"),
        ("benchmark --output " + "x" * 300 + ".csv", "File name too long"),
        ("benchmark --save-runs train.tsv", "cannot write to"),
        ("benchmark --score-function cosine", "invalid choice"),
        ("beyond/approximate --extension hnsw", "FAISS makes no index 'hnsw'"),
        ("beyond/approximate --extension SQ8 --search-parameters nprobe", "'nprobe' is not NAME="),
        ("beyond/approximate --search-parameters nprobe=4", "--extension --index is required"),
        ("beyond/approximate --extension SQ8 --threads 0", "must be from 1 to 1024"),
        ("beyond/approximate --index none.faiss", "no file none.faiss"),
        ("benchmark --index-dtype int8", "invalid choice"),
        ("benchmark --batch-size 0", "must be positive"),
        ("benchmark --query-encoder none", "cannot load the model 'none'"),
        ("benchmark --query-encoder", "expected at least one"),
        ("benchmark --document-encoder none", "cannot load the model 'none'"),
        ("benchmark --query-encoder student@tensorrt", "cannot load the model"),
        ("benchmark --index none.faiss", "no file none.faiss"),
        ("benchmark --index train.tsv", "train.tsv"),
        ("benchmark --ids train.tsv", "--ids are of an --index"),
        ("benchmark --extension hnsw", "FAISS makes no index 'hnsw'"),
        ("benchmark --extension HNSW8 --index x", "not allowed with argument"),
        ("benchmark --document-encoder http://127.0.0.1:9/v1", "names no model"),
        ("benchmark --index-type int8", "did you mean --index-dtype?"),
        ("benchmark --device meta", "meta"),
        ("ispeed --encoders", "expected at least one argument"),
        ("ispeed --encoders none", "cannot load the model"),
        ("ispeed --datasets none", "no data set or directory"),
        ("ispeed --batch-sizes 0", "must be positive"),
        ("ispeed --num-runs 0", "must be positive"),
        ("ispeed --threads 0", "must be from 1 to 1024"),
        ("ispeed --threads 100000", "must be from 1 to 1024"),
        ("ispeed --max-sentences 0", "must be positive"),
        ("ispeed --dtype int4", "invalid choice"),
        ("ispeed --output teacher", "teacher is a directory"),
        ("ispeed --device meta", "meta"),
        ("sweep --jobs 0", "must be from 1 to 1024"),
        ("sweep --jobs " + "9" * 40, "must be from 1 to 1024"),
        ("sweep --datasets none", "no data set or directory"),
        ("sweep --teacher none", "cannot load the model"),
        ("sweep --others none", "cannot load the model"),
        ("sweep --others wide:9", "so there is no 9"),
        ("sweep --others wide:a", "expected layers such as 0,5"),
        ("sweep --others wide wide", "two students would be called"),
        ("sweep --output train.tsv", "cannot write to"),
        ("sweep --output teacher/x -- --bad-flag", "distill.py ended with status 2"),
        ("disret.serve.export --output teacher", "teacher holds another model"),
        ("disret.serve.export --queries none.txt", "no file none.txt"),
        ("beyond/significance --dataset none", "no data set or directory"),
        ("beyond/significance --split dev", "has no split 'dev'"),
        ("beyond/texts x y z --w", "unrecognized arguments"),
        ("disret.data.queries --mirror none", "neither a directory nor"),
    )
]

ENVIRONMENT: list[Case] = [
    ("mirror missing", [env(DISRET_MIRROR="none")], "benchmark", "neither a directory nor"),
    ("mirror a file", [env(DISRET_MIRROR="train.tsv")], "distill", "neither a directory nor"),
    ("GPU out of sight", [env(CUDA_VISIBLE_DEVICES="0")], "distill --device cuda:3", "cuda:3"),
    ("GPU not there", [env(CUDA_VISIBLE_DEVICES="")], "benchmark --device cuda", "cuda"),
]  # fmt: skip

STATE: list[Case] = [
    ("index unwritable", [gone(INDEX), rights(Path(INDEX).parent.as_posix(), 0o555)],
     "benchmark --query-encoder other", "Permission denied"),
    ("index a file", [gone(INDEX), text(INDEX, "x")], "benchmark --query-encoder other",
     "is in the way of a folder"),
    ("index shard a folder", [gone(f"{INDEX}/shard-00000.faiss"),
                              folder(f"{INDEX}/shard-00000.faiss")],
     "benchmark --query-encoder other", "shard-00000.faiss"),
    ("downloads a file", [gone("home/downloads"), text("home/downloads", "x")], "distill",
     "home/downloads"),
    ("downloads unwritable", [gone("home/downloads/tokens"), gone("home/downloads/embeddings"),
                              rights("home/downloads", 0o555)], "distill", "Permission denied"),
    ("raw a file", [gone("home/benchmarks/raw"), text("home/benchmarks/raw", "x")],
     "benchmark --datasets scifact --mirror teacher", "home/benchmarks/raw"),
    ("embeddings a folder", [lambda _: [shutil.rmtree("home/downloads/embeddings")],
                             text("home/downloads/embeddings", "x")], "distill", "embeddings"),
    ("output folder unwritable", [folder("place"), rights("place", 0o555)],
     "distill --output place/new", "cannot write to"),
    ("table's folder unwritable", [folder("place"), rights("place", 0o555)],
     "benchmark --output place/x.csv", "cannot write to"),
    ("output a pipe", [fifo("new")], "distill", "new exists and is not a model"),
    ("unfinished", [folder("new.partial")], "distill", "holds an unfinished run"),
    ("unfinished a file", [text("new.partial", "x")], "distill --resume", "new.partial"),
    ("unfinished of another", [text("new.partial/run.json", '{"arguments": {}, "inputs": {}}')],
     "distill --resume", "was made with another"),
    ("student's report a list", [text("student/distillation.json", "[]")],
     "distill --output student --resume", "was not made by distill.py"),
    ("student's report deep", [text("student/distillation.json", DEEP)],
     "distill --output student --resume", "student was not made by distill.py"),
    ("student's report lacks a curve",
     [edit("student/distillation.json", lambda r: r.pop("validation_mse"))],
     "distill --output student --resume --layers 0 3", "was not made by distill.py"),
    ("student's report half", [half("student/distillation.json")],
     "distill --output student --resume --layers 0 3", "was not made by distill.py"),
    ("router in the way", [folder("student-router")], "beyond/publish --router",
     "student-router exists and"),
    ("archive no archive", [text("mirror/beir/scifact.zip", "x"), text(
        "mirror/SHA256SUMS",
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  beir/scifact.zip\n")],
     "benchmark --datasets scifact --mirror mirror", "cannot be unpacked"),
    ("archive of another checksum", [text("mirror/beir/scifact.zip", "x")],
     "benchmark --datasets scifact --mirror mirror", "nothing was kept"),
    ("archive a folder", [folder("mirror/beir/scifact.zip")],
     "benchmark --datasets scifact --mirror mirror", "the mirror has no"),
    ("checksums a folder", [folder("mirror/SHA256SUMS"), text("mirror/beir/scifact.zip", "x")],
     "benchmark --datasets scifact --mirror mirror", "SHA256SUMS"),
    ("kept archive damaged", [text("home/downloads/beir/scifact.zip", "x")],
     "benchmark --datasets scifact", "cannot reach"),
    ("kept archive a folder", [folder("home/downloads/beir/scifact.zip")],
     "benchmark --datasets scifact", "scifact.zip"),
    ("MS MARCO's archive damaged", [text("home/downloads/msmarco/queries.tar.gz", b"\x1f\x8bxxxx")],
     "disret.data.queries", "cannot reach"),
    ("run files a file", [text("runs", "x")], "benchmark --save-runs runs", "cannot write to"),
    ("home a file", [lambda patch: patch.setattr(paths, "COLLECTIONS", Path("train.tsv/raw"))],
     "benchmark --datasets scifact", "train.tsv/raw cannot be used: Not a directory"),
]  # fmt: skip

CASES = {f"{kind}: {name}": case for kind, table in
         (("file", FILES), ("argument", ARGUMENTS), ("environment", ENVIRONMENT), ("state", STATE))
         for name, *case in table}  # fmt: skip


# --- The world ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A folder in which every command of GOOD works; made once, copied for every case."""
    place = tmp_path_factory.mktemp("worlds") / "world"
    save_encoder(place / "teacher")
    save_encoder(place / "other", layers=1, seed=2)
    save_encoder(place / "wide", layers=1, dense=16)
    write_collection(place / THINGS)
    (place / "train.tsv").write_text("".join(f"{i}\twhat is {i * i}\n" for i in range(64)))
    (place / "valid.txt").write_text("".join(f"who has seen {i}\n" for i in range(10)))
    (place / "run.trec").write_text("".join(f"q{i} Q0 d{i} 1 0.5 t\n" for i in range(12)))
    for kind in ("noun", "verb", "adj", "adv"):
        path = place / "wordnet" / f"data.{kind}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("00001740 03 n 01 entity 0 000 | that which is\n")
    return place


@pytest.fixture
def world(template, tmp_path, home, monkeypatch, call) -> Path:
    """A copy of the template, which is the working directory."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    if not (template / "speed.csv").exists():
        for command in MAKES_THE_WORLD:
            assert answer(call, command).status == 0, command
        shutil.copytree(tmp_path, template, dirs_exist_ok=True)
    return tmp_path


def answer(call, command: str):
    script, *words = shlex.split(command)
    return call(script, *shlex.split(GOOD[script]), *words)


def content(place: Path) -> dict[str, bytes | None]:
    """Every file and folder by its path; what is no regular file has no content."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
        if not path.name.endswith(".lock")
    }


def mend(world: Path, template: Path) -> None:
    """Put back what was broken; what the script has left stays."""
    wanted, found = content(template), content(world)
    for name, value in wanted.items():
        path = world / name
        if path.is_dir() and (template / name).is_dir():
            path.chmod(0o755)
        elif value != found.get(name, b"") or not path.is_file():
            remove(path)
            shutil.copy(template / name, path) if value is not None else path.mkdir()
        else:
            path.chmod(0o644)


@contextmanager
def bound_by_rights() -> Iterator[None]:
    """Take from this thread the capability of root to read and write in spite of a file's mode."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


@pytest.mark.parametrize(
    ("script", "output"),
    [("distill", "new"), ("ispeed", "speed.csv"), ("sweep", "sweep"),
     ("disret.serve.export", "student")],
)  # fmt: skip
def test_a_second_run_at_the_same_place_is_refused(world, call, script, output):
    before = content(world)
    with lock(Path(output)):
        outcome = answer(call, script)
    assert outcome.status == 2
    assert "another run is at work on" in outcome.err
    assert output in outcome.err
    assert {name: content(world)[name] for name in before} == before
    Path(output).with_name(f".{Path(output).name}.lock").unlink()
    if script != "sweep":  # which would take long
        assert answer(call, script).status == 0
        assert not [path for path in world.rglob("*.lock") if path.parent != Path("home")
                    and Path(output).name in path.name]  # given back  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(world, call, template, case):
    steps, command, says = case
    with pytest.MonkeyPatch.context() as patch:
        for step in steps:
            step(patch)
        before = content(world)
        with bound_by_rights():
            outcome = answer(call, command)
    script = command.split()[0]
    begin = re.compile(rf"(python -m )?{script.removeprefix('beyond/')}(\.py)?( \[rank \w+\])?: ")
    sentences = [line for line in outcome.err.splitlines() if begin.match(line)]
    assert outcome.status == 2, outcome.err[-600:]
    assert len(sentences) == 1
    sentence = sentences[0]
    assert outcome.err.endswith(f"{sentence}\n")
    assert says in sentence, sentence
    assert len(sentence) < 500
    assert "Traceback" not in outcome.err
    after = content(world)
    lost = [name for name, value in before.items() if after.get(name, "nothing") != value]
    assert not lost
    added = {name for name in after.keys() - before.keys() if after[name] or script != "sweep"}
    assert not [name for name in added if ".partial" in name]
    if added:
        mend(world, template)
        assert answer(call, script).status == 0
