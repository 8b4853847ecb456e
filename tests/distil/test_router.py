"""Students of every kind load with sentence-transformers alone and score the same."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas
import pytest
from sentence_transformers import SentenceTransformer

KINDS = {"layers": ["--layers", 0, 3], "static": ["--init-with", "static", "--adamw-lr", 1e-3]}
# Nothing of this project is imported, and nothing of it can be: the folder is another.
ALONE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = ["what is number 4", "thing 5 green"]
print(json.dumps([model.encode_query(texts).tolist(), model.encode_document(texts).tolist()]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_alone_and_joined(call, kind, teacher, queries, valid_queries, collection, tmp_path, home):
    student = tmp_path / "student"
    arguments = [
        "--teacher", teacher, *KINDS[kind], "--queries", queries, "--valid-queries", valid_queries,
        "--output", student, "--train-batch-size", 16, "--warmup-steps", 2, "--device", "cpu",
    ]  # fmt: skip
    made = call("distill", *arguments, "--recipe", "best", "--num-epochs", 2, "--router")
    assert made.status == 0, made.err
    report = json.loads((student / "distillation.json").read_text())
    before, *after = (point["mse"] for point in report["validation_mse"])
    assert min(after) < before

    embeddings = {}
    for folder in (student, tmp_path / "student-router"):
        result = subprocess.run(
            [sys.executable, "-c", ALONE, str(folder)],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        embeddings[folder.name] = np.array(json.loads(result.stdout.splitlines()[-1]))
    texts = ["what is number 4", "thing 5 green"]
    of_teacher = SentenceTransformer(str(teacher), device="cpu").encode_document(texts)
    np.testing.assert_allclose(embeddings["student"][0], embeddings["student-router"][0], atol=1e-5)
    np.testing.assert_allclose(embeddings["student-router"][1], of_teacher, atol=1e-5)

    common = ["--datasets", collection, "--score-function", "cos_sim", "--dtype", "float32",
              "--output", tmp_path / "scores.csv", "--device", "cpu"]  # fmt: skip
    for folder in ("student", "student-router"):
        scored = call("benchmark", *common, "--document-encoder", teacher,
                      "--query-encoder", tmp_path / folder)  # fmt: skip
        assert scored.status == 0, scored.err
    table = pandas.read_csv(tmp_path / "scores.csv").set_index("query_encoder")
    alone, joined = (table.loc[str(tmp_path / name)] for name in ("student", "student-router"))
    for metric in [name for name in table.columns if "@" in name]:
        assert alone[metric] == joined[metric]

    # The scores go into the card, and a finished student is left as it is.
    written = (student / "model.safetensors").stat().st_mtime_ns
    assert "Not scored yet" in (student / "README.md").read_text()
    again = call("distill", *arguments, "--recipe", "best", "--num-epochs", 2, "--resume",
                 "--results", tmp_path / "scores.csv")  # fmt: skip
    assert again.status == 0, again.err
    card = (student / "README.md").read_text()
    assert re.search(rf"\| things +\| +{alone['NDCG@10']:.4f} \|", card)
    assert (student / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_in_the_routers_place_is_kept(call, teacher, queries, valid_queries, tmp_path):
    (tmp_path / "student-router").mkdir()
    (tmp_path / "student-router" / "notes.txt").write_text("mine")
    outcome = call("distill", "--teacher", teacher, "--layers", 0, "--queries", queries,
                   "--valid-queries", valid_queries, "--output", tmp_path / "student",
                   "--router")  # fmt: skip
    assert outcome.status == 2
    assert "student-router exists and is not a model" in outcome.err
    assert not (tmp_path / "student").exists()
    assert (tmp_path / "student-router" / "notes.txt").read_text() == "mine"
