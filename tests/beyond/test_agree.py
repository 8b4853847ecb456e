"""How far students agree with a teacher, of whom there is a service, a model or vectors."""

import json
import re
from itertools import compress

import faiss
import numpy as np
import pytest
from conftest import as_rank_0_of, write_collection
from embedding_service import KEY
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret import paths
from disret.data.queries import held_out
from disret.encode.service import FIXED_TEXTS
from disret.files import text_sha256
from disret.query_encoder import QueryEncoder
from disret.tables import read_rows

INDEX = ["--index", "documents.faiss", "--ids", "ids.txt", "--score-function", "cos_sim",
         "--output", "scores.csv", "--device", "cpu"]  # fmt: skip
LOG = ["--queries", "held-out.tsv"]


def test_from_a_service_to_an_export(call, owner, tmp_path):
    """The commands of the README, end to end."""
    made = call(
        "distill", "--teacher", f"{owner.address}#tiny", "--init-with",
        "small", "--queries", "log.tsv", "--valid-queries", "held-out.tsv", "--recipe", "best",
        "--warmup-steps", 5, "--num-epochs", 20, "--output", "student", "--device", "cpu",
    )  # fmt: skip
    assert made.status == 0, made.err
    assert call("disret.serve.export", "student", "--queries", "log.tsv").status == 0
    before = (tmp_path / "documents.faiss").read_bytes()
    teacher = ["--document-encoder", f"{owner.address}#tiny"]
    students = ["--query-encoder", "student", "student@onnx", "--worst", "worst"]
    outcome = call("beyond/agree", *INDEX, *LOG, *teacher, *students)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "documents.faiss").read_bytes() == before
    torch, export = read_rows(tmp_path / "scores.csv")
    assert (torch["dataset"], torch["split"]) == ("held-out.tsv", "log")
    assert (torch["documents"], torch["queries"]) == (400, 40)
    assert torch["index_dtype"].startswith("IndexHNSWFlat")
    assert 0.3 < torch["overlap@10"] <= 1, str(torch)
    assert torch["overlap@10 low"] <= torch["overlap@10"] <= torch["overlap@10 high"]
    assert torch["cosine"] > 0.7
    assert export["overlap@10"] == pytest.approx(torch["overlap@10"], abs=0.02)
    assert torch["retention"] is None
    header, _, first, second, compared, *meant, last = outcome.out.splitlines()
    assert re.split(r"  +", header.strip()) == [
        "query encoder", "overlap@10", "first hit", "rank-biased overlap", "centred cosine"
    ]  # fmt: skip
    assert re.match(rf"student +{torch['overlap@10']:.3f} ± 0\.\d+ ", first)
    assert second.startswith("student@onnx ")
    assert re.match(r"held-out\.tsv: overlap@10 of student@onnx is (higher|lower) ", compared)
    said = r"Students that found 0\.\d to \S+ of their teacher's ten best kept \S+ to \S+ % of its"
    assert all(re.match(said, line) for line in meant)
    assert meant
    assert last == "Every measure is in scores.csv."
    (worst,) = (tmp_path / "worst").glob("*student.torch.md")
    assert "doc-" in worst.read_text()
    assert "who is" in worst.read_text()
    assert QueryEncoder.from_pretrained("student").encode(["who is 3"]).shape == (1, 32)
    # Nobody's key, and no query was sent twice.
    for path in [*tmp_path.rglob("*"), *paths.HOME.rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert len(owner.texts.keys() - set(FIXED_TEXTS)) == 940
    assert {n for text, n in owner.texts.items() if text not in FIXED_TEXTS} == {1}


@pytest.fixture
def kept(owner, teacher, tmp_path):
    """What is left of the service: vectors of the log's queries. No request goes out any more."""
    owner.close()
    texts = [line.split("\t")[1] for line in (tmp_path / "log.tsv").read_text().splitlines()]
    model = SentenceTransformer(str(teacher), device="cpu")
    np.savez("vectors.npz", texts=np.array(texts), embeddings=model.encode_query(texts))
    return texts


SMALL = ["--query-encoder", "small"]
VECTORS = ["--document-encoder", "vectors.npz"]


def test_long_queries_are_left_out(call, owner, tmp_path):
    """Of a log whose student was trained without them, the queries that it held out remain."""
    owner.longest = 100
    lines = (tmp_path / "log.tsv").read_text().splitlines()[:200]
    lines += [f"long-{n}\t{n} {'long ' * 30}" for n in range(100)]
    (tmp_path / "log.tsv").write_text("".join(f"{line}\n" for line in lines))
    teacher = f"{owner.address}#tiny"
    made = call("distill", "--teacher", teacher, "--init-with", "small", "--queries", "log.tsv",
                "--long-texts", "skip", "--recipe", "best", "--num-epochs", 0, "--output",
                "student", "--device", "cpu")  # fmt: skip
    assert made.status == 0, made.err
    outcome = call("beyond/agree", *INDEX, "--queries", "log.tsv", "--document-encoder", teacher,
                   "--query-encoder", "student")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "of them are compared, as a student was trained on the others" in outcome.err
    texts = [line.split("\t")[1].strip() for line in lines]
    out = [text for text in compress(texts, held_out(texts)) if len(text) <= 100]
    assert re.search(r"\d queries are left out, as the teacher gives no vector", outcome.err)
    assert [row["queries"] for row in read_rows(tmp_path / "scores.csv")] == [len(out)]


@pytest.mark.parametrize("given", [[], ["--valid-queries", "valid.txt"]])
def test_a_log_beside_other_texts(call, owner, tmp_path, given):
    """What was held out of all is what is compared, of that log, though it has grown since."""
    (tmp_path / "more.txt").write_text("".join(f"sentence {n}\n" for n in range(300)))
    (tmp_path / "valid.txt").write_text("quite another\n")
    teacher = f"{owner.address}#tiny"
    made = call("distill", "--teacher", teacher, "--init-with", "small", "--queries", "log.tsv",
                "more.txt@0.5", *given, "--recipe", "best", "--num-epochs", 0, "--output",
                "student", "--device", "cpu")  # fmt: skip
    assert made.status == 0, made.err
    with (tmp_path / "log.tsv").open("a") as log:
        log.write("1000\ta new one\n")
    outcome = call("beyond/agree", *INDEX, "--queries", "log.tsv", "--document-encoder", teacher,
                   "--query-encoder", "student")  # fmt: skip
    assert outcome.status == 0, outcome.err
    (row,) = read_rows(tmp_path / "scores.csv")
    if given:
        assert "student was trained on this log, and may agree less on others" in outcome.err
        assert row["queries"] == 901
    else:
        assert f"{row['queries']} of them are compared" in outcome.err
        assert row["queries"] < 50


def test_vectors_take_the_place_of_the_service(call, kept, teacher, tmp_path):
    """Agreement is the same with the encoder and with its vectors of the queries."""
    (tmp_path / "some.txt").write_text("".join(f"{text}\n" for text in kept[:50]))
    log = ["--queries", "some.txt", "--dtype", "float32"]
    for one in (VECTORS, ["--document-encoder", teacher]):
        outcome = call("beyond/agree", *INDEX, *log, *one, *SMALL)
        assert outcome.status == 0, outcome.err
    found, wanted = read_rows(tmp_path / "scores.csv")
    for name in ("overlap@10", "overlap@100", "rbo", "cosine", "squared_distance", "queries"):
        assert found[name] == pytest.approx(wanted[name], abs=2e-4)


def test_vectors_bring_a_log(call, kept, tmp_path):
    """Those that distill.py would validate on."""
    outcome = call("beyond/agree", *INDEX, *VECTORS, *SMALL, "--worst", "worst")
    assert outcome.status == 0, outcome.err
    (row,) = read_rows(tmp_path / "scores.csv")
    assert row["dataset"] == "vectors.npz"
    assert row["queries"] == held_out(kept).sum()
    assert list((tmp_path / "worst").glob("*.md"))


def test_from_a_spreadsheet_to_agreement(call, owner, tmp_path):
    """One log in CSV: what is held out of training is what is compared on, and the card says it."""
    texts = [line.split("\t")[1] for line in (tmp_path / "log.tsv").read_text().splitlines()]
    rows = [f'2026-01-{n % 28 + 1:02},"{text}, please",{n}\n' for n, text in enumerate(texts)]
    (tmp_path / "log.csv").write_text("date,search term,clicks\n" + "".join(rows))
    teacher = f"{owner.address}#tiny"
    made = call(
        "distill", "--teacher", teacher, "--init-with", "small", "--queries", "log.csv", "--recipe",
        "best", "--num-epochs", 2, "--output", "student", "--device", "cpu",
    )  # fmt: skip
    assert made.status == 0, made.err
    assert "log.csv, column search term: 900 queries, such as: 'what is 0, please'; " in made.err
    held = int(re.search(r"^(\d+) of them are held out, to validate on", made.err, re.M)[1])
    report = json.loads((tmp_path / "student/distillation.json").read_text())
    assert report["queries"] == {"training": 900 - held, "sentences": 0, "validation": held}
    assert call("disret.serve.export", "student", "--queries", "log.csv").status == 0
    students = ["--query-encoder", "student", "student@onnx"]
    outcome = call(
        "beyond/agree", *INDEX, "--queries", "log.csv", "--document-encoder", teacher, *students
    )
    assert outcome.status == 0, outcome.err
    assert f"{held} of them are compared, as a student was trained on the others" in outcome.err
    (torch, export) = read_rows(tmp_path / "scores.csv")
    assert (torch["dataset"], torch["queries"]) == ("log.csv", held)
    # The same queries for another student, which knows nothing of them: all.
    call("beyond/agree", *INDEX, "--queries", "log.csv", "--document-encoder", teacher, *SMALL)
    assert read_rows(tmp_path / "scores.csv")[-1]["queries"] == 900

    assert call("beyond/publish", "student", "--results", "scores.csv").status == 0
    card = (tmp_path / "student/README.md").read_text()
    assert "| started from | `small` and a layer by least squares |" in card
    low, high = torch["overlap@10 low"], torch["overlap@10 high"]
    shown = f"{torch['overlap@10']:.4f} ({low:.3f} to {high:.3f})"
    assert re.search(rf"\| log\.csv +\| student +\| {re.escape(shown)} ", card)
    assert re.search(rf"\| log\.csv +\| student@onnx +\| {export['overlap@10']:.4f} \(", card)
    assert f"{torch['centred cosine']:.4f} (" in card

    # A student of the first of those that are not held out, in a folder of an odd name.
    log = [f"{text}, please" for text in texts]
    first = [text for text, is_out in zip(log, held_out(log), strict=True) if not is_out][:50]
    report["arguments"]["max_queries"], report["log_sha256"] = 50, text_sha256(first)
    (tmp_path / "student/distillation.json").write_text(json.dumps(report))
    (tmp_path / "student").rename("stu@dent")
    few = ["--queries", "log.csv", "--max-queries", 3, "--query-encoder", "stu@dent@onnx"]
    outcome = call("beyond/agree", *INDEX, "--document-encoder", teacher, *few)
    assert f"{held} of them are compared, as a student was trained on the others" in outcome.err
    assert read_rows(tmp_path / "scores.csv")[-1]["queries"] == 3


def test_a_query_without_a_vector_is_named(call, kept, tmp_path):
    (tmp_path / "other.txt").write_text("who was that\nand that\n")
    outcome = call("beyond/agree", *INDEX, *VECTORS, *SMALL, "--queries", "other.txt")
    assert outcome.status == 2
    assert "no vector of 'who was that', and of 1 others" in outcome.err


def test_a_teacher_agrees_with_itself(call, owner, teacher, tmp_path):
    log = [*LOG, "--max-queries", 7, "--k-values", 3, 20]
    teachers = ["--document-encoder", teacher, "--query-encoder", teacher]
    outcome = call("beyond/agree", *INDEX, *log, *teachers)
    assert outcome.status == 0, outcome.err
    (row,) = read_rows(tmp_path / "scores.csv")
    assert row["queries"] == 7
    for name in ("overlap@3", "overlap@20", "rbo", "first", "first@10", "cosine"):
        assert row[name] == pytest.approx(1, abs=1e-4)
    assert "overlap@3" in outcome.out  # without a cut-off of ten


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_the_indexes_own_ranking_of_passages(call, owner, teacher, tmp_path, metric):
    """Several vectors have one number, and some are of other lengths than 1."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((400, 32), dtype=np.float32)
    index = faiss.IndexIDMap(faiss.IndexFlat(32, metric))
    index.add_with_ids(vectors, random.integers(0, 40, 400))
    faiss.write_index(index, str(tmp_path / "passages.faiss"))
    outcome = call(
        "beyond/agree", "--index", "passages.faiss", *LOG, "--document-encoder", teacher,
        "--query-encoder", teacher, "small", "--output", "scores.csv", "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    own, other = read_rows(tmp_path / "scores.csv")
    for name in ("overlap@10", "overlap@100", "rbo", "first", "first@10", "cosine"):
        assert own[name] == pytest.approx(1, abs=1e-4)
    assert other["overlap@10"] < 1
    assert own["score_function"] is None


def test_the_worst_show_texts(call, owner, teacher, tmp_path):
    collection = write_collection(tmp_path / "things", documents=400)
    (tmp_path / "ids.txt").write_text("".join(f"d{i}\n" for i in range(400)))
    worst = ["--worst", "worst", "--texts", collection]
    outcome = call("beyond/agree", *INDEX, *LOG, "--document-encoder", teacher, *SMALL, *worst)
    assert outcome.status == 0, outcome.err
    (path,) = (tmp_path / "worst").glob("held-out.tsv.log.small.torch.md")
    assert re.search(r"\| 1 \| (✓ )?d\d+: title \d+ thing \d+ ", path.read_text())
    scores = re.findall(r"Rank-biased overlap (.*)", path.read_text())
    assert len(scores) == 10
    assert scores == sorted(scores)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "has no queries of its own; name a log of queries"),
        (["--queries", "none.tsv"], "no file none.tsv"),
        (["--index", "none", *LOG], "no file none"),
        (["--index", "ids.txt", *LOG], "ids.txt cannot be read as a FAISS index"),
        (["--index", "wide.npy", *LOG], "64 dimensions"),
        (["--index", "few.npy", *LOG], "400 document ids"),
        (["--query-encoder", "narrow", *LOG], "narrow gives 16 dimensions"),
        (["--worst", "ids.txt", *LOG], "cannot write to"),
        (["--output", "log.tsv", *LOG], "another table"),
        (["--texts", "none", *LOG], "no data set or directory"),
    ],
)
def test_bad_arguments(call, owner, teacher, tmp_path, arguments, says):
    np.save(tmp_path / "wide.npy", np.ones((5, 64), np.float32))
    np.save(tmp_path / "few.npy", np.ones((5, 32), np.float32))
    save_encoder(tmp_path / "narrow", dense=16)
    base = [*INDEX, "--document-encoder", teacher, *SMALL]
    outcome = call("beyond/agree", *base, *arguments)
    assert outcome.status == 2, outcome.err
    assert says in outcome.err
    assert not (tmp_path / "scores.csv").exists()


def test_one_process_measures(call, owner, teacher, monkeypatch):
    as_rank_0_of(monkeypatch, 2)
    outcome = call("beyond/agree", *INDEX, *LOG, "--document-encoder", teacher, *SMALL)
    assert outcome.status == 2
    assert "by one process, without torchrun" in outcome.err
