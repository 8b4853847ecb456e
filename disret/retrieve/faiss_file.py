"""A FAISS index of any kind: opened mapped, checked, and searched as it is saved or otherwise."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError
from disret.files import readable
from disret.retrieve.row_ids import NumberIds

if TYPE_CHECKING:
    import faiss

SAMPLE = 100  # vectors whose lengths are looked at
NOT_OF_SEARCH = ("efConstruction", "verbose")  # FAISS takes them, to no effect on what is found
EXACT, SCALAR, COARSE = 0.01, 0.05, 0.5  # by how much the lengths of 1 of stored vectors differ


class FaissFile:
    """The index of a file, where faiss can map it so that only what is searched is read.

    Rows are positions: the order in which the vectors were added, or, where an inverted file has
    numbers of its own, that of the numbers.

    Raises:
        UserError: it is not an index of float vectors, or was never trained.
    """

    def __init__(self, path: Path) -> None:
        import faiss

        self.path = path
        self._index = _read(path)
        self._layers = [self._index]  # from the outermost; those that change ids or vectors
        while hasattr(self._layers[-1], "index"):
            self._layers.append(faiss.downcast_index(self._layers[-1].index))
        self._inverted = faiss.try_extract_index_ivf(self._index)
        if not self._index.is_trained:
            raise UserError(f"{path} was never trained, so it has no vectors.")

    @property
    def dimension(self) -> int:
        return self._index.d

    @property
    def documents(self) -> int:
        return self._index.ntotal

    @property
    def description(self) -> str:
        """Such as "IndexIDMap of IndexIVFFlat, inner product, 4 of 16 lists probed"."""
        kind = " of ".join(type(layer).__name__ for layer in self._layers)
        said = f"{kind}, {'L2' if self._is_distance else 'inner product'}"
        if self._inverted is not None:
            said += f", {self._inverted.nprobe} of {self._inverted.nlist} lists probed"
        return said

    @property
    def other_files(self) -> list[Path]:
        """Where the inverted lists are, if in a file of their own."""
        import faiss

        if self._inverted is None:
            return []
        lists = faiss.downcast_InvertedLists(self._inverted.invlists)
        name = getattr(lists, "filename", "")
        return [Path(name)] if name and Path(name).absolute() != self.path.absolute() else []

    def ids(self) -> NumberIds:
        """The numbers that the index gives its vectors."""
        return NumberIds(self.documents, self._numbers)

    @property
    def has_order(self) -> bool:
        """Whether the index knows in which order its vectors were added."""
        return self._numbers is None or self._mapped_numbers is not None

    def check_score(self, score_function: str) -> None:
        """Raise `UserError` unless the index ranks as `dot`, or `cos_sim`, does.

        The lengths of up to 100 vectors are looked at. As stored they may differ by 1 %, or by 5 %
        in the middle if scalars are quantised. Coarser codes such as PQ's tell less: their vectors
        may differ by half. An index that gives no vectors back is believed to be of unit vectors.
        """
        import faiss

        if self._index.metric_type not in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
            raise UserError(f"{self.path} ranks neither by inner product nor by L2 distance.")
        lengths = self._lengths()
        if score_function == "cos_sim":
            if lengths is not None and not self._are_near(lengths, 1, self._tolerance):
                raise UserError(
                    f"{self.path} should have vectors of length 1 for cosines, "
                    f"but theirs are {lengths.min():.3g} to {lengths.max():.3g} long."
                )
        elif self._is_distance:
            order = "the order of the dot product only among vectors of one length"
            if lengths is None:
                raise UserError(
                    f"{self.path} ranks by L2 distance, {order}; it does not tell theirs."
                )
            if not self._are_near(lengths, np.median(lengths), min(self._tolerance, SCALAR)):
                raise UserError(
                    f"{self.path} ranks by L2 distance, {order}; "
                    f"its own are {lengths.min():.3g} to {lengths.max():.3g} long."
                )

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The hits as the index finds them, with the settings that are saved in it.

        Args:
            queries: float32 [n_queries, dimension].

        Returns:
            Scores float32 [n_queries, k], falling, of L2 distances their negatives, and rows int64
            [n_queries, k]. Where the index finds fewer, -inf and -1.
        """
        scores, numbers = self._index.search(queries, k)
        return self._ranked(scores, numbers, self._numbers is not None)

    def set_parameters(self, values: Mapping[str, float]) -> None:
        """Search with these from now on; the file stays as it is.

        Raises:
            UserError: this kind of index has no such parameter.
        """
        set_parameters(self._index, values, str(self.path))

    @property
    def has_vectors(self) -> bool:
        """Whether the vectors themselves are in it, so that `search_exactly` can look at all."""
        return self._exhaustive is not None

    def search_exactly(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The hits among all vectors, whatever the settings, where it `has_vectors`.

        Arguments and result as those of `search`.
        """
        import faiss

        inner = self._exhaustive
        options = {}
        if isinstance(inner, faiss.IndexIVFFlat):
            options["params"] = faiss.SearchParametersIVF(nprobe=inner.nlist)
        scores, numbers = inner.search(queries, k, **options)
        is_own = self._mapped_numbers is None and self._numbers is not None
        return self._ranked(scores, numbers, is_own)

    def _ranked(
        self, scores: np.ndarray, numbers: np.ndarray, are_own: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores that fall, and rows, where FAISS gives distances, and numbers of its own."""
        missing = numbers == -1
        if self._is_distance:
            scores = -scores
        rows = self._rows_of(numbers) if are_own else numbers
        scores[missing], rows[missing] = -np.inf, -1
        return scores, rows

    @cached_property
    def _exhaustive(self) -> "faiss.Index | None":
        """What of the index searches all vectors as they were added; None if nothing does."""
        import faiss

        if any(isinstance(layer, faiss.IndexPreTransform) for layer in self._layers):
            return None
        core = self._layers[-1]
        if isinstance(core, faiss.IndexRefine):
            core = faiss.downcast_index(core.refine_index)
        elif isinstance(core, faiss.IndexHNSWFlat | faiss.IndexNSGFlat):
            core = faiss.downcast_index(core.storage)
        return core if isinstance(core, faiss.IndexFlat | faiss.IndexIVFFlat) else None

    @property
    def _is_distance(self) -> bool:
        import faiss

        return self._index.metric_type == faiss.METRIC_L2

    @property
    def _tolerance(self) -> float:
        kind = type(self._layers[-1]).__name__
        if "Flat" in kind:
            return EXACT
        return SCALAR if "ScalarQuantizer" in kind or "SQ" in kind else COARSE

    def _are_near(self, lengths: np.ndarray, wanted: float, tolerance: float) -> bool:
        deviations = np.abs(lengths - wanted)
        typical = np.max(deviations) if self._tolerance == EXACT else np.median(deviations)
        return bool(typical <= tolerance * wanted)

    @cached_property
    def _mapped_numbers(self) -> np.ndarray | None:
        """The numbers of an IDMap, in the order of the vectors."""
        import faiss

        for layer in self._layers:
            if hasattr(layer, "id_map"):
                return faiss.vector_to_array(layer.id_map)
        return None

    @cached_property
    def _numbers(self) -> np.ndarray | None:
        """int64 [documents], what `faiss` calls each row; None if by its position."""
        numbers = self._mapped_numbers
        if numbers is None and self._inverted is not None:
            parts = list(map(self._list_ids, range(self._inverted.nlist)))
            held = [part for part in parts if len(part)]
            if all(part.min() >= 0 and part.max() < self.documents for part in held):
                return None
            numbers = np.sort(np.concatenate(held))
        if numbers is None or np.array_equal(numbers, np.arange(len(numbers))):
            return None
        return numbers

    def _list_ids(self, number: int) -> np.ndarray:
        import faiss

        lists = self._inverted.invlists
        count = lists.list_size(number)
        if not count:
            return np.empty(0, dtype=np.int64)
        return faiss.rev_swig_ptr(lists.get_ids(number), count)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._numbers, kind="stable")

    def _rows_of(self, numbers: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._numbers, numbers, sorter=self._order)
        return self._order[np.minimum(places, len(self._order) - 1)]

    def _lengths(self) -> np.ndarray | None:
        """The lengths of some vectors, evenly from all; None if the index gives none back."""
        import faiss

        core = self._layers[-1]
        if core.d != self.dimension or "FastScan" in type(core).__name__:
            return None  # reduced vectors are shorter; faiss 1.15 crashes on an IVF's fast scan
        rows = np.unique(np.linspace(0, self.documents - 1, SAMPLE).astype(np.int64))
        vectors = np.empty((len(rows), core.d), dtype=np.float32)
        try:
            if isinstance(core, faiss.IndexIVF):
                ends = np.cumsum([core.invlists.list_size(n) for n in range(core.nlist)])
                lists = np.searchsorted(ends, rows, side="right")
                starts = np.concatenate([[0], ends])[lists]
                places = zip(lists.tolist(), (rows - starts).tolist(), strict=True)
                for vector, place in zip(vectors, places, strict=True):
                    core.reconstruct_from_offset(*place, faiss.swig_ptr(vector))
            else:
                for vector, row in zip(vectors, rows.tolist(), strict=True):
                    core.reconstruct(row, vector)
        except RuntimeError:
            return None
        return np.linalg.norm(vectors, axis=1)


def set_parameters(index: "faiss.Index", values: Mapping[str, float], name: str) -> None:
    """Let an index search with these, by FAISS's names such as `efSearch` and `nprobe`.

    Args:
        name: of the index, for the error.

    Raises:
        UserError: this kind of index has no such parameter.
    """
    import faiss

    for parameter, value in values.items():
        try:
            if parameter in NOT_OF_SEARCH:
                raise RuntimeError
            faiss.ParameterSpace().set_index_parameter(index, parameter, value)
        except RuntimeError:
            kind = type(index).__name__
            raise UserError(
                f"{name} ({kind}) has no parameter {parameter} of its search."
            ) from None


def _read(path: Path) -> "faiss.Index":
    import faiss

    with readable(path).open("rb") as file:
        if file.read(2) == b"IB":  # IBxF, IBwF and so on
            raise UserError(f"{path} is a binary FAISS index, whose vectors are no floats.")
    for flags in (faiss.IO_FLAG_MMAP_IFC, 0):
        try:
            return faiss.read_index(str(path), flags | faiss.IO_FLAG_READ_ONLY)
        except (RuntimeError, MemoryError):
            continue
    raise UserError(f"{path} cannot be read as a FAISS index; it is none, or is cut off.")
