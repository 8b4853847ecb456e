"""Sentences of a collection, as texts to distil on."""

import json

import pytest

from disret.command_line import UserError
from disret.distil.training_data import collection_sentences


def write(folder, *texts):
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"_id": f"d{number}", "title": "", "text": text}) + "\n")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "none"}\n')
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("h\nq\td0\t1\n")
    return str(folder)


def test_documents_are_cut_into_sentences(tmp_path):
    texts = write(
        tmp_path / "c",
        "Aspirin helps, e.g. against pain. It is cheap!  Is it\tsafe? Yes.\nA line of its own",
        "It is cheap! " + "word " * 65 + ". The end of it.",
    )
    assert collection_sentences(texts, 100, 0) == [
        "Aspirin helps, e.g. against pain.", "It is cheap!", "Is it safe?", "A line of its own",
        "The end of it.",
    ]  # fmt: skip


def test_a_large_collection_gives_a_random_part(tmp_path):
    texts = write(tmp_path / "c", *(f"This is sentence {i}. And this {i}." for i in range(500)))
    some = collection_sentences(texts, 50, 0)
    assert len(set(some)) == 50
    assert some == collection_sentences(texts, 50, 0)
    assert some != collection_sentences(texts, 50, 1)
    numbers = [int(sentence.rstrip(".").split()[-1]) for sentence in some]
    assert 150 < sum(numbers) / 50 < 350


def test_a_collection_without_sentences_is_said(tmp_path):
    with pytest.raises(UserError, match="hold no sentences"):
        collection_sentences(write(tmp_path / "c", "One word?", "Two words."), 10, 0)
