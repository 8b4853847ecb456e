"""Passes, warm-up and checkpoints that fit the number of texts."""

import pytest

from disret.distil.recipes import schedule


@pytest.mark.parametrize(
    ("texts", "asked", "wanted"),
    [
        (1_000, {}, (100, 800, 80, 80)),
        (10_000, {}, (10, 790, 79, 79)),
        (110_732, {}, (5, 4330, 100, 433)),
        (808_731, {}, (5, 31595, 100, 2000)),
        (808_731, {"presentations": 404_365}, (0.5, 3160, 100, 316)),
        (100, {"num_epochs": 3}, (3, 3, 0, 1)),
        (100, {"num_epochs": 0}, (0, 0, 0, 1)),
        (100, {"num_epochs": 1, "warmup_steps": 1000, "eval_steps": 7}, (1, 1, 1000, 7)),
    ],
)
def test_what_suits_a_number_of_texts(texts, asked, wanted):
    assert schedule(texts, 128, **asked) == pytest.approx(wanted, rel=1e-3)
