"""A student searches the database that has the teacher's document vectors, which stays as it is.

Each file is one database, read from top to bottom; `--export` writes what `--index` of the scripts
reads. Run them from the project's folder, after `pip install -r examples/requirements.txt`. A
service that has copied `disret/query_encoder.py` imports `query_encoder` instead of
`disret.query_encoder`.
"""
