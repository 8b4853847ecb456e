"""A teacher's query encoder into a small student: its start, its targets, its training, its files.

In: a teacher and unlabelled queries. Out: a student, its report and model card.
May import: serve, retrieve, encode, data, the modules above the wings.
"""
