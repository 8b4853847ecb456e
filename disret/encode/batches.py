"""Texts to vectors, in batches of about equal cost: similar lengths, a fixed number of tokens."""

import collections
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import UserError, is_main_process, say
from disret.encode.models import prompt_of
from disret.encode.stages import Stages

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PIECE_TOKENS = 1 << 20  # tokenised together, at most: 24 MB of token ids, masks and types
# What fills a device without outgrowing it: the caches of a CPU, the memory of a GPU.
BATCH_TOKENS = collections.defaultdict(lambda: 65536, cpu=4096)
# What a batch costs beside its tokens, in tokens. With more padding than that, two are faster.
OVERHEAD = collections.defaultdict(lambda: 4096, cpu=64)
DEFAULT_LENGTH = 512  # tokens, for a model that has no maximum
STATIC_BATCH = 4096  # texts, for static embeddings, which cost next to nothing


@dataclass(frozen=True)
class Piece:
    """Texts of similar length, tokenised.

    Attributes:
        rows: int64 [n], which texts of the block these are.
        texts: the texts, for models that only `SentenceTransformer.encode` can batch.
        features: what the model's `preprocess` gave, padded to the longest of the piece.
        lengths: int64 [n], tokens of each text.
    """

    rows: np.ndarray
    texts: list[str]
    features: dict[str, Any] | None
    lengths: np.ndarray | None


class BatchEncoder:
    """Encodes with a sentence-transformers model as its `encode` does, with less padding.

    A block of texts is tokenised once, by the model's own `preprocess`. The texts are then sorted
    by their number of tokens and batched so that a batch, padded to its longest text, has as many
    tokens as `batch_size` texts of maximum length. When a batch does not fit into memory, that
    number is halved for the rest of the run.

    Args:
        model: any sentence-transformers text model.
        batch_size: texts of maximum length in a batch; by default, as many as make BATCH_TOKENS.
        stages: gets the time of `tokenise` and `encode` and the counts of tokens.
    """

    def __init__(
        self,
        model: "SentenceTransformer",
        batch_size: int | None = None,
        stages: Stages | None = None,
    ) -> None:
        self.model = model
        length = model.max_seq_length or math.inf
        self.length = DEFAULT_LENGTH if math.isinf(length) else length
        self.batch_tokens = BATCH_TOKENS[model.device.type]
        if batch_size:
            self.batch_tokens = batch_size * self.length
        self.stages = stages or Stages()
        self._library_batch: dict[str, int] = {}  # of tasks that only `encode` can batch

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        """Query embeddings, float32 [n, dimension]."""
        return self._encode_texts(texts, "query")

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        """Document embeddings, float32 [n, dimension]."""
        return self._encode_texts(texts, "document")

    def tokenise(self, texts: Sequence[str], task: str) -> list[Piece]:
        """Tokenise a block of texts.

        Args:
            task: `query` or `document`; decides the prompt, and the route of a Router.
        """
        prompt = prompt_of(self.model, task)
        with self.stages.measure(_stage("tokenise", task), len(texts)):
            lengths = np.array([len(text) for text in texts])
            order = np.argsort(-lengths, kind="stable")
            pieces, done = [], 0
            while done < len(order):
                # A token has a character at least, but for a few; the first text is the longest.
                longest = lengths[order[done]]
                tokens = min(self.length, longest + len(prompt or "") + 8)
                similar = np.count_nonzero(lengths[order[done:]] >= longest / 2)
                rows = order[done : done + min(max(similar, 32), int(PIECE_TOKENS // tokens) + 1)]
                pieces.append(self._tokenise_piece(rows, texts, task, prompt))
                done += len(rows)
            return pieces

    def encode(
        self, pieces: Sequence[Piece], task: str, progress: Callable[[int], Any] = lambda n: None
    ) -> np.ndarray:
        """Encode tokenised texts.

        Args:
            task: as for `tokenise`.
            progress: called with the number of texts of each batch.

        Returns:
            float32 [n, dimension], in the order of the texts.

        Raises:
            UserError: a single text does not fit into memory.
        """
        import torch

        count = sum(len(piece.rows) for piece in pieces)
        vectors = np.empty((count, self.model.get_embedding_dimension()), dtype=np.float32)
        with self.stages.measure(_stage("encode", task), count) as stage:
            for piece in pieces:
                if piece.features is None:
                    vectors[piece.rows] = self.model.encode(
                        piece.texts, batch_size=self._library_batch[task], task=task,
                        prompt=prompt_of(self.model, task), show_progress_bar=False,
                    )  # fmt: skip
                    progress(len(piece.rows))
                    continue
                embeddings = []
                order = np.argsort(-piece.lengths, kind="stable")
                done = 0
                while done < len(order):
                    longest = max(1, int(piece.lengths[order[done]]))
                    batch = order[done : done + self._fill(piece.lengths[order[done:]])]
                    embedding = self._try(piece.features, batch, longest, task)
                    if embedding is None:
                        continue  # with half the tokens
                    embeddings.append(embedding)
                    done += len(batch)
                    stage.tokens += int(piece.lengths[batch].sum())
                    stage.positions += longest * len(batch)
                    progress(len(batch))
                vectors[piece.rows[order]] = torch.cat(embeddings).float().cpu().numpy()
        return vectors

    def _encode_texts(self, texts: Sequence[str], task: str) -> np.ndarray:
        from tqdm import tqdm

        hidden = not is_main_process()
        with tqdm(total=len(texts), desc=f"encode {task}", delay=2, disable=hidden) as bar:
            return self.encode(self.tokenise(texts, task), task, bar.update)

    def _tokenise_piece(
        self, rows: np.ndarray, texts: Sequence[str], task: str, prompt: str | None
    ) -> Piece:
        own = [texts[row] for row in rows]
        if task in self._library_batch:
            return Piece(rows, own, None, None)
        features = self.model.preprocess(own, prompt=prompt, task=task)
        mask = features.get("attention_mask")
        if mask is not None and mask.ndim == 2 and len(mask) == len(own):
            return Piece(rows, own, features, mask.sum(1).numpy())
        packed = "cu_seq_lens_q" in features  # for flash attention, which needs no padding
        self._library_batch[task] = (
            max(1, self.batch_tokens // self.length) if packed else STATIC_BATCH
        )
        return Piece(rows, own, None, None)

    def _fill(self, lengths: np.ndarray) -> int:
        """How many texts go into the next batch; `lengths` are falling."""
        longest = max(1, int(lengths[0]))
        fitting = lengths[: max(1, self.batch_tokens // longest)]
        padding = np.cumsum(longest - fitting)
        return int(np.searchsorted(padding, OVERHEAD[self.model.device.type], side="right"))

    def _try(self, features: dict[str, Any], batch: np.ndarray, longest: int, task: str) -> Any:
        """Embeddings of a batch; None, and smaller batches from now on, if memory ran out."""
        import torch

        try:
            with torch.inference_mode():
                cut = _cut(features, batch)
                cut = {k: v.to(self.model.device) if torch.is_tensor(v) else v
                       for k, v in cut.items()}  # fmt: skip
                embeddings = self.model(cut, task=task)["sentence_embedding"]
                return embeddings[:, : self.model.truncate_dim]
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
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


def _cut(features: dict[str, Any], batch: np.ndarray) -> dict[str, Any]:
    """The rows of a batch, without the columns that are padding for all of them."""
    import torch

    mask = features["attention_mask"]
    rows = torch.from_numpy(batch)
    columns = mask[rows].any(0)
    columns[0] |= not columns.any()  # texts without any token still make a batch

    def cut(value: Any) -> Any:
        if not torch.is_tensor(value) or value.ndim == 0 or len(value) != len(mask):
            return value
        value = value[rows]
        return value[:, columns] if value.shape[1:2] == mask.shape[1:2] else value

    return {key: cut(value) for key, value in features.items()}


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on CUDA or on the CPU."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "DefaultCPUAllocator" in str(error) or "CUDA out of memory" in str(error)
