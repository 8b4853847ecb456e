"""A trained query encoder outside torch: its export, and the encoders that are scored and timed.

In: a sentence-transformers model. Out: ONNX graphs, where runtimes look for them in a folder.
May import: encode, data, the modules above the wings.
"""
