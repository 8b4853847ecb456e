"""Which layers to try, for teachers of any depth."""

import pytest
from tiny import save_encoder

from disret.sweep.students import plan, subsets


def test_the_papers_subsets_are_those_of_twelve_layers():
    assert set(subsets(12)) == {
        (0,), (1,), (10,), (11,), (0, 10), (0, 11), (1, 10), (1, 11), (0, 1, 10, 11),
        (1, 4, 7, 10), (0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11),
    }  # fmt: skip


@pytest.mark.parametrize("depth", range(1, 30))
def test_subsets_fit_any_depth(depth):
    found = subsets(depth)
    for layers in found:
        assert len(layers) < depth
        assert all(0 <= layer < depth for layer in layers)
        assert list(layers) == sorted(set(layers))
    assert len(found) == 13 or depth < 6


def test_a_model_in_a_folder_with_a_colon(tmp_path):
    folder = str(save_encoder(tmp_path / "a:b", layers=3))
    whole, cut = plan(2, [folder, f"{folder}:0,2"])[-2:]
    assert (whole.other, whole.layers) == (folder, [])
    assert (cut.other, cut.layers) == (folder, ["0", "2"])
