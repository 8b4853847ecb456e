"""What computes query embeddings: torch, or an export in float32 or int8."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from disret.command_line import UserError, progress_bar
from disret.encode.cached import embedded_once
from disret.encode.models import Description, describe, fingerprint, load_encoder, place
from disret.encode.timings import Timings

if TYPE_CHECKING:
    import numpy as np

    from disret.data.vectors import Vectors
    from disret.encode.service import Service

PRECISIONS = {"export": "float32", "export-int8": "int8"}
BACKENDS = ("torch", *PRECISIONS)
BLOCK = 4096  # queries between two steps of the progress bar


class Encoder(Protocol):
    """An encoder that is scored or timed.

    Attributes:
        name: as the user gave it.
        backend: one of BACKENDS.
        fingerprint: SHA-256 of what decides the embeddings.
        max_length: tokens of a text.
        size: layers, parameters and dimension.
        weight_bytes: what its weights take in memory.
        dtype: what it computes in.
        device: where it runs.
        is_local: whether it computes embeddings in this process, so that its time is its own.
        timings: what encoding took.
    """

    name: str
    backend: str
    fingerprint: str
    max_length: float
    size: Description
    weight_bytes: int
    dtype: str
    device: str
    is_local: bool
    timings: Timings

    def encode_query(self, queries: Sequence[str]) -> "np.ndarray":
        """Query embeddings, float32 [n_queries, dimension], with a progress bar."""

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """Embed queries as a service would, and wait until the device has finished."""


class TorchEncoder:
    """A sentence-transformers model.

    Args:
        dtype: what transformers compute in: float32, bfloat16 or float16.
        batch_size: that of `BatchEncoder`.
    """

    backend, is_local = "torch", True

    def __init__(
        self,
        name: str,
        device: str,
        dtype: str = "float32",
        batch_size: int | None = None,
        timings: Timings | None = None,
    ) -> None:
        from disret.encode.batches import BatchEncoder

        self.name, self.device, self.dtype = name, device, dtype
        self.model = load_encoder(name, "cpu", dtype="auto")
        self.fingerprint = fingerprint(self.model)
        self.size = describe(self.model)
        self.max_length = self.model.max_seq_length
        place(self.model, device, dtype, name)
        weights = [*self.model.parameters(), *self.model.buffers()]
        self.weight_bytes = sum(weight.nbytes for weight in weights)
        self.batches = BatchEncoder(self.model, batch_size, timings)
        self.timings = self.batches.timings

    def encode_query(self, queries: Sequence[str]) -> "np.ndarray":
        return self.batches.encode_query(queries)

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By `SentenceTransformer.encode_query`."""
        import torch

        self.model.encode_query(
            list(queries), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


class ServiceEncoder:
    """An embedding service; a query is sent once, however often it is asked for."""

    backend, device, dtype = "service", "cpu", "float32"
    max_length, weight_bytes, is_local = math.inf, 0, False

    def __init__(self, service: "Service", timings: Timings | None = None) -> None:
        self.service, self.name = service, service.name
        self.fingerprint = service.fingerprint
        self.size = Description(0, 0, service.dimension)
        self.timings = timings or Timings()

    def encode_query(self, queries: Sequence[str]) -> "np.ndarray":
        with self.timings.measure("encode queries", len(queries)):
            return embedded_once(self.service, queries)[:]

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By requests of `batch_size` queries, one after the other."""
        for start in range(0, len(queries), batch_size):
            self.service.embed(queries[start : start + batch_size])


class VectorEncoder:
    """Vectors that somebody has, of no other texts than theirs."""

    backend, device, dtype = "vectors", "cpu", "float32"
    max_length, weight_bytes, is_local = math.inf, 0, False

    def __init__(self, vectors: "Vectors", name: str, timings: Timings | None = None) -> None:
        self.vectors, self.name = vectors, name
        self.fingerprint = vectors.sha256
        self.size = Description(0, 0, vectors.embeddings.shape[1])
        self.timings = timings or Timings()

    def encode_query(self, queries: Sequence[str]) -> "np.ndarray":
        return self.vectors.embeddings[self.vectors.rows(queries)]

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By looking them up."""
        self.encode_query(queries)


class ExportedEncoder:
    """The export beside a model, on the CPU.

    Args:
        backend: `export` or `export-int8`.

    Raises:
        UserError: there is no whole export of this model.
    """

    device, is_local = "cpu", True

    def __init__(
        self,
        name: str,
        backend: str,
        num_threads: int | None = None,
        timings: Timings | None = None,
    ) -> None:
        from disret.query_encoder import ExportError, QueryEncoder

        self.name, self.backend, self.dtype = name, backend, PRECISIONS[backend]
        self.timings = timings or Timings()
        try:
            self.encoder = QueryEncoder.from_pretrained(name, self.dtype, num_threads)
        except ExportError as error:
            raise UserError(str(error)) from None
        settings = self.encoder.settings
        self.size = Description(**settings["size"])
        self.max_length = settings["max_length"] or math.inf
        files = settings["files"][self.dtype]
        self.weight_bytes = sum((self.encoder.folder / file).stat().st_size for file in files)
        aside = ("checks", "model_files", "size", "files", "onnxruntime")
        content = {key: value for key, value in settings.items() if key not in aside}
        content["files"] = [settings["files"]["tokenizer"], files]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        self.fingerprint = digest.hexdigest()

    def encode_query(self, queries: Sequence[str]) -> "np.ndarray":
        import numpy as np

        vectors = np.empty((len(queries), self.size.dimension), dtype=np.float32)
        with (
            self.timings.measure("encode queries", len(queries)),
            progress_bar(total=len(queries), desc="encode query", delay=2) as bar,
        ):
            for start in range(0, len(queries), BLOCK):
                part = queries[start : start + BLOCK]
                vectors[start : start + BLOCK] = self.encoder.encode(part)
                bar.update(len(part))
        return vectors

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By `QueryEncoder.encode`."""
        self.encoder.encode(queries, batch_size)
