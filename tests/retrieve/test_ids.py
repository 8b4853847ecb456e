"""Document ids, from text files and from columns of every type."""

import codecs
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disret.command_line import UserError
from disret.retrieve.ids import Ids, column_ids, own_ids, read_ids

HITS = np.array([[2, 0], [0, -1]])


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "END", "END" * 3])
def test_lines_however_they_end(tmp_path, mark, end, last):
    path = tmp_path / "ids.txt"
    path.write_bytes(mark + f"aENDüENDlast{last}".replace("END", end).encode())
    ids = read_ids(path)
    assert len(ids) == 3
    assert list(ids) == ["a", "ü", "last"]
    assert ids.take(HITS).tolist() == [["last", "a"], ["a", ""]]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "FILE is empty."),
        (b"d0\n\nd2\nd3\n", "line 2 of FILE is ''; it should be a document id and nothing else."),
        (b"0\td0\n1\td1\n", "FILE begins as .tsv does; call it so."),
        (b'{"_id": "d0"}\n', "FILE begins as .jsonl does; call it so."),
        (b'id\n"d0"\n', """line 2 of FILE is '"d0"'; it"""),
        (b"d0\nd\0\n", r"line 2 of FILE is 'd\x00'; it"),
        ("d0\nd1\n".encode("utf-16-le"), "FILE is UTF-16 text or none at all; save it as UTF-8."),
        ("d0\nd1\n".encode("utf-16"), "FILE is UTF-16 text; save it as UTF-8."),
        (b"a\n\xff\n", "FILE, line 2: not UTF-8 text; save it as UTF-8."),
    ],
)
def test_lines_that_are_no_ids(tmp_path, content, said):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_ids(path)
    assert str(error.value).replace(f"{path}", "FILE").startswith(said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ids.txt#key", b"d0\nd1\n", r"has no column 'key'; there are: 1 \('d0'\)\."),
        ("ids.parquet#key", pa.table({"id": ["d0"]}), r"has no column 'key'; there are: id\."),
        ("ids.parquet#key", pa.table({f"c{n}": ["d0"] for n in range(99)}), "c18, c19, …"),
        ("ids.parquet", pa.table({"id": pa.array([], pa.string())}), r"ids\.parquet is empty\."),
        ("ids.parquet", b"", r"ids\.parquet is empty\."),
        ("ids.json", b"[]", r"ids\.json is empty\."),
        ("ids.json", b'[\n"a",\n"b" "c"]', r"ids\.json, line 3: no JSON"),
    ],
)
def test_ids_that_are_not_there(tmp_path, name, content, said):
    path = tmp_path / name.partition("#")[0]
    path.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, path)
    with pytest.raises(UserError, match=said):
        read_ids(f"{tmp_path}/{name}")


def test_great_numbers_and_many_parts(tmp_path):
    (tmp_path / "ids.jsonl").write_text(f'{{"id": {2**64 - 1}}}\n{{"id": 1}}\n')
    assert list(read_ids(tmp_path / "ids.jsonl")) == [str(2**64 - 1), "1"]
    for number in range(11):
        pq.write_table(pa.table({"id": [number]}), tmp_path / f"part-{number}.parquet")
    assert list(read_ids(tmp_path)) == [str(number) for number in range(11)]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*ids\.txt"):
        read_ids(tmp_path / "ids.txt")


def test_own_lines_are_ids_whatever_they_look_like(tmp_path):
    names = ["a", "two words", "a\ttab", "ünïcode", '"', "{}"]
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    ids = own_ids(tmp_path / "ids.txt")
    assert list(ids) == names
    assert ids.take(np.array([[5, 0], [0, 1]])).tolist() == [["{}", "a"], ["a", "two words"]]


def test_numbers():
    ids = Ids(np.array([70, -5, 1 << 40]))
    assert list(ids) == ["70", "-5", "1099511627776"]
    assert ids.take(HITS).tolist() == [["1099511627776", "70"], ["70", ""]]
    assert ids.take(HITS).dtype == object


@pytest.mark.parametrize("values", [np.array([4, 7, 4, 4, 9, 7]), pa.array(list("babbca"))])
def test_rows_of_one_document(values):
    """Passages compare by their document."""
    ids = Ids(values)
    rows = np.array([[0, 1, 2], [3, 4, 5], [-1, -1, 1]])
    found, names = ids.document_numbers(rows).ravel(), ids.take(rows).ravel()
    assert ((found[:, None] == found) == (names[:, None] == names)).all()
    assert ((found == -1) == (rows.ravel() == -1)).all()


TEXTS = ["2", "1", "0"]
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(),
              pa.binary(), pa.large_binary(), pa.binary_view()]  # fmt: skip
WHOLE = [
    *(pa.array(TEXTS).cast(kind) for kind in TEXT_TYPES),
    *(pa.array([2, 1, 0], kind) for kind in (pa.int8(), pa.int64(), pa.uint16(), pa.uint64())),
    *(pa.array([2.0, 1.0, 0.0], kind) for kind in (pa.float32(), pa.float64())),
    pa.array(np.array([2, 1, 0], np.float16)),
    *(pa.array(values).dictionary_encode() for values in (TEXTS, [2, 1, 0], [2.0, 1.0, 0.0])),
]


@pytest.mark.parametrize("column", WHOLE, ids=lambda column: str(column.type))
def test_columns_of_text_and_of_whole_numbers(column):
    """Pandas makes categories of texts, and floats of whole numbers where one was missing."""
    ids = column_ids(pa.chunked_array([column[:1], column[1:]]), "column id of FILE")
    assert list(ids) == TEXTS
    assert ids.take(HITS).tolist() == [["0", "2"], ["2", ""]]


@pytest.mark.parametrize(
    "column",
    [pa.array([0.5, 1]), pa.array([float("nan"), 1]), pa.array([Decimal("1.5")]),
     pa.array([True, False]), pa.array([[1], [2]]), pa.array([{"a": 1}]), pa.array([b"\xff"]),
     pa.array([uuid.UUID(int=1).bytes], pa.uuid()), pa.array([b"ab"], pa.binary(2)),
     pa.array([1, 2], pa.timestamp("s")), pa.array([0.5]).dictionary_encode()],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_columns_that_are_no_ids(column):
    with pytest.raises(UserError, match=r"column id of FILE has .* that are no text or whole numb"):
        column_ids(pa.chunked_array([column]), "column id of FILE")


@pytest.mark.parametrize("values", [["a", None], ["a", ""], [1, None], [1.0, None]])
def test_rows_without_an_id(values):
    with pytest.raises(UserError, match="column id of FILE has no document id in row 1"):
        column_ids(pa.chunked_array([values]), "column id of FILE")
