"""WordNet's database files as texts."""

import pytest

from disret.command_line import UserError
from disret.data.wordnet import KINDS, wordnet_texts

LICENCE = "  1 This line is of the licence.\n"
SYNSET = (
    "00001740 03 a 02 quick(a) 0 very_fast 0 001 & 00002098 a 0101 | moving at speed; "
    '"she took a quick look around"; "be quick"  \n'
)


def write(folder, line=SYNSET):
    for kind in KINDS:
        (folder / f"data.{kind}").write_text(LICENCE + (line if kind == "adj" else ""))
    return folder


def test_words_definition_and_examples(tmp_path):
    assert sorted(wordnet_texts(write(tmp_path))) == [
        "quick",
        "quick, very fast: moving at speed",
        "she took a quick look around",
        "very fast",
    ]


def test_what_is_not_wordnet_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no file .*data\.noun"):
        wordnet_texts(tmp_path)
    with pytest.raises(UserError, match=r"data\.adj, line 2"):
        wordnet_texts(write(tmp_path, "something else\n"))
