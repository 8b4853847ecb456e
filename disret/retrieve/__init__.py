"""Vectors to scores: the index of the documents, exact search, metrics, the table of scores.

In: a collection, vectors of its documents and queries. Out: runs, metrics, retention.
May import: encode, data, the modules above the wings.
"""
