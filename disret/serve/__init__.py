"""A trained query encoder outside torch: its export, and the encoders that are scored and timed.

In: a sentence-transformers model. Out: ONNX graphs and tables for `disret.query_encoder`.
May import: encode, data, the modules above the wings.
"""
