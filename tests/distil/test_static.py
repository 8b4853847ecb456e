"""A student without layers starts where the teacher puts each token."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Normalize
from tiny import VOCABULARY, save_encoder

from disret.command_line import UserError
from disret.distil.static import feed_forward, student_of_tokens
from disret.encode.models import load_encoder


@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet", "qwen3"])
def test_a_word_of_one_token_starts_at_its_embedding(kind, tmp_path):
    prompts = {"query": "find q ", "document": "d "}
    teacher = load_encoder(str(save_encoder(tmp_path / "t", kind, prompts=prompts)), "cpu")
    teacher.tokenizer.backend_tokenizer.enable_padding(length=16)  # as all-MiniLM-L6-v2's file has
    static = student_of_tokens(teacher)[0]
    student = SentenceTransformer(modules=[static, Normalize()], device="cpu")
    words = ["a", "z", "7"]
    np.testing.assert_allclose(student.encode(words), teacher.encode_query(words), atol=1e-5)
    assert static.embedding.weight.shape == (len(VOCABULARY), 32)
    # Texts are cut where the teacher cuts them.
    assert len(static.preprocess(["a " * 100])["input_ids"]) == teacher.max_seq_length
    assert len(static.tokenizer.encode("a z 7").ids) == 3  # whoever loads it
    assert teacher.encode_query(words).shape == (3, 32)  # its tokenizer is as it was


def test_a_teacher_without_a_tokenizer_of_tokens_is_said():
    teacher = SentenceTransformer(modules=[BoW(vocab=["a", "b"])], device="cpu")
    with pytest.raises(UserError, match="tokenizers library"):
        student_of_tokens(teacher)[0]


def test_gradients_reach_the_embeddings(teacher):
    static = student_of_tokens(load_encoder(str(teacher), "cpu"))[0]
    static(static.preprocess(["ab"]))["sentence_embedding"].sum().backward()
    assert torch.count_nonzero(static.embedding.weight.grad.abs().sum(1)) == 2


def test_feed_forward_layers_change_nothing_at_first(teacher):
    student = student_of_tokens(load_encoder(str(teacher), "cpu"))
    texts = ["a", "what is this", "", "zzz 7 and that"]
    before = student.encode(texts)
    feed_forward(student)
    assert [type(module).__name__ for module in list(student)[1:3]] == ["Dense", "Dense"]
    assert student[1].linear.weight.shape == (64, 32)
    np.testing.assert_allclose(student.encode(texts), before, atol=1e-6)
