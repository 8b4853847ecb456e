#!/usr/bin/env python
"""distill.py or benchmark.py with static students that see which token follows which.

    python evaluations/texts/pairs.py distill --init-with static …      # arguments of that script
    python evaluations/texts/pairs.py benchmark …

sentence-transformers has no such module, so nothing but this script loads the student.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from sentence_transformers.sentence_transformer import modules

from disret.command_line import run
from disret.distil.static import student_of_tokens

ROWS = 1 << 17  # of the table of pairs
SHARE = 0.25  # of a pair's embedding: Adam moves both tables alike, and a pair is seen less often
FACTORS = 2654435761, 1597334677  # odd, far apart


class PairEmbedding(modules.StaticEmbedding):
    """The mean of an embedding for each token and one for each pair that it ends.

    The pairs share ROWS embeddings, by a hash of their two tokens, which start as zeros.
    """

    __module__ = modules.__name__  # where it will be looked for

    def __init__(self, tokens: modules.StaticEmbedding) -> None:
        super().__init__(tokens.tokenizer, embedding_weights=tokens.embedding.weight.detach())
        self.pairs = torch.nn.EmbeddingBag(ROWS, self.embedding_dim, mode="mean", sparse=True)
        torch.nn.init.zeros_(self.pairs.weight)

    def forward(self, features: dict[str, torch.Tensor], **kwargs) -> dict[str, torch.Tensor]:
        ids, starts = features["input_ids"], features["offsets"]
        before = torch.roll(ids, 1)
        before[starts[starts < len(ids)]] = self.num_embeddings  # nothing stands before a text
        mixed = before * FACTORS[0] + ids * FACTORS[1]
        pairs = (mixed ^ (mixed >> 15)) % ROWS
        of_tokens = super().forward(features, **kwargs)["sentence_embedding"]
        return features | {"sentence_embedding": of_tokens + SHARE * self.pairs(pairs, starts)}

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs) -> "PairEmbedding":
        module = cls(super().load(model_name_or_path, subfolder, **kwargs))
        return cls.load_torch_weights(model_name_or_path, subfolder, model=module)


def student_of_pairs(teacher, texts, words):
    """`student_of_tokens`, and a table of pairs in it."""
    student = student_of_tokens(teacher, texts, words)
    student[0] = PairEmbedding(student[0])
    return student


if __name__ == "__main__":
    modules.PairEmbedding = PairEmbedding
    script = importlib.import_module(sys.argv.pop(1))
    script.student_of_tokens = student_of_pairs
    run(script.main)
