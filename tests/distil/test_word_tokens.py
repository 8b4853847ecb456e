"""Words that a tokenizer splits get a token of their own."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import VOCABULARY, save_encoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from disret.distil.static import (
    as_text,
    frequent_words,
    student_of_tokens,
    with_words,
    words_to_add,
)
from disret.encode.models import load_encoder

TEXTS = ["The Zebra, the zebra and a zebra", "the a b and", "rare zebra-1 and"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=258, initial_alphabet=letters, special_tokens=["<s>"])
    tokenizer.train_from_iterator(["e" * 9], trainer)
    return tokenizer


def test_frequent_words_are_those_that_are_split(teacher):
    tokenizer = load_encoder(str(teacher), "cpu").tokenizer.backend_tokenizer
    assert frequent_words(tokenizer, TEXTS, 9) == ["zebra", "the", "and"]
    assert frequent_words(tokenizer, TEXTS, 2) == ["zebra", "the"]
    assert frequent_words(tokenizer, TEXTS[1:], 9) == []


def test_a_word_is_one_token_and_other_texts_stay_as_they_were(teacher):
    tokenizer = load_encoder(str(teacher), "cpu").tokenizer.backend_tokenizer
    more = with_words(tokenizer, ["zebra", "the"])
    zebra, the = len(VOCABULARY), len(VOCABULARY) + 1

    def ids(text: str, of: Tokenizer = more) -> list[int]:
        return of.encode(text, add_special_tokens=False).ids

    assert ids("Zebra the") == [zebra, the]
    assert ids("zebras") == [zebra, VOCABULARY.index("##s")]
    assert ids("a horse, 7") == ids("a horse, 7", tokenizer)
    assert more.get_vocab_size() == len(VOCABULARY) + 2


def test_words_of_bytes():
    tokenizer = byte_level()
    words = words_to_add(tokenizer, ["größe eee größe", "größe eee eee"], 9, "its")
    assert [as_text(tokenizer, word) for word in words] == ["größe", "eee"]
    more = with_words(tokenizer, words)
    size = tokenizer.get_vocab_size()
    assert more.encode("größe eee größe").ids == [size, size + 1, size]
    assert more.decode(more.encode("größe").ids).strip() == "größe"


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_a_word_starts_where_the_teacher_puts_it(kind, tmp_path):
    prompts = {"query": "find q ", "document": "d "}
    teacher = load_encoder(str(save_encoder(tmp_path / "t", kind, prompts=prompts)), "cpu")
    student = student_of_tokens(teacher, TEXTS, 2)
    student.save_pretrained(str(tmp_path / "s"), create_model_card=False)
    student = SentenceTransformer(str(tmp_path / "s"), device="cpu")
    words = ["zebra", "The", "a"]
    np.testing.assert_allclose(student.encode(words), teacher.encode_query(words), atol=1e-5)
    assert student[0].embedding.weight.shape == (len(VOCABULARY) + 2, 32)
    assert len(student[0].preprocess(["a " * 100])["input_ids"]) == teacher.max_seq_length


def test_a_tokenizer_that_takes_no_words_is_said(teacher, capsys):
    model = load_encoder(str(teacher), "cpu")
    plain = student_of_tokens(model)[0]
    pieces = [(piece, 0.0) for piece in VOCABULARY]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=False))
    unigram.pre_tokenizer = pre_tokenizers.Whitespace()
    model.tokenizer._tokenizer = unigram
    static = student_of_tokens(model, TEXTS, 2)[0]
    assert "the teacher's tokenizer (Unigram) takes no more words" in capsys.readouterr().err
    assert torch.is_tensor(static.embedding.weight)
    assert static.embedding.weight.shape == plain.embedding.weight.shape
