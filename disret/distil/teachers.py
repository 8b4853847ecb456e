"""The teacher of a run: a model, a service, or vectors that exist already."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from disret.command_line import say, without_secrets
from disret.data.vectors import is_normalised, read_vectors, split
from disret.encode.cached import Rows, embedded_once, query_embeddings
from disret.encode.models import fingerprint, load_encoder, place, with_dimensions, with_prompt
from disret.encode.service import Service, is_address, parsed_options
from disret.files import text_sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Teacher(Protocol):
    """What puts queries where the student shall put them.

    Attributes:
        name: for people.
        on_hub: its name on the model hub, if it is there.
        model: if its weights are at hand.
        sha256: of what decides its vectors.
        encoder_sha256: of what embeds the documents, whatever is put before a query or cut off.
        dimension: of them.
        texts: queries and sentences to train on, and queries to validate on, if it has vectors of
            no others.
    """

    name: str
    on_hub: str | None
    model: "SentenceTransformer | None"
    sha256: str
    encoder_sha256: str
    dimension: int
    texts: tuple[list[str], list[str], list[str]] | None

    def embed(self, texts: list[str]) -> Rows:
        """Their vectors, float32 [n_texts, dimension], on disk: computed once for all runs."""

    def normalises(self) -> bool:
        """Whether its vectors have length 1."""

    def announce(self, texts: Sequence[str]) -> None:
        """Say what embedding the texts takes."""

    def release(self) -> None:
        """Give memory back; nothing is embedded after that."""


class ModelTeacher:
    """A sentence-transformers model.

    Args:
        dtype: what it computes the vectors in.
        batch_size: that of `BatchEncoder`.
        encoder_sha256: the fingerprint of the model as it embeds documents, if that is another.
    """

    texts = None

    def __init__(
        self,
        model: "SentenceTransformer",
        name: str,
        device: str,
        dtype: str,
        batch_size: int | None = None,
        encoder_sha256: str | None = None,
    ) -> None:
        from sentence_transformers.sentence_transformer.modules import Normalize

        self.model, self.name, self.device, self.dtype = model, name, device, dtype
        self.batch_size = batch_size
        is_short = "/" not in name  # names of the hub without an owner are this library's own
        on_hub = f"sentence-transformers/{name}" if is_short else name
        self.on_hub = None if Path(name).exists() else on_hub
        self.sha256 = fingerprint(model)
        self.encoder_sha256 = encoder_sha256 or self.sha256
        self.dimension = model.get_embedding_dimension()
        self._normalises = any(isinstance(module, Normalize) for module in model)
        self._is_placed = False

    def embed(self, texts: list[str]) -> Rows:
        self._place()
        return Rows(query_embeddings(self.model, self.sha256, self.dtype, texts, self.batch_size))

    def on_device(self) -> "SentenceTransformer":
        """The model where it will embed; in float32, unless its files hold less."""
        if any(parameter.itemsize < 4 for parameter in self.model.parameters()):
            self._place()
        return self.model.to(self.device)

    def _place(self) -> None:
        if not self._is_placed:
            place(self.model, self.device, self.dtype, self.name)
            self._is_placed = True

    def normalises(self) -> bool:
        return self._normalises

    def announce(self, texts: Sequence[str]) -> None:
        say(f"{self.name}: {len(texts):,} texts to embed, in {self.dtype} on {self.device}.")

    def release(self) -> None:
        self.model = None


class ServiceTeacher:
    """An embedding service; a text is sent once, however often it is asked for."""

    model = on_hub = texts = None

    def __init__(self, service: Service) -> None:
        self.service, self.name = service, service.name
        self.sha256, self.dimension = service.fingerprint, service.dimension
        self.encoder_sha256 = text_sha256([without_secrets(service.url), service.model])

    def embed(self, texts: list[str]) -> Rows:
        return embedded_once(self.service, texts)

    def normalises(self) -> bool:
        return self.service.normalises

    def announce(self, texts: Sequence[str]) -> None:
        self.service.announce(list(dict.fromkeys(texts)))

    def release(self) -> None:
        pass


class VectorTeacher:
    """Texts with vectors that somebody has: they alone are trained and validated on."""

    model = on_hub = None

    def __init__(self, sources: Sequence[str], limit: int | None = None) -> None:
        vectors = read_vectors(sources, limit)
        self.name = ", ".join(Path(source).name for source in sources)
        self.sha256, self.vectors = vectors.sha256, vectors
        self.encoder_sha256 = vectors.sha256  # as nothing says what made them
        self.dimension = vectors.embeddings.shape[1]
        train, valid = split(vectors)
        self.texts = tuple([vectors.texts[row] for row in rows] for rows in (train, [], valid))

    def embed(self, texts: list[str]) -> Rows:
        """The vectors that the texts have.

        Raises:
            UserError: one has none.
        """
        return Rows(self.vectors.embeddings, self.vectors.rows(texts))

    def normalises(self) -> bool:
        return is_normalised(self.vectors.embeddings)

    def announce(self, texts: Sequence[str]) -> None:
        say(f"{self.name}: {len(self.vectors.texts):,} vectors of {self.dimension} dimensions.")

    def release(self) -> None:
        pass


def open_teacher(args: Namespace, device: str) -> Teacher:
    """The teacher that the arguments of distill.py name.

    Raises:
        UserError: it is not there, or is no teacher.
    """
    if args.teacher_vectors:
        return VectorTeacher(args.teacher_vectors, args.max_queries)
    if is_address(args.teacher):
        options = parsed_options(args.teacher_option)
        prompt = args.teacher_prompt or ""
        return ServiceTeacher(Service(args.teacher, args.teacher_model, options, prompt))
    model = load_encoder(args.teacher, "cpu", args.max_seq_length, dtype="auto")
    is_changed = args.teacher_prompt is not None or args.truncate_dim is not None
    encoder_sha256 = fingerprint(model) if is_changed else None
    if args.teacher_prompt is not None:
        with_prompt(model, args.teacher_prompt)
    if args.truncate_dim is not None:
        model = with_dimensions(model, args.truncate_dim)
    return ModelTeacher(
        model, args.teacher, device, args.teacher_dtype, args.eval_batch_size, encoder_sha256
    )
