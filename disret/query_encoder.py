"""A query encoder in a service: numpy, tokenizers and onnxruntime, and nothing else.

    from disret.query_encoder import QueryEncoder

    encoder = QueryEncoder.from_pretrained("models/student", precision="int8")
    vectors = encoder.encode(["what is dense retrieval?"])     # float32 [1, dimension]

With `index=`, an encoder of another index is refused: a folder of `benchmarks/faiss`, or a JSON
file beside the vectors of another database, such as a copy of `index.json` of an export.

It reads what `python -m disret.serve.export` wrote: `tokenizer.json` and the folder `onnx`. A
static student needs no onnxruntime. This file imports nothing else of the project: a service may
copy it.
"""

import bisect
import hashlib
import itertools
import json
import math
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

FOLDER = "onnx"  # in the model's
SETTINGS = "query_encoder.json"
INDEX = "index.json"  # what made the documents' vectors
FORMAT, READABLE = 3, (2, 3)  # of the settings: that is written, and those that are read
PRECISIONS = ("float32", "int8")
OUTSIDE = b"\n\x08location\x12"  # in a graph before the name of another file
BATCH = 64  # texts run together, at most
STRETCH = 1.25  # how much longer than the shortest a graph lets the longest of them be
# What a graph takes, by the attribute of an encoding that holds it.
COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class ExportError(Exception):
    """What is on disk cannot be used as it is; the message says why and what to do."""


class QueryEncoder:
    """Query embeddings as the model's own `encode_query` gives them.

    Threads may share an encoder.

    Attributes:
        folder: where its files lie.
        settings: what the export noted about itself.
        dimension: of the embeddings.
        max_length: tokens of a text, special ones included; what is longer is cut.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], precision: str, num_threads: int | None
    ) -> None:
        self.folder = folder
        self.settings = settings
        self._loaded_by = folder, precision, num_threads
        if precision not in settings["files"]:
            why = f", which came to a cosine of {settings['checks']['int8_mean_cosine']:.5f} only"
            there = " and ".join(name for name in PRECISIONS if name in settings["files"])
            raise ExportError(
                f"{folder} has no {precision}{why if precision == 'int8' else ''}; take {there}."
            )
        _check_files(folder, settings, precision)
        (tokens,), (graph,) = (settings["files"][name] for name in ("tokenizer", precision))
        if settings["kind"] == "static":
            self._vectors_of: Any = _Static(folder / graph, settings, precision)
        else:
            self._vectors_of = _Graph(folder / graph, settings, num_threads)
        self.dimension = int(settings["dimension"])
        self.max_length: int | None = settings["max_length"]
        self._tokenizer = tokenizer = Tokenizer.from_file(str(folder / tokens))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if self.max_length:
            tokenizer.enable_truncation(self.max_length, direction=settings["truncation_side"])

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        precision: str = "float32",
        num_threads: int | None = None,
        index: str | Path | None = None,
    ) -> "QueryEncoder":
        """Load an exported query encoder.

        Args:
            path: the model's folder, or the folder `onnx` in it.
            precision: `float32` or `int8`.
            num_threads: that a graph runs on (default: the machine's cores); tables take one. Texts
                of a batch are split into tokens on all cores, unless TOKENIZERS_PARALLELISM=false.
            index: what it is to search: a folder with a `manifest.json`, or a JSON file, either
                with `encoder_sha256`, the fingerprint of what made its vectors, their `dimension`,
                and perhaps the name of that `encoder`.

        A new export may be moved over the old one, as `disret.serve.export` does, while encoders
        of the old one work: what they need of it is in memory.

        A process that forks after an encoder was used hangs in the child if
        TOKENIZERS_PARALLELISM=true; load after the fork, or leave that unset.

        Raises:
            ExportError: files are missing or damaged, or the model beside them is another than
                the one they were made from.
            ValueError: there is no such precision; or the index is of another encoder than the
                teacher, or does not say of which.
            FileNotFoundError: there is no such index.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be float32 or int8, got {precision!r}")
        folder = Path(path)
        if not (folder / SETTINGS).exists() and (folder / FOLDER).is_dir():
            folder /= FOLDER
        settings = _read_settings(folder)
        if index is not None:
            _check_index(folder, Path(index))
        try:
            return cls(folder, settings, precision, num_threads)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ExportError(
                f"{folder / SETTINGS} is damaged ({type(error).__name__}: {error}); export the "
                "model again."
            ) from None

    def __reduce__(self) -> tuple:
        """By pickle goes where it was loaded from; another process loads it itself."""
        return QueryEncoder.from_pretrained, self._loaded_by

    def encode_query(self, queries: str | Iterable[str], batch_size: int = BATCH) -> np.ndarray:
        """`encode`, called as in sentence-transformers; of a text alone, float32 [dimension]."""
        if isinstance(queries, str):
            return self.encode([queries], batch_size)[0]
        return self.encode(queries, batch_size)

    def encode(self, queries: Iterable[str], batch_size: int = BATCH) -> np.ndarray:
        """Embed queries.

        Args:
            queries: any number of texts; an empty one has the embedding that the model gives it.
            batch_size: texts run together at most, of similar length.

        Returns:
            float32 [n_queries, dimension].

        Raises:
            TypeError: it is no list of strings of Unicode text.
            ValueError: `batch_size` is not positive.
        """
        if isinstance(queries, str):
            raise TypeError("encode takes a list of strings, got one str")
        return self.embed(self.tokenise(queries), batch_size)

    def tokenise(self, queries: Iterable[str]) -> list:
        """Encodings of `tokenizers`, of texts with the model's prompt, cut to `max_length`."""
        prompt = self.settings["prompt"]
        return self._tokenizer.encode_batch_fast([prompt + query for query in queries])

    def embed(self, encodings: list, batch_size: int = BATCH) -> np.ndarray:
        """Vectors of what `tokenise` gave, which may pad it; else as `encode`."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if len(encodings) == 1:
            return self._vectors_of(encodings)
        vectors = np.empty((len(encodings), self.dimension), dtype=np.float32)
        by_length = np.argsort([len(encoding) for encoding in encodings], kind="stable")
        for start in range(0, len(encodings), batch_size):
            rows = by_length[start : start + batch_size]
            vectors[rows] = self._vectors_of([encodings[row] for row in rows])
        return vectors

    @property
    def is_static(self) -> bool:
        """Whether it is tables alone, without a graph."""
        return isinstance(self._vectors_of, _Static)


class _Graph:
    """A transformer as an ONNX graph, pooling and all that follows it included."""

    def __init__(self, path: Path, settings: dict[str, Any], num_threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ExportError(
                f"{path} needs onnxruntime, which is not installed: pip install onnxruntime"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
            if graph.find(OUTSIDE) >= 0:
                raise ExportError(f"{path} takes weights from another file, which is not checked.")
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ExportError(
                f"onnxruntime {onnxruntime.__version__} cannot load {path}, which was made with "
                f"{settings['onnxruntime']}: {error}"
            ) from None
        self.inputs: list[str] = settings["inputs"]
        self.padding = {
            "direction": settings["padding_side"],
            "pad_id": settings["padding"]["input_ids"],
            "pad_type_id": settings["padding"].get("token_type_ids", 0),
        }

    def __call__(self, encodings: list) -> np.ndarray:
        """Vectors of texts that come by length; padding takes as long as tokens do."""
        vectors = []
        while encodings:
            most = STRETCH * len(encodings[0])
            count = bisect.bisect_right(encodings, most, key=len)
            vectors.append(self._run(encodings[:count]))
            encodings = encodings[count:]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)

    def _run(self, encodings: list) -> np.ndarray:
        longest = max(1, len(encodings[-1]))
        for encoding in encodings:
            encoding.pad(longest, **self.padding)
        columns = {
            name: np.array([getattr(encoding, COLUMNS[name]) for encoding in encodings], np.int64)
            for name in self.inputs
        }
        return self.session.run(["sentence_embedding"], columns)[0]


class _Static:
    """The mean of an embedding for each token; in int8, each has a scale of its own.

    Dense layers and normalisations may follow. The tables are those of the graph, read from where
    they stand in its file.
    """

    def __init__(self, path: Path, settings: dict[str, Any], precision: str) -> None:
        tables = {
            name: np.fromfile(
                path, at["dtype"], math.prod(at["shape"]), offset=at["offset"]
            ).reshape(at["shape"])
            for name, at in settings["tables"][precision].items()
        }
        self.table = tables["embeddings"]
        self.scales = tables["scales"].ravel() if "scales" in tables else None
        self.steps: list[str] = settings["steps"] if settings["format"] > 2 else [
            *("relu" if relu else "linear" for relu in settings["relu"]),
            *["normalize"] * settings["normalize"],
        ]  # fmt: skip
        self.layers = [
            step != "normalize" and (tables[f"weight_{i}"].T.copy(), tables[f"bias_{i}"].copy())
            for i, step in enumerate(self.steps)
        ]
        self.dimension: int = settings["dimension"]

    def __call__(self, encodings: list) -> np.ndarray:
        """Vectors of texts that come by length."""
        vectors = np.zeros((len(encodings), self.table.shape[1]), dtype=np.float32)
        start = 0
        for length, alike in itertools.groupby(encodings, key=len):
            ids = np.array([encoding.ids for encoding in alike], dtype=np.intp)
            rows = self.table.take(ids, axis=0).astype(np.float32, copy=False)
            if self.scales is None:
                shares = np.full((1, length), 1 / max(length, 1), dtype=np.float32)
            else:
                shares = self.scales.take(ids)[:, None] / max(length, 1)
            np.matmul(shares, rows, out=vectors[start : start + len(ids), None])
            start += len(ids)
        for step, layer in zip(self.steps, self.layers, strict=True):
            if step == "normalize":
                squares = np.matmul(vectors[:, None], vectors[:, :, None])[:, 0]
                vectors /= np.sqrt(np.maximum(squares, 1e-24))
            else:
                weight, bias = layer
                vectors = vectors @ weight + bias
                if step == "relu":
                    np.maximum(vectors, 0, out=vectors)
        return vectors[:, : self.dimension]


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    if not path.exists():
        raise ExportError(
            f"{folder} holds no exported query encoder; make one: "
            "python -m disret.serve.export MODEL"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        own = digest_of(settings)
        if settings["format"] in READABLE and settings.get("sha256", own) == own:
            return settings
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise ExportError(f"{path} is damaged or of another version; export the model again.")


def _check_index(folder: Path, index: Path) -> None:
    """Raise unless an index is of the encoder that the one in `folder` stands in for."""
    own = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index.is_dir():
        index /= "manifest.json"
    try:
        other = {"encoder": "an encoder", **json.loads(index.read_text(encoding="utf-8"))}
        is_same = all(own[key] == other[key] for key in ("encoder_sha256", "dimension"))
        shown = [f"{maker['encoder']} ({maker['encoder_sha256'][:16]}, {maker['dimension']} "
                 "dimensions)" for maker in (own, other)]  # fmt: skip
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{index} does not say what made the index: it needs encoder_sha256, 64 hexadecimal "
            f"digits, and dimension, as {folder / INDEX} has them."
        ) from None
    if not is_same:
        raise ValueError(f"{folder} is for an index of {shown[0]}, but {index} is of {shown[1]}.")


def _check_files(folder: Path, settings: dict[str, Any], precision: str) -> None:
    """Raise unless the files are whole, and the model beside them, if any, made them."""
    for name, digest in {**settings["files"]["tokenizer"], **settings["files"][precision]}.items():
        path = Path(os.path.normpath(folder / name))
        if not path.exists():
            raise ExportError(f"{path} is missing; export the model again.")
        if sha256_of(path) != digest:
            raise ExportError(f"{path} is damaged; export the model again.")
    model = folder.resolve().parent
    if (model / "modules.json").exists():
        for name, digest in settings["model_files"].items():
            if (model / name).exists() and sha256_of(model / name) != digest:
                raise ExportError(
                    f"{model / name} is not what {folder} was made from; export the model again: "
                    f"python -m disret.serve.export {model}"
                )


def digest_of(settings: dict[str, Any]) -> str:
    """SHA-256 of what an export notes about itself, but for that digest, in hexadecimal."""
    rest = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
