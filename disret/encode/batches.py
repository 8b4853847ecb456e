"""Texts to vectors, in batches of about equal cost: similar lengths, a fixed number of tokens."""

import collections
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from disret.command_line import UserError, progress_bar, say
from disret.encode.timings import Timings
from disret.encode.tokens import Tokens, tokenise

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

T = TypeVar("T")

# What fills a device without outgrowing it: the caches of a CPU, the memory of a GPU.
BATCH_TOKENS = collections.defaultdict(lambda: 65536, cpu=4096)
# What a batch costs beside its tokens, in tokens. With more padding than that, two are faster.
OVERHEAD = collections.defaultdict(lambda: 4096, cpu=64)
DEFAULT_LENGTH = 512  # tokens, for a model that has no maximum
STATIC_BATCH = 4096  # texts, for static embeddings, which cost next to nothing
# How torch says so, in whichever RuntimeError.
OUT_OF_MEMORY = re.compile("out of memory|DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED")


class BatchEncoder:
    """Encodes with a sentence-transformers model as its `encode` does, with less padding.

    A block of texts is tokenised once, by the model's own `preprocess`. The texts are then sorted
    by their number of tokens and batched so that a batch, padded to its longest text, has as many
    tokens as `batch_size` texts of maximum length. When a batch does not fit into memory, that
    number is halved for the rest of the run.

    Args:
        model: any sentence-transformers text model.
        batch_size: texts of maximum length in a batch; by default, as many as make BATCH_TOKENS.
        timings: gets the time of `tokenise` and `encode` and the counts of tokens.
    """

    def __init__(
        self,
        model: "SentenceTransformer",
        batch_size: int | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.model = model
        length = model.max_seq_length or math.inf
        length = DEFAULT_LENGTH if math.isinf(length) else length
        usual = BATCH_TOKENS[model.device.type]
        self.batch_tokens = batch_size * length if batch_size else usual
        self.timings = timings or Timings()

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        """Query embeddings, float32 [n, dimension], with a progress bar."""
        return self._embed(texts, "query")

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        """Document embeddings, likewise."""
        return self._embed(texts, "document")

    def _embed(self, texts: Sequence[str], task: str) -> np.ndarray:
        with progress_bar(total=len(texts), desc=f"encode {task}", delay=2) as bar:
            return self.encode(self.tokenise(texts, task), task, bar.update)

    def tokenise(self, texts: Sequence[str], task: str = "query") -> Tokens:
        """Tokenise a block of texts.

        Args:
            task: `query` or `document`; decides the prompt, and the route of a Router.
        """
        with self.timings.measure(_stage("tokenise", task), len(texts)):
            return tokenise(self.model, texts, task)

    def encode(
        self, tokens: Tokens, task: str = "query", progress: Callable[[int], Any] = lambda n: None
    ) -> np.ndarray:
        """Encode what `tokenise` gave.

        Args:
            task: as for `tokenise`.
            progress: called with the number of texts of each batch.

        Returns:
            float32 [n, dimension], in the order of the texts.

        Raises:
            UserError: a single text does not fit into memory.
        """
        import torch

        count = len(tokens.lengths)
        vectors = np.empty((count, self.model.get_embedding_dimension()), dtype=np.float32)
        with self.timings.measure(_stage("encode", task), count) as stage:
            embeddings = []
            order = np.argsort(-tokens.lengths, kind="stable")
            done = 0
            while done < count:
                batch = order[done : done + self._fill(tokens, order[done:])]
                embedding = self._try(tokens, batch, task)
                if embedding is None:
                    continue  # with half the tokens
                embeddings.append(embedding)
                done += len(batch)
                own = tokens.lengths[batch]
                stage.tokens += int(own.sum())
                stage.positions += int(own.sum() if tokens.layout.packed else own[0] * len(own))
                progress(len(batch))
            if embeddings:
                vectors[order] = torch.cat(embeddings).float().cpu().numpy()
        return vectors

    def _fill(self, tokens: Tokens, rows: np.ndarray) -> int:
        """How many texts go into the next batch; the lengths of `rows` are falling."""
        if tokens.layout.packed:
            return STATIC_BATCH
        longest = max(1, int(tokens.lengths[rows[0]]))
        fitting = tokens.lengths[rows[: max(1, self.batch_tokens // longest)]]
        padding = np.cumsum(longest - fitting)
        return int(np.searchsorted(padding, OVERHEAD[self.model.device.type], side="right"))

    def _try(self, tokens: Tokens, batch: np.ndarray, task: str) -> "torch.Tensor | None":
        """Embeddings of a batch; None, and smaller batches from now on, if memory ran out."""
        import torch
        from sentence_transformers.util import batch_to_device

        longest = max(1, int(tokens.lengths[batch[0]]))
        try:
            with torch.inference_mode():
                features = batch_to_device(tokens.batch(batch), self.model.device)
                embeddings = self.model(features, task=task)["sentence_embedding"]
                return embeddings[:, : self.model.truncate_dim]
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
                raise
            if len(batch) == 1:
                raise UserError(
                    f"a single text of {longest} tokens does not fit into the memory of "
                    f"{self.model.device}; use a smaller maximum sequence length."
                ) from None
        self.batch_tokens = max(1, longest * len(batch) // 2)
        say(f"out of memory; going on with batches of {self.batch_tokens} tokens.")
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, of which a thread makes the next while one is used."""
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = ahead.submit(next, items, None)
            yield item


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a zero row stays zero. float32 [n, dimension]."""
    import faiss

    vectors = np.array(vectors, dtype=np.float32, order="C")
    faiss.normalize_L2(vectors)
    return vectors


def check_finite(vectors: np.ndarray, texts: Sequence[str]) -> None:
    """Raise `UserError`, naming the first such text, if a vector has a value that is no number."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        text = texts[int(np.argmin(finite))]
        raise UserError(
            f"the encoder gives values that are not numbers for {text[:60]!r} "
            f"({int((~finite).sum())} of {len(texts)} texts)."
        )


def _stage(name: str, task: str) -> str:
    return name if task == "document" else f"{name} queries"
