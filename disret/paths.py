"""Where downloads, collections, indexes and models live.

The folders stand beside the scripts; `DISRET_HOME` moves them all elsewhere, for example to a
larger disk.
"""

import os
from pathlib import Path

HOME = Path(os.environ.get("DISRET_HOME") or Path(__file__).resolve().parent.parent)

DOWNLOADS = HOME / "downloads"
MODELS = HOME / "models"
COLLECTIONS = HOME / "benchmarks" / "raw"
INDEXES = HOME / "benchmarks" / "faiss"
