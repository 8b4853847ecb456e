"""The teacher's document vectors stay in their database; a student embeds the queries.

Each file is one database, read from top to bottom: what stands already, then what changes. Run them
from the project's folder, after `pip install -r examples/requirements.txt`. A service that has
copied `disret/query_encoder.py` imports `query_encoder` instead of `disret.query_encoder`.
"""
