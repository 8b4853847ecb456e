"""Batches of queries of similar length, in an order that a resumed run finds again."""

import numpy as np
import pytest
import torch
from conftest import as_rank_0_of
from datasets import Dataset

from disret.distil.training import QueryBatchSampler, for_short_texts
from disret.encode.models import load_encoder

LENGTHS = np.random.default_rng(0).integers(3, 60, 5003)


def sampler(**kwargs):
    dataset = Dataset.from_dict({"row": range(len(LENGTHS))})
    kwargs = {"drop_last": False, **kwargs}
    return QueryBatchSampler(dataset, LENGTHS, batch_size=16, seed=1, **kwargs)


def test_every_query_once_an_epoch():
    batches = list(sampler())
    assert sorted(row for batch in batches for row in batch) == list(range(len(LENGTHS)))
    assert len(batches) == len(sampler())
    assert [len(batch) for batch in batches] == [16] * 312 + [11]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32])
def test_no_batch_is_empty(count):
    dataset = Dataset.from_dict({"row": range(count)})
    found = QueryBatchSampler(dataset, LENGTHS[:count], batch_size=16, drop_last=False, seed=1)
    batches = list(found)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert len(batches) == len(found)
    assert all(batches)


def test_hardly_any_padding():
    batches = list(sampler())[:-1]
    padded = sum(LENGTHS[batch].max() * 16 for batch in batches)
    assert padded < 1.05 * sum(LENGTHS[batch].sum() for batch in batches)
    # Yet lengths come in no order.
    means = [LENGTHS[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = sampler(), sampler(), sampler()
    other.set_epoch(1)
    assert list(first) == list(again)
    assert list(first) != list(other)
    again.set_epoch(1)
    assert list(again) == list(other)


def test_the_incomplete_batch_is_last_or_left_out():
    assert len(list(sampler(drop_last=True))) == len(sampler(drop_last=True)) == 312


def test_processes_share_the_batches_of_one(monkeypatch):
    """Two processes with batches of 8 take in a step what one takes with 16."""
    alone = list(sampler())
    as_rank_0_of(monkeypatch, 2)
    dataset = Dataset.from_dict({"row": range(len(LENGTHS))})
    shared = list(QueryBatchSampler(dataset, LENGTHS, batch_size=8, drop_last=True, seed=1))
    steps = [a + b for a, b in zip(shared[:-1:2], shared[1::2], strict=True)]
    assert steps == alone[:-1]


def test_the_order_of_the_queries_can_be_kept():
    rows = [row for batch in sampler(in_order=True) for row in batch]
    assert rows == list(range(len(LENGTHS)))


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_and_attention_during_training(teacher, dropout):
    model = load_encoder(str(teacher), "cpu")

    def embed() -> torch.Tensor:
        features = model.preprocess(["what is this", "and that"])
        return model.train()(features)["sentence_embedding"]

    calm = model.encode(["what is this", "and that"], convert_to_tensor=True)
    with for_short_texts(model, dropout):
        assert model[0].auto_model.config._attn_implementation == "eager"
        first, second = embed(), embed()
        assert first.requires_grad
        assert torch.equal(first, second) is not dropout
        if not dropout:
            torch.testing.assert_close(first.detach(), calm, atol=1e-5, rtol=0)
    assert model[0].auto_model.config._attn_implementation == "sdpa"
    assert not torch.equal(embed(), embed())
