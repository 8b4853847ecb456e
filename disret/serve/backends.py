"""What computes query embeddings: torch, or an export in float32 or int8."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from disret.command_line import UserError, is_main_process
from disret.encode.models import Description, describe, load_encoder, set_precision
from disret.encode.stages import Stages

if TYPE_CHECKING:
    import numpy as np

PRECISIONS = {"onnx": "float32", "onnx-int8": "int8"}  # of an export
BACKENDS = ("torch", *PRECISIONS)
BLOCK = 4096  # queries between two steps of the progress bar


class TorchQueries:
    """`SentenceTransformer.encode_query`, waited for.

    Args:
        dtype: what transformers compute in: float32, bfloat16 or float16.

    Attributes:
        size: layers, parameters and dimension.
        device: where it runs.
    """

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        self.model = load_encoder(name, device)
        set_precision(self.model, dtype)
        self.size = describe(self.model)
        self.dtype = dtype
        self.device = device
        self.on_cuda = self.model.device.type == "cuda"

    def encode(self, queries: Sequence[str], batch_size: int) -> None:
        """Encode, and wait until the device has finished."""
        import torch

        self.model.encode_query(
            list(queries), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        if self.on_cuda:
            torch.cuda.synchronize(self.model.device)


class ExportedQueries:
    """The export beside a model, on the CPU.

    Attributes:
        weights: SHA-256 of what decides the embeddings.
        size: layers, parameters and dimension of the model.

    Raises:
        UserError: there is no whole export of this model.
    """

    on_cuda = False
    device = "cpu"

    def __init__(self, name: str, backend: str, num_threads: int | None = None) -> None:
        from disret.query_encoder import ExportError, QueryEncoder

        self.dtype = PRECISIONS[backend]
        try:
            self.encoder = QueryEncoder.from_pretrained(name, self.dtype, num_threads)
        except ExportError as error:
            raise UserError(str(error)) from None
        settings = self.encoder.settings
        self.size = Description(**settings["size"])
        self.max_length = settings["max_length"] or math.inf
        aside = ("checks", "model_files", "size", "files", "onnxruntime")
        content = {key: value for key, value in settings.items() if key not in aside}
        content["files"] = [settings["files"][kind] for kind in ("tokenizer", self.dtype)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        self.weights = digest.hexdigest()

    def encode(self, queries: Sequence[str], batch_size: int) -> "np.ndarray":
        """Query embeddings, float32 [n_queries, dimension]."""
        return self.encoder.encode(queries, batch_size)

    def encode_query(self, queries: Sequence[str], stages: Stages) -> "np.ndarray":
        """The same for many queries, with a progress bar."""
        import numpy as np
        from tqdm import tqdm

        vectors = np.empty((len(queries), self.size.dimension), dtype=np.float32)
        with (
            stages.measure("encode queries", len(queries)),
            tqdm(
                total=len(queries), desc="encode query", delay=2, disable=not is_main_process()
            ) as bar,
        ):
            for start in range(0, len(queries), BLOCK):
                part = queries[start : start + BLOCK]
                vectors[start : start + BLOCK] = self.encoder.encode(part)
                bar.update(len(part))
        return vectors
