"""Around the mean of a teacher whose vectors lie in a narrow cone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret.distil import centre
from disret.encode.batches import normalised
from disret.encode.embedding_cache import Rows
from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.retrieve.agreement import centred_cosines

TEXTS = [f"{a} {b} {c}" for a in "abcdefgh" for b in ("the", "and", "of") for c in "abcdefgh"]


def narrow(count, dimension=32, mean=3.0, seed=0):
    """Vectors of length 1 around a long mean."""
    chance = np.random.default_rng(seed)
    return normalised(chance.standard_normal((count, dimension)) + mean)


def rows_of(tmp_path, vectors):
    np.save(tmp_path / "vectors.npy", vectors)
    return Rows(np.load(tmp_path / "vectors.npy", mmap_mode="r"))


@pytest.fixture
def student(tmp_path):
    """Of 32 dimensions, without a layer behind its pooling."""
    save_encoder(tmp_path / "model")
    return load_encoder(str(tmp_path / "model"), "cpu").eval()


def test_rows_are_directions_from_the_mean(tmp_path, student):
    vectors = narrow(200)
    before = student.encode(TEXTS[:20])
    targets = centre.around_long_mean(student, rows_of(tmp_path, vectors))
    np.testing.assert_allclose(targets.mean, vectors.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(targets[:], normalised(vectors - targets.mean), atol=1e-6)
    # The student starts with the directions that its vectors had.
    np.testing.assert_allclose(
        student.encode(TEXTS[:20]), normalised(before - targets.mean), atol=1e-5
    )


def test_a_short_mean_changes_nothing(tmp_path, student):
    targets = rows_of(tmp_path, narrow(200, mean=0.0))
    before = student.encode(TEXTS[:20])
    assert centre.around_long_mean(student, targets) is targets
    np.testing.assert_array_equal(student.encode(TEXTS[:20]), before)


def test_the_mean_comes_back(tmp_path, student):
    vectors = narrow(400)
    targets = centre.around_long_mean(student, rows_of(tmp_path, vectors))
    directions = student.encode(TEXTS[:50])
    centre.put_mean_back(student, targets)
    step = centre.STRETCH * np.linalg.norm(vectors - targets.mean, axis=1).mean()
    expected = normalised(targets.mean + step * directions)
    np.testing.assert_allclose(student.encode(TEXTS[:50]), expected, atol=1e-5)


@pytest.mark.parametrize("start", ["static", "model"])
def test_a_student_of_narrow_vectors_and_its_export(call, home, tmp_path, start):
    """The whole way, from vectors that somebody has to an encoder without torch."""
    other = tmp_path / "other"
    save_encoder(other)
    words = sorted({word for text in TEXTS for word in text.split()})
    chance = np.random.default_rng(0)
    of_word = dict(zip(words, chance.standard_normal((len(words), 12)), strict=True))
    vectors = normalised(np.stack([sum(of_word[w] for w in t.split()) for t in TEXTS]) + 4)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 12)
    pq.write_table(pa.table({"text": TEXTS, "vector": column}), tmp_path / "vectors.parquet")
    how = ["static", "--vocabulary", other] if start == "static" else [other]
    made = call("distill", "--teacher", tmp_path / "vectors.parquet", "--init-with", *how,
                "--recipe", "best", "--presentations", 6000, "--output", tmp_path / "student",
                "--device", "cpu")  # fmt: skip
    assert made.status == 0, made.err
    report = json.loads((tmp_path / "student/distillation.json").read_text())
    model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    found = model.encode_query(TEXTS)
    assert np.linalg.norm(found.mean(axis=0)) > 0.8  # in the teacher's cone again
    assert report["centred_cosine"] > 0.6
    assert centred_cosines(vectors, found).mean() > 0.6
    (tmp_path / "queries.txt").write_text("\n".join(TEXTS))
    queries = ["--queries", tmp_path / "queries.txt"]
    assert call("disret.serve.export", tmp_path / "student", *queries).status == 0
    encoder = QueryEncoder.from_pretrained(tmp_path / "student")
    np.testing.assert_allclose(encoder.encode(TEXTS), found, atol=1e-5)
