"""Queries are tokenised once."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import tokenizer

from disret import paths
from disret.distil import training_data
from disret.distil.training_data import TrainingData, read_texts, tokenised_queries
from disret.encode.encoders import open_encoder
from disret.encode.models import load_encoder

QUERIES = [*("w" * (i % 23) + f" {i}" for i in range(50)), "long " * 60]


def test_a_second_call_reads_the_file(teacher):
    model = load_encoder(str(teacher), "cpu")
    first = tokenised_queries(model, QUERIES)
    (file,) = (paths.DOWNLOADS / "tokens").glob("*.npz")
    written = file.stat().st_mtime_ns
    again = tokenised_queries(model, QUERIES)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.columns["input_ids"], again.columns["input_ids"])
    np.testing.assert_array_equal(first.lengths, again.lengths)
    assert first.lengths.max() == model.max_seq_length


def test_damaged_tokens_are_made_anew(teacher, capsys):
    model = load_encoder(str(teacher), "cpu")
    first = tokenised_queries(model, QUERIES)
    (file,) = (paths.DOWNLOADS / "tokens").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-20])
    again = tokenised_queries(model, QUERIES)
    assert "making it anew" in capsys.readouterr().err
    np.testing.assert_array_equal(first.columns["input_ids"], again.columns["input_ids"])


def test_static_tokens_depend_on_where_texts_are_cut():
    found = []
    for length in (5, 9):
        backend = tokenizer()
        backend.backend_tokenizer.enable_truncation(length)
        model = SentenceTransformer(
            modules=[StaticEmbedding(backend, embedding_dim=8)], device="cpu"
        )
        found.append(tokenised_queries(model, QUERIES).lengths.max())
    assert found == [5, 9]


@pytest.mark.parametrize("change", ["prompt", "length", "queries"])
def test_what_decides_the_tokens_names_the_file(teacher, change):
    model = load_encoder(str(teacher), "cpu")
    first = tokenised_queries(model, QUERIES).columns["input_ids"]
    queries = QUERIES
    if change == "prompt":
        model.prompts["query"] = "x "
    elif change == "length":
        model.max_seq_length = 5
    else:
        queries = QUERIES[:-1]
    assert not np.array_equal(first, tokenised_queries(model, queries).columns["input_ids"])


def test_a_pass_shows_each_query_as_often_as_it_weighs(teacher):
    weights = np.repeat([1, 2.5, 0.5], [10, 30, 11])
    tokens = tokenised_queries(load_encoder(str(teacher), "cpu"), QUERIES)
    examples = TrainingData(tokens, np.zeros((51, 4), np.float32), weights)
    shown = np.bincount(examples.rows, minlength=51)
    assert (shown[:10] == 1).all()
    assert set(shown[10:40]) == {2, 3}
    assert set(shown[40:]) == {0, 1}
    assert len(examples.dataset()) == len(examples.lengths) == shown.sum()
    again = TrainingData(tokens, np.zeros((51, 4), np.float32), weights)
    np.testing.assert_array_equal(examples.rows, again.rows)
    batch = examples.collate([{"row": 49}, {"row": 3}])
    assert batch["label"].shape == (2, 4)


def test_texts_and_how_often_each_is_shown(teacher, queries, valid_queries, collection):
    encoder = open_encoder(str(teacher))

    def read(*weights, adapt=None):
        names = [(queries, weight) for weight in weights]
        return read_texts(encoder, names, [valid_queries], None, adapt, 1, None)

    plain = read(1.0)
    assert (len(plain.queries), len(plain.sentences), len(plain.valid)) == (200, 0, 20)
    assert plain.weights is None
    weighted = read(1.0, 2.5, adapt=str(collection))
    assert weighted.training == weighted.queries + weighted.sentences
    assert weighted.sentences
    np.testing.assert_array_equal(
        weighted.weights, [1.0] * 200 + [2.5] * 200 + [1.0] * len(weighted.sentences)
    )
    assert [source.weight for source in weighted.sources["training"]] == [1.0, 2.5]
    part = read(1.0, 0.5)
    assert 250 < len(part.queries) < 350
    assert part.weights is None


@pytest.mark.parametrize("few", [3, 30_000])
def test_few_texts_are_worth_a_word(teacher, queries, valid_queries, capsys, monkeypatch, few):
    monkeypatch.setattr(training_data, "FEW", few)
    encoder = open_encoder(str(teacher))
    texts = read_texts(encoder, [(queries, 1.0)], [valid_queries], None, None, 1, None)
    said = f"a student of {len(texts.training):,} texts learns little beyond them; `make texts`"
    assert (said in capsys.readouterr().err) == (len(texts.training) < few)


def test_sentences_that_are_validated_on_are_left_out(teacher, queries, collection, tmp_path):
    """In whatever case and with whatever spaces."""
    encoder, names = open_encoder(str(teacher)), [(queries, 1.0)]
    (tmp_path / "valid.txt").write_text("something else\n")
    valid = [tmp_path / "valid.txt"]
    sentences = read_texts(encoder, names, valid, None, str(collection), 1, None).sentences
    again = "  ".join(sentences[3].upper().split())
    (tmp_path / "valid.txt").write_text(f"something else\n{again}\n")
    left = read_texts(encoder, names, valid, None, str(collection), 1, None)
    assert left.valid == ["something else", again]
    assert left.sentences == [one for one in sentences if one.upper() != sentences[3].upper()]
    assert len(left.sentences) < len(sentences)
