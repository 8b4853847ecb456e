"""A FAISS index of any kind: opened mapped, checked, and searched as it is saved or otherwise."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError
from disret.files import readable
from disret.retrieve.ids import Ids

if TYPE_CHECKING:
    import faiss

SAMPLE, TOLERANCE = 100, 0.01  # vectors whose lengths are looked at, and may differ by that


def index_file(path: Path) -> Path:
    """The index in a folder as LangChain and Pyserini leave it, or else what the path names."""
    return next(filter(Path.is_file, (path / "index.faiss", path / "index")), path)


class FaissFile:
    """The index of a file, where faiss can map it so that only what is searched is read.

    Rows are positions in the order in which the vectors were added, whatever an IDMap calls them.
    Inverted lists with numbers of their own know no order: there a row is a place among the sorted
    numbers, and the first of those that are equal stands for all.

    Attributes:
        description: such as "IndexIVFFlat, inner product, 4 of 16 lists probed".
        files: the index, and its inverted lists if they are in a file of their own.
        is_ordered: whether rows are in the order in which the vectors were added.
        layers: the index and what it wraps, to change ids or vectors, from the outermost.

    Raises:
        UserError: it is not an index of float vectors, or was never trained.
    """

    def __init__(self, path: Path) -> None:
        import faiss

        self.path, self.files = path, [path]
        self.index = index = _read(path)
        if not index.is_trained:
            raise UserError(f"{path} was never trained, so it has no vectors.")
        self.dimension, self.documents = index.d, index.ntotal
        names = {faiss.METRIC_INNER_PRODUCT: "inner product", faiss.METRIC_L2: "L2"}
        self._metric = names.get(index.metric_type, "another metric")
        self._is_distance = not faiss.is_similarity_metric(index.metric_type)
        self.layers = layers = [index]
        while hasattr(layers[-1], "index"):
            layers.append(faiss.downcast_index(layers[-1].index))
        self.description = f"{' of '.join(type(each).__name__ for each in layers)}, {self._metric}"
        self._sorted = None
        if (inverted := faiss.try_extract_index_ivf(index)) is not None:
            self.description += f", {inverted.nprobe} of {inverted.nlist} lists probed"
            lists = faiss.downcast_InvertedLists(inverted.invlists)
            sizes = enumerate(map(lists.list_size, range(lists.nlist)))
            held = [faiss.rev_swig_ptr(lists.get_ids(n), size) for n, size in sizes if size]
            numbers = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *held]))
            self._sorted = None if (numbers == np.arange(len(numbers))).all() else numbers
            if (name := Path(getattr(lists, "filename", path))).absolute() != path.absolute():
                self.files.append(name)
        self.is_ordered, self._numbers = self._sorted is None, self._sorted
        for layer in (each for each in layers if hasattr(each, "id_map")):
            if not self.is_ordered:
                raise UserError(f"{path} lost the order of its IDMap by removals; build it anew.")
            self._numbers = faiss.vector_to_array(layer.id_map)
            faiss.copy_array_to_vector(np.arange(self.documents), layer.id_map)

    def rank_by(self, score_function: str) -> None:
        """Raise `UserError` unless the index ranks as `dot`, or `cos_sim`, does.

        Cosines have the order of L2 distances too. Up to 100 vectors are looked at for their length
        of 1 if they are as they were added; an empty document may have length 0.
        """
        import faiss

        if self._metric != "inner product" and (score_function, self._metric) != ("cos_sim", "L2"):
            raise UserError(f"{self.path} ranks by {self._metric}, not as {score_function} does.")
        core = self.exhaustive()
        if score_function == "cos_sim" and isinstance(core, faiss.IndexFlat):
            rows = np.linspace(0, self.documents - 1, SAMPLE).astype(np.int64)
            lengths = np.linalg.norm(core.reconstruct_batch(rows), axis=1)
            for length in lengths[(np.abs(lengths - 1) > TOLERANCE) & (lengths > 0)]:
                raise UserError(f"{self.path} has vectors not of length 1, but of {length:.3g}.")

    def exhaustive(self) -> "faiss.Index | None":
        """What of the index has all vectors as they were added; None if nothing has."""
        import faiss

        core = self.layers[-1]
        core = faiss.downcast_index(getattr(core, "refine_index", getattr(core, "storage", core)))
        is_changed = any(isinstance(layer, faiss.IndexPreTransform) for layer in self.layers)
        has_all = isinstance(core, faiss.IndexFlat | faiss.IndexIVFFlat) and not is_changed
        return core if has_all else None

    def own_ids(self) -> Ids | None:
        """What the index calls its vectors; None if by their positions."""
        return None if self._numbers is None else Ids(self._numbers)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The hits with the settings that are saved; arguments as of `ForeignIndex.search`."""
        return self._ranked(*self.index.search(queries, k))

    def search_exactly(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The hits among all vectors, whatever the settings, where something is `exhaustive`."""
        import faiss

        core, options = self.exhaustive(), {}
        if isinstance(core, faiss.IndexIVFFlat):
            options["params"] = faiss.SearchParametersIVF(nprobe=core.nlist)
        return self._ranked(*core.search(queries, k, **options))

    def _ranked(self, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores that fall, and rows, where FAISS gives distances, and numbers of its own."""
        missing = rows == -1
        scores = -scores if self._is_distance else scores
        rows = rows if self._sorted is None else np.searchsorted(self._sorted, rows)
        scores[missing], rows[missing] = -np.inf, -1
        return scores, rows


def _read(path: Path) -> "faiss.Index":
    import faiss

    for flags in (faiss.IO_FLAG_MMAP_IFC, faiss.IO_FLAG_ONDISK_SAME_DIR):  # lists may have moved
        try:
            return faiss.read_index(str(readable(path)), flags | faiss.IO_FLAG_READ_ONLY)
        except (RuntimeError, MemoryError) as error:
            lists = re.search(r"could not open (.+) in mode", str(error))
    if lists:
        raise UserError(f"{path} needs its inverted lists beside it: there is no {lists[1]}.")
    raise UserError(f"{path} cannot be read as a FAISS index; it is none, or is cut off.")
