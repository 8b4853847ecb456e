"""benchmark.py: scores, reuse, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, write_collection
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret import paths
from disret.tables import read_rows


@pytest.fixture
def student(teacher, tmp_path):
    from distill import init_from_layers

    model = init_from_layers(SentenceTransformer(str(teacher), device="cpu"), [0, 3])
    model.save_pretrained(str(tmp_path / "student"), create_model_card=False)
    return tmp_path / "student"


@pytest.fixture
def arguments(collection, teacher, tmp_path):
    return ["--datasets", collection, "--document-encoder", teacher, "--k-values", 3, 10,
            "--output", tmp_path / "r.csv", "--device", "cpu"]  # fmt: skip


def rows_of(arguments):
    return read_rows(arguments[arguments.index("--output") + 1])


def test_scores_are_those_of_sentence_transformers(call, arguments, teacher, collection):
    """Against the library's own evaluator, on the same texts."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    from disret.data.collection import Collection

    precise = ["--dtype", "float32", "--index-dtype", "float32"]
    outcome = call("benchmark", *arguments, *precise, "--score-function", "cos_sim")
    assert outcome.status == 0, outcome.err
    (row,) = rows_of(arguments)
    things = Collection("things", collection)
    qrels = things.qrels("test", things.queries())
    evaluator = InformationRetrievalEvaluator(
        things.queries(),
        {document.id: document.text for document in things.documents()},
        {query: set(relevant) for query, relevant in qrels.items()},
        ndcg_at_k=[3, 10], map_at_k=[10], mrr_at_k=[10], precision_recall_at_k=[3, 10],
        query_prompt="q ", corpus_prompt="d ", main_score_function="cosine",
    )  # fmt: skip
    wanted = evaluator(SentenceTransformer(str(teacher), device="cpu"))
    for ours, theirs in (("NDCG@3", "ndcg@3"), ("NDCG@10", "ndcg@10"), ("MRR@10", "mrr@10"),
                         ("Recall@3", "recall@3"), ("P@10", "precision@10")):  # fmt: skip
        assert float(row[ours]) == pytest.approx(wanted[f"cosine_{theirs}"], abs=2e-5)
    assert 0 < row["NDCG@10"] < 1
    assert row["retention"] == 100


def test_retention_of_a_student(call, arguments, student, teacher):
    outcome = call("benchmark", *arguments, "--query-encoder", student)
    assert outcome.status == 0, outcome.err
    of_teacher, of_student = rows_of(arguments)
    assert of_teacher["query_encoder"] == str(teacher)
    assert of_student["query_encoder"] == str(student)
    expected = 100 * of_student["NDCG@10"] / of_teacher["NDCG@10"]
    assert of_student["retention"] == pytest.approx(expected, abs=0.01)
    assert "retention %" in outcome.out
    assert list(of_student)[:4] == ["datetime", "dataset", "document_encoder", "query_encoder"]


def test_several_students_at_once(call, arguments, student, tmp_path):
    from tiny import save_encoder

    second = save_encoder(tmp_path / "second", layers=1, seed=3)
    outcome = call("benchmark", *arguments, "--query-encoder", student, second)
    assert outcome.status == 0, outcome.err
    rows = {row["query_encoder"]: row for row in rows_of(arguments)}
    assert len(rows) == 3
    lines = outcome.out.splitlines()
    for name in (student, second):
        (line,) = (line for line in lines if line.startswith(str(name)))
        assert line.split()[1:3] == [
            str(float(rows[str(name)]["NDCG@10"])), str(float(rows[str(name)]["retention"]))
        ]  # fmt: skip


@pytest.mark.export
def test_exports_are_scored_on_the_same_index(call, arguments, teacher, queries, tmp_path):
    student = shutil.copytree(teacher, tmp_path / "copy")
    backends = ["--query-encoder", student, f"{student}@onnx", f"{student}@int8"]
    missing = call("benchmark", *arguments, *backends)
    assert missing.status == 2
    assert "holds no exported query encoder" in missing.err
    assert call("disret.serve.export", student, "--queries", queries).status == 0
    precise = ["--dtype", "float32", "--index-dtype", "float32", "--score-function", "cos_sim"]
    outcome = call("benchmark", *arguments, *backends, *precise)
    assert outcome.status == 0, outcome.err
    rows = rows_of(arguments)
    assert [row["query_backend"] for row in rows] == ["torch", "export", "export-int8"]
    metrics = [
        name for name in rows[0] if name.split("@")[0] in ("NDCG", "MAP", "Recall", "P", "MRR")
    ]
    assert [rows[1][name] for name in metrics] == [rows[0][name] for name in metrics]
    assert rows[1]["retention"] == rows[0]["retention"]
    assert rows[1]["Recall@10"] > 0
    assert len({row["query_weights"] for row in rows}) == 3
    assert f"{student}@int8" in outcome.out
    again = call("benchmark", *arguments, *backends, *precise)
    assert again.status == 0
    assert rows_of(arguments) == rows

    with (student / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    other = call("benchmark", *arguments, "--query-encoder", f"{student}@onnx")
    assert other.status == 2
    assert "model.safetensors is not what" in other.err


def test_a_rerun_skips_what_is_done(call, arguments, student):
    call("benchmark", *arguments)
    again = call("benchmark", *arguments, "--query-encoder", student)
    assert again.err.count("already") == 1
    assert len(rows_of(arguments)) == 2
    more = call("benchmark", *arguments, "--k-values", 5, 10)
    assert "already" not in more.err  # another cut-off
    assert "NDCG@5" in rows_of(arguments)[-1]


def test_a_changed_collection_is_scored_again(call, arguments, collection):
    call("benchmark", *arguments)
    with (collection / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\td30\t1\n")
    assert "already" not in call("benchmark", *arguments).err
    assert len(rows_of(arguments)) == 2


def test_another_maximum_length_is_scored_again(call, arguments, teacher, tmp_path):
    model = SentenceTransformer(str(teacher), device="cpu")
    model.max_seq_length = 8
    model.save_pretrained(str(tmp_path / "short"), create_model_card=False)
    call("benchmark", *arguments)
    arguments[arguments.index("--document-encoder") + 1] = tmp_path / "short"
    call("benchmark", *arguments)
    long, short = rows_of(arguments)
    assert long["document_weights"] == short["document_weights"]
    assert (long["document_max_length"], short["document_max_length"]) == ("64", "8")


def test_mrr_looks_at_ten_whatever_k_is(call, arguments):
    call("benchmark", *arguments)
    call("benchmark", *arguments, "--k-values", 1)
    at_ten, at_one = rows_of(arguments)
    assert at_ten["MRR@10"] == at_one["MRR@10"]


def test_parts_and_their_average(call, arguments, tmp_path):
    for number, forum in enumerate(("cats", "dogs")):
        write_collection(tmp_path / "forums" / forum, documents=50 + 20 * number)
    arguments[1] = tmp_path / "forums"
    outcome = call("benchmark", *arguments)
    assert outcome.status == 0, outcome.err
    cats, dogs, average = rows_of(arguments)
    names = [row["dataset"] for row in (cats, dogs, average)]
    assert names == ["forums/cats", "forums/dogs", "forums"]
    mean = (cats["NDCG@10"] + dogs["NDCG@10"]) / 2
    assert average["NDCG@10"] == pytest.approx(mean, abs=1e-5)
    assert average["documents"] == 120
    again = call("benchmark", *arguments)
    assert again.status == 0
    assert len(rows_of(arguments)) == 3


def test_own_document_is_not_a_hit(call, arguments, collection):
    """A query whose id is a document's: that document is ignored, and k others remain."""
    corpus = collection / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace('"d0"', '"q0"').replace('"title 0"', '""'))
    runs = collection.parent / "runs"
    outcome = call("benchmark", *arguments, "--save-runs", runs)
    assert outcome.status == 0, outcome.err
    lines = [line.split() for line in next(runs.iterdir()).read_text().splitlines()]
    hits = [line[2] for line in lines if line[0] == "q0"]
    assert len(hits) == 10
    assert "q0" not in hits


def test_runs_give_the_same_scores(call, arguments, collection):
    import pytrec_eval

    from disret.data.collection import Collection

    runs = collection.parent / "runs"
    call("benchmark", *arguments, "--save-runs", runs)
    (file,) = runs.iterdir()
    assert file.name.startswith("things.test.")
    assert "teacher.torch.dot." in file.name
    assert file.name.endswith("-float16.top10.trec")
    with file.open() as stream:
        run = pytrec_eval.parse_run(stream)
    things = Collection("things", collection)
    qrels = things.qrels("test", things.queries())
    scores = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    mean = np.mean([query["ndcg_cut_10"] for query in scores.values()])
    assert rows_of(arguments)[0]["NDCG@10"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("where", ["corpus.jsonl", "queries.jsonl"])
def test_an_id_with_a_space_stands_in_no_run_file(call, arguments, collection, where):
    """Refused before anything is embedded; without run files it may be any line."""
    for path in (collection / where, collection / "qrels" / "test.tsv"):
        path.write_text(path.read_text().replace("d7", "d 7").replace("q7", "q\u00a07"))
    outcome = call("benchmark", *arguments, "--save-runs", collection.parent / "runs")
    assert outcome.status == 2
    assert "has a space, so it cannot stand in a TREC run file" in outcome.err
    assert not list((collection.parent / "home").rglob("*.faiss"))
    assert call("benchmark", *arguments).status == 0


@pytest.mark.torchrun
@pytest.mark.parametrize("extra", [pytest.param([], marks=pytest.mark.long), ["--query-encoder"]])
def test_two_processes_give_the_scores_of_one(script, arguments, tmp_path, student, extra):
    """torchrun shares out the shards of the index and of the search."""
    arguments[1] = write_collection(tmp_path / "many", documents=5000)
    arguments += ["--save-runs", tmp_path / "one", *extra, *([student] if extra else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are rounded by number of threads
    outcome = script("benchmark", *arguments, env=environment)
    assert outcome.status == 0, outcome.err
    one = rows_of(arguments)
    (folder,) = (path for path in (paths.INDEXES / "many").iterdir() if path.is_dir())
    folder.rename(tmp_path / "of one")
    arguments[arguments.index("--output") + 1] = tmp_path / "two.csv"
    arguments[arguments.index("--save-runs") + 1] = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               str(ROOT / "benchmark.py"), *map(str, arguments)]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    two = rows_of(arguments)
    assert [{**row, "datetime": ""} for row in two] == [{**row, "datetime": ""} for row in one]
    files = {path.name: path.read_bytes() for path in (tmp_path / "of one").iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert sum(name.endswith(".faiss") for name in files) == 3
    assert result.stderr.count("index many, 1 of 2 processes:   0%|") == 1  # one progress bar
    for file in (tmp_path / "one").iterdir():
        hits, theirs = (
            [line.split()[:4] for line in path.read_text().splitlines()]
            for path in (file, tmp_path / "two" / file.name)
        )
        assert hits == theirs


def test_precisions(call, arguments):
    """Scores differ by rounding, and each precision has an index and a row of its own."""
    for dtype, index_dtype in (("float32", "float32"), ("float32", "float16"), ("auto", "float16")):
        call("benchmark", *arguments, "--dtype", dtype, "--index-dtype", index_dtype)
    exact, *others = rows_of(arguments)
    assert (exact["dtype"], exact["index_dtype"]) == ("float32", "float32")
    for row in others:
        assert row["NDCG@10"] == pytest.approx(exact["NDCG@10"], abs=0.1)
    assert len([path for path in (paths.INDEXES / "things").iterdir() if path.is_dir()]) >= 2


def test_stages_are_reported(call, arguments):
    call("benchmark", *arguments, "--mirror", arguments[1].parent)
    report = arguments[arguments.index("--output") + 1].with_suffix(".json")
    (run,) = json.loads(report.read_text())
    timings = {stage["stage"]: stage for stage in run["stages"]}
    assert list(timings) == ["download", "check corpus", "read", "tokenise", "encode", "write",
                            "tokenise queries", "encode queries", "search", "score"]  # fmt: skip
    for name in ("read", "encode", "write"):
        assert timings[name]["items"] == 60
    assert timings["encode"]["padding_percent"] is not None
    assert timings["search"]["items"] == timings["score"]["items"] == 12
    assert run["processes"] == 1
    assert "torch" in run["versions"]
    assert "mirror" not in run["arguments"]
    call("benchmark", *arguments)
    assert len(json.loads(report.read_text())) == 2


def test_another_json_beside_the_output_is_refused(call, arguments, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    outcome = call("benchmark", *arguments)
    assert outcome.status == 2
    assert "r.json exists and is not a list of runs" in outcome.err


def test_empty_corpus(call, arguments, collection):
    for content, said in (("", "is empty"), ("\n\n", "has no documents")):
        (collection / "corpus.jsonl").write_text(content)
        outcome = call("benchmark", *arguments)
        assert outcome.status == 2
        assert f"corpus.jsonl {said}" in outcome.err
    assert not list(paths.INDEXES.rglob("manifest.json"))


def test_runs_from_any_directory(script, arguments, tmp_path):
    outcome = script("benchmark", *arguments, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "NDCG@10" in outcome.out


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--datasets", "sci-fact"], "did you mean scifact"),
        (["--split", "dev"], "no split 'dev'; it has: test"),
        (["--k-values", 0], "--k-values: must be positive, got 0"),
        (["--batch-size", 0], "--batch-size: must be positive, got 0"),
        (["--output", "/proc/nothing/r.csv"], "cannot write"),
        (["--output", "/tmp"], "is a directory"),
        (["--output", "r.json"], "--output is a CSV table"),
        (["--dtype", "int8"], "invalid choice"),
        (["--document-encoder", "no-such/model"], "HF_HUB_OFFLINE"),
        (["--query-encoder", "no-such/model"], "HF_HUB_OFFLINE"),
        (["--mirror", "no/such/mirror"], "neither a directory"),
        (["--device", "cuda"], "the device cuda cannot be used"),
    ],
)
def test_bad_arguments(call, arguments, extra, reason):
    import torch

    if "cuda" in extra and torch.cuda.is_available():
        pytest.skip("a CUDA device is present")
    outcome = call("benchmark", *arguments, *extra)
    assert outcome.status == 2
    assert reason in outcome.err
    assert "Traceback" not in outcome.err
    assert not paths.INDEXES.exists()


def test_student_of_another_dimension(call, arguments, tmp_path):
    other = save_encoder(tmp_path / "other", dense=16)
    outcome = call("benchmark", *arguments, "--query-encoder", other)
    assert outcome.status == 2
    assert "gives 16 dimensions" in outcome.err


def test_broken_student(call, arguments, student):
    """A student with NaN in its weights is named."""
    import torch

    broken = SentenceTransformer(str(student), device="cpu")
    torch.nn.init.constant_(broken.transformers_model.embeddings.word_embeddings.weight, torch.nan)
    broken.save_pretrained(str(student), create_model_card=False)
    outcome = call("benchmark", *arguments, "--query-encoder", student)
    assert outcome.status == 2
    assert "the encoder gives values that are not numbers for 'thing 0" in outcome.err
    assert not rows_of(arguments)  # nothing had been searched for


def test_another_table_is_not_extended(call, arguments, tmp_path):
    (tmp_path / "r.csv").write_text("name,value\na,1\n")
    outcome = call("benchmark", *arguments)
    assert outcome.status == 2
    assert "r.csv is another table: it has no column dataset" in outcome.err
    assert (tmp_path / "r.csv").read_text() == "name,value\na,1\n"
    assert not paths.INDEXES.exists()


def test_empty_documents_are_counted(call, arguments, collection):
    with (collection / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "e1", "text": ""}\n{"_id": "e2", "text": " "}\n')
    outcome = call("benchmark", *arguments)
    assert outcome.status == 0
    assert "things: 2 documents are empty." in outcome.err


@pytest.mark.parametrize("line", ["{broken", '{"text": "x"}', '{"_id": "d1", "text": "x"}'])
def test_bad_corpus(call, arguments, collection, line):
    with (collection / "corpus.jsonl").open("a") as file:
        file.write(line + "\n")
    outcome = call("benchmark", *arguments)
    assert outcome.status == 2
    assert "corpus.jsonl, " in outcome.err and " 61: " in outcome.err
    assert not list(paths.INDEXES.rglob("*.faiss"))


def test_judgments_of_nothing_known(call, arguments, collection):
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nx\ty\t1\n")
    outcome = call("benchmark", *arguments)
    assert outcome.status == 2
    assert "no judgment of a known query" in outcome.err
    assert not paths.INDEXES.exists()  # found before the documents were encoded


def test_judgments_of_unknown_documents(call, arguments, collection):
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ty\t1\n")
    outcome = call("benchmark", *arguments)
    assert outcome.status == 2
    assert "no judgment of a known document" in outcome.err
    assert not list(paths.INDEXES.rglob("*.faiss"))  # found before the documents were encoded


@pytest.mark.long
@pytest.mark.real
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("dtype", "index_dtype", "dataset", "published", "tolerance"),
    [("float32", "float32", "nfcorpus", 0.3159, 0.0005),
     ("auto", "float16", "scifact", 0.6451, 0.002)],
)  # fmt: skip
def test_published_scores_of_minilm(
    call,
    real_teacher,
    real_mirror,
    tmp_path,
    monkeypatch,
    dtype,
    index_dtype,
    dataset,
    published,
    tolerance,
):
    """all-MiniLM-L6-v2's published nDCG@10, over an index that later runs of this test reuse."""
    monkeypatch.setattr(paths, "COLLECTIONS", ROOT / "benchmarks" / "raw")
    monkeypatch.setattr(paths, "INDEXES", ROOT / "benchmarks" / "faiss")
    outcome = call(
        "benchmark", "--datasets", dataset, "--document-encoder", real_teacher,
        "--score-function", "cos_sim", "--mirror", real_mirror, "--output", tmp_path / "r.csv",
        "--dtype", dtype, "--index-dtype", index_dtype,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (row,) = read_rows(tmp_path / "r.csv")
    assert row["NDCG@10"] == pytest.approx(published, abs=tolerance)
