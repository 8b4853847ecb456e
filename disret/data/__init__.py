"""Texts and judgments: data sets, downloads, collections in BEIR's layout, files of queries.

In: names, folders, files. Out: streams of documents, queries, qrels, texts to train on.
May import: the modules above the wings.
"""
