"""A transformer with some of its layers: every family that distill.py supports."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import config, save_encoder

from disret.command_line import UserError
from disret.distil.layers import keep_layers
from distill import init_from_layers

FAMILIES = [
    "bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "modernbert", "qwen3", "t5",
]  # fmt: skip
TEXTS = ["what is a red thing", "x", "a much longer query about the old and the new things there"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    cache = {}

    def load(kind):
        if kind not in cache:
            cache[kind] = SentenceTransformer(str(save_encoder(folder / kind, kind)), device="cpu")
        return cache[kind]

    return load


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_layers_are_the_teacher(encoders, kind):
    teacher = encoders(kind)
    student = init_from_layers(teacher, [0, 1, 2, 3])
    np.testing.assert_array_equal(student.encode(TEXTS), teacher.encode(TEXTS))


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("layers", [[0, 3], [2, 1], [3]])
def test_saved_and_loaded_student_is_the_same(encoders, kind, layers, tmp_path):
    teacher = encoders(kind)
    student = init_from_layers(teacher, layers)
    before = student.encode(TEXTS)
    student.save_pretrained(str(tmp_path / "student"), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_array_equal(loaded.encode(TEXTS), before)
    assert loaded.transformers_model.config.num_hidden_layers == len(layers)
    assert not np.allclose(before, teacher.encode(TEXTS), atol=1e-3)


def test_layers_and_their_kinds_keep_the_given_order(encoders):
    teacher = encoders("qwen3").transformers_model
    student = keep_layers(teacher, [3, 0])
    for new, old in ((0, 3), (1, 0)):
        wanted = teacher.layers[old].state_dict()
        for name, value in student.layers[new].state_dict().items():
            assert torch.equal(value, wanted[name])
        assert student.layers[new].self_attn.layer_idx == new
    assert student.config.layer_types == ["sliding_attention", "full_attention"]
    assert teacher.config.num_hidden_layers == 4  # untouched


def test_skipping_layers_is_what_the_student_computes(encoders):
    """The student is the teacher with the middle layers left out of the forward pass."""
    teacher = encoders("bert")
    student = init_from_layers(teacher, [0, 3])
    pruned = init_from_layers(teacher, [0, 1, 2, 3])
    layers = pruned.transformers_model.encoder.layer
    pruned.transformers_model.encoder.layer = torch.nn.ModuleList([layers[0], layers[3]])
    np.testing.assert_array_equal(student.encode(TEXTS), pruned.encode(TEXTS))


def test_dense_and_prompts_are_kept(tmp_path):
    prompts = {"query": "q ", "document": "d "}
    folder = save_encoder(tmp_path / "dense", dense=48, prompts=prompts)
    teacher = SentenceTransformer(str(folder), device="cpu")
    student = init_from_layers(teacher, [1])
    assert student.get_embedding_dimension() == 48
    assert student.prompts == prompts


def test_shared_layers_are_refused(encoders):
    with pytest.raises(UserError, match="share"):
        init_from_layers(encoders("albert"), [0, 1])


@pytest.mark.parametrize(
    ("layers", "reason"), [([0, 4], "0 to 3"), ([1, 1], "twice"), ([-1], "-1")]
)
def test_wrong_layers_are_refused(layers, reason):
    import transformers

    model = transformers.AutoModel.from_config(config("bert", 4))
    with pytest.raises(UserError, match=reason):
        keep_layers(model, layers)
