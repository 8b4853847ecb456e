"""Texts to vectors: models, tokens, batches of equal cost, what a CPU needs to be fast.

In: a sentence-transformers model and texts. Out: float32 [n, dimension], and what it took.
May import: data, the modules above the wings.
"""
