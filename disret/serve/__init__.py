"""A trained query encoder outside torch: its export, and the server that answers with it.

In: a sentence-transformers model. Out: ONNX graphs, where runtimes look for them in a folder; and
`python -m disret.serve`, OpenAI's `/v1/embeddings`, without torch unless it asks a teacher.
May import: retrieve, encode, data, the modules above the wings.
"""
