"""The names that an index of another tool had; see `foreign`."""

from disret.retrieve.foreign import ForeignIndex as ExistingIndex
from disret.retrieve.foreign import open_foreign as open_existing

VECTOR_FILES = (".npy", ".fvecs", ".parquet")
__all__ = ["VECTOR_FILES", "ExistingIndex", "open_existing"]
