"""What embeds texts, and the one grammar that names it.

models/student                a model, by folder or by its name on the hub
models/student@int8           its export; @onnx in float32; a folder of that name goes first
https://HOST/v1#NAME          a service in OpenAI's protocol, and its model
vectors.parquet, hub:NAME     texts with vectors that are there
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import UserError, progress_bar, say, shortened, without_secrets
from disret.data.queries import held_out
from disret.data.text_files import suffix_of
from disret.data.vectors import FORMATS, is_normalised, read_vectors
from disret.encode import models
from disret.encode.batches import BatchEncoder, check_finite, normalised
from disret.encode.embedding_cache import Rows, TextVectors, embedded
from disret.encode.service import BLOCK as SERVICE_BLOCK
from disret.encode.service import FIXED_TEXTS, Service, spelt_alike
from disret.encode.timings import Timings
from disret.files import text_sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EXPORTS = {"onnx": "export", "int8": "export-int8"}  # by suffix, as tables call them
PRECISIONS = {"export": "float32", "export-int8": "int8"}
SAME = 0.999  # cosine of a service's two answers to one text; it rounds, and batches differently
# What is put before a text to store its vector, and what then becomes of long texts: the vector of
# a part is none of the whole.
MARKS = {"refuse": {"": "refuse"}, "skip": {"": "skip"}, "cut": {"": "skip", "\0cut ": "cut"}}
CHARACTERS = 4  # of a token, roughly, in English
BLOCK = 4096  # queries of an export between two steps of the progress bar


class Encoder:
    """What embeds texts."""

    name: str  # for people and tables, an export's that of its model
    backend: str  # torch, export, export-int8, service or vectors
    model: "SentenceTransformer | None" = None  # if its weights are at hand in torch
    query_model: "SentenceTransformer | None" = None  # of it what queries go through
    fingerprint: str  # SHA-256 of what decides its vectors of queries
    index_fingerprint: str  # without what is put before a query or cut off: of the documents'
    on_hub: str | None = None  # its name on the model hub, if it is there
    size: models.Description
    max_length: float = math.inf  # tokens of a text
    dtype, device = "float32", "cpu"  # what it computes in, and where
    weight_bytes = 0  # in memory
    normalises = False  # whether its vectors have length 1
    is_local = True  # whether it computes them in this process, so that its time is its own
    texts: tuple[list[str], list[str]] | None = None  # to train and validate on, if no others have
    timings: Timings  # what encoding took

    @property
    def dimension(self) -> int:
        return self.size.dimension

    @property
    def made_by(self) -> str | None:
        """Its fingerprint as an index that was built here has it, if it can have built one."""
        return self.index_fingerprint if self.model else None

    def encode_query(self, queries: Sequence[str]) -> np.ndarray:
        """Query embeddings, float32 [n_queries, dimension], with a progress bar."""
        with self.timings.measure("encode queries", len(queries)):
            return self.embed_once(list(queries))[:]

    def embed_once(self, queries: list[str]) -> Rows:
        """The same on disk, computed once for all runs."""
        raise UserError(f"{self.name} is an export, which is no teacher: name its model.")

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """Embed queries as a service would, and wait until the device has finished."""
        self.encode_query(queries)

    def skipped(self, texts: Sequence[str]) -> set[str]:
        """Texts that get no vector, as was asked for; `UserError` for another reason."""
        return set()

    def announce(self, texts: Sequence[str], price: float | None = None) -> None:
        """Say what embedding the texts takes; `price` is dollars of a million tokens sent."""


def open_encoder(
    names: str | Sequence[str],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int | None = None,
    num_threads: int | None = None,
    options: Sequence[str] = (),
    prompt: str | None = None,
    truncate_dim: int | None = None,
    max_seq_length: int | None = None,
    long_texts: str = "refuse",
    timings: Timings | None = None,
) -> Encoder:
    """Open what a name of the grammar above means; several names are files of vectors.

    Args:
        device, dtype: of a model; float32, bfloat16 or float16.
        batch_size: of a model, that of `BatchEncoder`.
        num_threads: of an export.
        options: of a service, `KEY=VALUE` fields of each request.
        prompt: put before each query: a text, or of a model the name of one of its prompts.
        truncate_dim: of a model, keep so many coordinates.
        max_seq_length: of a model, cut texts to so many tokens.
        long_texts: of a service, that of its `embed`.

    Raises:
        UserError: it is not there, or does not embed texts, or has no such thing as is asked of it.
    """
    names = [names] if isinstance(names, str) else list(names)
    name, timings = names[0], timings or Timings()
    is_service = name.startswith(("http://", "https://"))
    if options and not is_service:
        raise UserError(f"{name} is no service, whose requests could have more fields.")
    if truncate_dim and (is_service or is_vectors(name)):
        raise UserError(f"the dimensions of {without_secrets(name)} cannot be cut.")
    if is_vectors(name):
        if prompt is not None:
            raise UserError(f"{name} has vectors already, so nothing is put before its queries.")
        return VectorEncoder(names, timings)
    if len(names) > 1:
        raise UserError(f"one encoder is wanted, and {names[1]} is a second; name one.")
    if is_service:
        url, _, model = name.partition("#")
        if not model:
            raise UserError(f"{without_secrets(url)} names no model: write https://HOST/v1#NAME.")
        service = Service(url, model, parsed_options(options), prompt or "")
        return ServiceEncoder(service, long_texts, timings)
    if re.match(r"(\S+@)?[\w.-]+(:\d+)?/\S*#", name) and not Path(name).exists():
        bare = without_secrets(f"http://{name}").removeprefix("http://")
        raise UserError(f"{bare}: did you mean http://{bare} or https://{bare}?")
    folder, _, suffix = name.rpartition("@")
    if suffix in EXPORTS and not Path(name).exists():
        return ExportEncoder(folder, EXPORTS[suffix], num_threads, timings)
    return ModelEncoder(
        name, device, dtype, batch_size, prompt, truncate_dim, max_seq_length, timings
    )


def parsed_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Fields of a request from `KEY=VALUE`, whose value is JSON or else a text.

    Raises:
        UserError: there is no `=`, or the field is one that this project sets.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UserError(f"expected KEY=VALUE, got {pair!r}.")
        if key in ("input", "model"):
            raise UserError(f"{key} is set for each request and is no option.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def is_vectors(name: str) -> bool:
    """Whether a name is of texts with vectors that are there."""
    path = Path(name)
    return name.startswith("hub:") or (suffix_of(path) in FORMATS and not path.is_dir())


def named(name: str, backend: str) -> str:
    """An encoder as the grammar names it, of the two columns that a table has."""
    suffixes = {backend: f"@{suffix}" for suffix, backend in EXPORTS.items()}
    return name + suffixes.get(backend, "")


def query_vectors(encoder: Encoder, queries: Sequence[str], score_function: str) -> np.ndarray:
    """Query embeddings, float32 [n_queries, dimension]; for `cos_sim` of length 1.

    Raises:
        UserError: one has a value that is no number.
    """
    vectors = encoder.encode_query(queries)
    check_finite(vectors, queries)
    return normalised(vectors) if score_function == "cos_sim" else vectors


def check_dimensions(teacher: Encoder, students: Sequence[Encoder]) -> None:
    """Raise `UserError` unless vectors of the students are of the teacher's index."""
    for student in students:
        if student.dimension != teacher.dimension:
            raise UserError(
                f"{student.name} gives {student.dimension} dimensions, but the index of "
                f"{teacher.name} has {teacher.dimension}: it is not a query encoder for this index."
            )


def export_fingerprint(settings: Mapping[str, Any], precision: str) -> str:
    """SHA-256 of what decides the vectors of an export, by its `query_encoder.json`."""
    files = settings["files"]
    content = {**settings, "files": [files["tokenizer"], files[precision]]}
    for no_matter in ("checks", "held_out", "model_files", "size", "onnxruntime"):
        content.pop(no_matter, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ModelEncoder(Encoder):
    """A sentence-transformers model; it is cast and moved to its device when it first embeds."""

    backend = "torch"

    def __init__(
        self, name: str, device: str, dtype: str, batch_size: int | None, prompt: str | None,
        truncate_dim: int | None, max_seq_length: int | None, timings: Timings,
    ) -> None:  # fmt: skip
        from sentence_transformers.sentence_transformer.modules import Normalize

        self.name, self.device, self.dtype, self.timings = name, device, dtype, timings
        self.batch_size = batch_size
        if not Path(name).exists():  # names of the hub without an owner are the library's own
            self.on_hub = name if "/" in name else f"sentence-transformers/{name}"
        model = models.load_encoder(name, "cpu", max_seq_length, dtype="auto")
        self.fingerprint = self.index_fingerprint = models.fingerprint(model)
        if prompt is not None:
            models.with_prompt(model, prompt)
        if truncate_dim is not None:
            model = models.with_dimensions(model, truncate_dim)
        if prompt is not None or truncate_dim is not None:
            self.fingerprint = models.fingerprint(model)
        self.model, self.size, self.max_length = model, models.describe(model), model.max_seq_length
        self.query_model = models.query_side(model)
        self.normalises = any(isinstance(module, Normalize) for module in self.query_model)

    @cached_property
    def batches(self) -> BatchEncoder:
        """The model where it embeds, in its precision."""
        models.place(self.model, self.device, self.dtype, self.name)
        return BatchEncoder(self.model, self.batch_size, self.timings)

    def uncast(self) -> "SentenceTransformer":
        """The model where it embeds; in float32, unless its files hold less."""
        if any(parameter.itemsize < 4 for parameter in self.model.parameters()):
            return models.query_side(self.batches.model)
        return self.query_model.to(self.device)

    @property
    def weight_bytes(self) -> int:
        model = self.batches.model
        return sum(weight.nbytes for weight in [*model.parameters(), *model.buffers()])

    def encode_query(self, queries: Sequence[str]) -> np.ndarray:
        return self.batches.encode_query(queries)

    def announce(self, texts: Sequence[str], price: float | None = None) -> None:
        prompt = models.prompt_of(self.model, "query")
        behind = f", each behind {prompt!r}," if prompt else ""
        where = f"in {self.dtype} on {self.device}"
        say(f"{self.name}: {len(texts):,} texts to embed{behind} {where}.")

    def embed_once(self, queries: list[str]) -> Rows:
        key = text_sha256(queries, f"{self.fingerprint} {self.max_length} {self.dtype}")
        steps = self.batches.tokenise, self.batches.encode
        return Rows(embedded(key, *steps, queries, self.dimension))

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By `SentenceTransformer.encode_query`."""
        import torch

        self.batches.model.encode_query(
            list(queries), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


class ExportEncoder(Encoder):
    """The export beside a model, on the CPU."""

    def __init__(self, name: str, backend: str, num_threads: int | None, timings: Timings) -> None:
        from disret.query_encoder import ExportError, QueryEncoder

        self.name, self.backend, self.dtype = name, backend, PRECISIONS[backend]
        self.timings = timings
        try:
            self.encoder = QueryEncoder.from_pretrained(name, self.dtype, num_threads)
        except ExportError as error:
            raise UserError(str(error)) from None
        settings = self.encoder.settings
        self.size = models.Description(**settings["size"])
        self.max_length = settings["max_length"] or math.inf
        files = settings["files"][self.dtype]
        self.weight_bytes = sum((self.encoder.folder / file).stat().st_size for file in files)
        self.fingerprint = self.index_fingerprint = export_fingerprint(settings, self.dtype)

    def encode_query(self, queries: Sequence[str]) -> np.ndarray:
        blocks = progress_bar(range(0, len(queries), BLOCK), desc="encode query", delay=2)
        with self.timings.measure("encode queries", len(queries)):
            parts = [self.encoder.encode(queries[start : start + BLOCK]) for start in blocks]
        return np.concatenate(parts)

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By `QueryEncoder.encode`."""
        self.encoder.encode(queries, batch_size)


class ServiceEncoder(Encoder):
    """An embedding service; a text is sent once, whatever texts are beside it, in all runs."""

    backend, is_local = "service", False

    def __init__(self, service: Service, long_texts: str, timings: Timings) -> None:
        self.service, self.name, self.timings = service, service.name, timings
        self._marks = MARKS[long_texts]
        self.fingerprint = service.fingerprint
        self.index_fingerprint = text_sha256([spelt_alike(service.url), service.model])
        self.size = models.Description(0, 0, service.dimension)
        self.normalises = is_normalised(service.of_fixed_texts)
        self._stored = TextVectors(text_sha256([self.fingerprint], "service"), self.dimension)
        self._check_unchanged()

    def embed_once(self, queries: list[str]) -> Rows:
        self._fill(queries)
        rows = self._stored.rows(queries, self._marks)
        if (rows == -1).any():
            text = queries[int(np.argmin(rows))]
            raise UserError(f"{self.name} has no vector of {shortened(text)!r}, which is skipped.")
        return Rows(self._stored.array(), rows)

    def skipped(self, texts: Sequence[str]) -> set[str]:
        if self._marks != MARKS["skip"]:
            return set()
        self._fill(texts)
        return set(self._stored.missing(texts))

    def _fill(self, texts: Sequence[str]) -> None:
        for mark, how in self._marks.items():
            embed = partial(self.service.embed, long_texts=how, without=mark)
            missing = self._stored.missing(texts, self._marks)
            self._stored.fill([mark + text for text in missing], embed, SERVICE_BLOCK)

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """By requests of `batch_size` queries, one after the other."""
        for start in range(0, len(queries), batch_size):
            self.service.embed(queries[start : start + batch_size])

    def announce(self, texts: Sequence[str], price: float | None = None) -> None:
        missing, unique = self._stored.missing(texts, self._marks), len(set(texts))
        tokens = sum(len(self.service.prompt) + len(text) for text in missing) / CHARACTERS
        there = f" ({unique - len(missing):,} are there)" if len(missing) < unique else ""
        cost = f", about ${tokens / 1e6 * price:,.2f}" if price else ""
        sent = f"{len(missing):,} texts to send{there}"
        say(f"{self.name}: {sent}, roughly {tokens:,.0f} tokens{cost}.")

    def _check_unchanged(self) -> None:
        """Compare the answers to fixed texts with those of an earlier start, or keep them."""
        how = f"{self.dimension} dimensions, and had others in an earlier run"
        path, cosine = next(iter(self._stored.others), self._stored.path), 0.0
        if path == self._stored.path:
            self._stored.add(FIXED_TEXTS, self.service.of_fixed_texts)
            earlier = self._stored.array()[self._stored.rows(FIXED_TEXTS)]
            now = self.service.of_fixed_texts
            cosine = float((normalised(earlier) * normalised(now)).sum(axis=1).min())
            longer = np.linalg.norm(now) / np.linalg.norm(earlier)
            how = f"a cosine of {cosine:.3f} to those of an earlier run, {longer:.3g} times as long"
            cosine = min(cosine, longer, 1 / longer)
        if cosine < SAME:
            raise UserError(
                f"{self.name} has changed: its vectors of fixed texts have {how}. An index and a "
                f"student of the earlier ones do not fit; to begin anew, delete {path}."
            )


class VectorEncoder(Encoder):
    """Texts with vectors that somebody has: they alone are trained, validated and compared on."""

    backend, is_local = "vectors", False

    def __init__(self, sources: Sequence[str], timings: Timings) -> None:
        self.vectors, self.timings = read_vectors(sources), timings
        self.name = ", ".join(Path(source).name for source in sources)
        # Nothing says what made them.
        self.fingerprint = self.index_fingerprint = self.vectors.sha256
        self.size = models.Description(0, 0, self.vectors.embeddings.shape[1])
        self.normalises = is_normalised(self.vectors.embeddings)

    @cached_property
    def texts(self) -> tuple[list[str], list[str]]:
        texts, out = self.vectors.texts, held_out(self.vectors.texts)
        return list(compress(texts, ~out)), list(compress(texts, out))

    def embed_once(self, queries: list[str]) -> Rows:
        """The vectors that the texts have; `UserError` if one has none."""
        return Rows(self.vectors.embeddings, self.vectors.rows(queries))

    def announce(self, texts: Sequence[str], price: float | None = None) -> None:
        count, dimension = self.vectors.embeddings.shape
        say(f"{self.name}: {count:,} vectors of {dimension} dimensions.")
