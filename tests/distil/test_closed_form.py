"""Least squares: the maps are those that are asked for."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from disret.distil.closed_form import ridge, token_table

GENERATOR = np.random.default_rng(0)


def test_a_linear_map_is_found():
    states = GENERATOR.standard_normal((500, 12)).astype(np.float32) + 3
    weight = GENERATOR.standard_normal((7, 12)).astype(np.float32)
    bias = GENERATOR.standard_normal(7).astype(np.float32)
    found_weight, found_bias = ridge(states, states @ weight.T + bias)
    np.testing.assert_allclose(found_weight, weight, atol=1e-3)
    np.testing.assert_allclose(found_bias, bias, atol=1e-2)
    assert found_weight.dtype == found_bias.dtype == np.float32


def test_noise_asks_for_a_stronger_ridge():
    """With few texts and much noise, the chosen map is better on new texts than the barest."""
    weight = GENERATOR.standard_normal((5, 40))
    states = GENERATOR.standard_normal((60, 40)).astype(np.float32)
    targets = states @ weight.T + 8 * GENERATOR.standard_normal((60, 5))
    new = GENERATOR.standard_normal((2000, 40)).astype(np.float32)

    def error(found_weight, found_bias):
        return ((new @ found_weight.T + found_bias - new @ weight.T) ** 2).mean()

    bare = np.linalg.lstsq(np.c_[states, np.ones(60)], targets, rcond=None)[0]
    assert error(*ridge(states, targets)) < 0.9 * error(bare[:-1].T, bare[-1])


@pytest.mark.parametrize("count", [2, 5, 30])
def test_fewer_texts_than_states(count):
    states = GENERATOR.standard_normal((count, 64)).astype(np.float32)
    targets = GENERATOR.standard_normal((count, 8)).astype(np.float32)
    weight, bias = ridge(states, targets)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


def test_states_that_never_vary():
    weight, bias = ridge(np.ones((50, 4), np.float32), np.full((50, 3), 2, np.float32))
    np.testing.assert_allclose(np.ones(4) @ weight.T + bias, 2, atol=1e-5)


def test_a_layer_is_fitted_to_no_more_texts_than_it_needs(teacher, monkeypatch):
    import torch

    from disret.distil import closed_form
    from disret.encode.models import load_encoder

    monkeypatch.setattr(closed_form, "TEXTS", 30)
    body = load_encoder(str(teacher), "cpu")
    texts = [f"what is {i} of {i * i}" for i in range(70)]
    targets = 2 * body.encode_query(texts) + 1
    asked = []
    original = closed_form.BatchEncoder.encode_query
    monkeypatch.setattr(
        closed_form.BatchEncoder, "encode_query",
        lambda self, some: asked.append(len(some)) or original(self, some),
    )  # fmt: skip
    dense = torch.nn.Module()
    dense.linear = torch.nn.Linear(32, 32)
    closed_form.align(dense, body, texts, targets)
    assert asked == [24]
    found = dense.linear(torch.from_numpy(body.encode_query(texts))).detach().numpy()
    np.testing.assert_allclose(found, targets, atol=0.15)


def test_a_token_table_is_the_ridge_solution():
    counts = GENERATOR.poisson(0.3, (400, 30)).astype(np.float32)
    counts[:, 7] = 0  # a token that no text has
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    targets = GENERATOR.standard_normal((400, 6)).astype(np.float32)
    wanted = np.linalg.solve(shares.T @ shares + 0.5 * np.eye(30), shares.T @ targets)
    found = token_table(csr_array(shares), targets, 0.5)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert not found[7].any()
