"""Logs, tables and lists as other tools leave them: what is read, what is refused, what is said."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disret.command_line import UserError
from disret.data.queries import read_queries, training_queries, weighted_source
from disret.data.text_files import lines, open_table

TEXTS = ["music cat king, 17", 'say "no" to rain', "Straße  der   Wörter", "what is 5"]
CLICKS = [17, 3, 0, 5]


def csv_of(delimiter=",", header=("date", "search term", "clicks")):
    cells = [header] if header else []
    cells += [(f"2026-01-{n + 1:02}", text, clicks)
              for n, (text, clicks) in enumerate(zip(TEXTS, CLICKS, strict=True))]  # fmt: skip
    quoted = ['"{}"'.format(str(cell).replace('"', '""')) for row in cells for cell in row]
    rows = [quoted[n : n + 3] for n in range(0, len(quoted), 3)]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def objects(*keys):
    return [{"id": n, **dict.fromkeys(keys, text)} for n, text in enumerate(TEXTS)]


def jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def tsv(header=""):
    return header + "".join(f"{n}\t{text}\n" for n, text in enumerate(TEXTS))


LOGS = {
    "comma.csv": csv_of(),
    "semicolon.csv": csv_of(";"),
    "tab.csv": csv_of("\t"),
    "excel.CSV": "sep=;\n" + csv_of(";"),
    "unnamed.csv#2": csv_of(header=None),
    "odd.csv#Suchbegriff": csv_of(header=("Datum", "Suchbegriff", "Klicks")),
    "odd.csv#2": csv_of(header=("date", "gesucht", "clicks")),
    "one.csv": "Query\n" + "".join('"{}"\n'.format(t.replace('"', '""')) for t in TEXTS),
    "plain.tsv": tsv(),
    "header.tsv": tsv("query_id\tquery\n"),
    "log.TSV": tsv(),
    "log.tab": tsv(),
    "plain.txt": "".join(f"{text}\n" for text in TEXTS),
    "carriage.txt": "\r".join(TEXTS),
    "windows.txt": "\r\n".join(TEXTS) + "\r\n\r\n",
    "mark.txt": "\ufeff" + "\n".join(TEXTS),
    "mark.csv": "\ufeff" + csv_of(),
    "objects.jsonl": jsonl(objects("text")),
    "objects.ndjson": jsonl(objects("query")),
    "objects.JSONL#wanted": jsonl(objects("text", "wanted")),
    "list.json": json.dumps(objects("question"), indent=1),
    "texts.json": json.dumps(TEXTS),
    "camel.csv": csv_of(header=("docId", "searchTerm", "text")),
    "both.csv": csv_of(header=("text", "question", "clicks")),
    "counted.csv": csv_of(header=("id", "Suchbegriff", "Klicks")).replace("2026-01-", ""),
    "counts.tsv": "".join(f"{text}\t{n}\n" for n, text in enumerate(TEXTS)),
    "counts.csv": pd.DataFrame({"text": TEXTS, "n": CLICKS}).to_csv(index=False, header=False),
    "spaced.csv": csv_of(", "),
    "pandas.tsv": pd.DataFrame({"query": TEXTS}).to_csv(sep="\t"),
    "lines.json": jsonl(objects("text")),
}


@pytest.mark.parametrize("packed", [False, True], ids=["", "gzip"])
@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_read(tmp_path, monkeypatch, capsys, name, packed):
    """Gzip is known by content, whatever the name says."""
    monkeypatch.chdir(tmp_path)
    content = LOGS[name].encode()
    file = tmp_path / name.partition("#")[0]
    file.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    found = read_queries([name])
    if name == "odd.csv#2":  # nobody can know that its first line holds names
        assert found.pop(0) == "gesucht" or file.name != "odd.csv"
    assert found == TEXTS
    said = capsys.readouterr().err
    blank = " (1 blank lines are skipped)" if name == "windows.txt" else ""
    assert f"{len(found) + (name == 'odd.csv#2')} queries{blank}, such as: " in said
    assert repr(TEXTS[0]) in said


def test_a_parquet_log_and_its_parts(tmp_path, capsys):
    table = pa.table({"at": CLICKS, "search_query": TEXTS, "shown": [["a"]] * 4})
    pq.write_table(table, tmp_path / "log.parquet")
    assert read_queries([tmp_path / "log.parquet"]) == TEXTS
    assert "log.parquet, column search_query: 4 queries, such as" in capsys.readouterr().err
    (tmp_path / "parts").mkdir()
    for number in range(2):
        part = table.slice(2 * number, 2)
        pq.write_table(part, tmp_path / f"parts/part-{number}.snappy.parquet")
    (tmp_path / "parts/_SUCCESS").touch()
    assert read_queries([f"{tmp_path}/parts#search_query"]) == TEXTS


def test_a_weight_may_follow_a_column(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weighted_source("log.csv#search term@2") == ("log.csv#search term", 2.0)
    (tmp_path / "odd#name.txt").write_text("one\n")
    assert read_queries(["odd#name.txt"]) == ["one"]


def test_blank_queries_are_skipped_and_counted(tmp_path, capsys):
    for name, content in {
        "log.tsv": "1\tone\n2\t\n\n3\ttwo\n",
        "log.jsonl": '{"text": "one"}\n{"text": ""}\n{"text": null}\n{"text": "two"}\n',
        "log.csv": "id,query\n1,one\n2,\n,\n3,two\n\n",
    }.items():
        (tmp_path / name).write_text(content)
        assert read_queries([tmp_path / name]) == ["one", "two"]
        blank = 3 if name == "log.csv" else 2
        assert f"2 queries ({blank} blank lines are skipped), such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.csv", csv_of(header=None), r"say which column has the texts, by log\.csv#COLUMN; "
         r"there are: 1 \('2026-01-01'\), 2 \('music cat king, 17'\), 3 \('17'\)"),
        ("log.csv", "id,when,who\n1,2,3\n", r"there are: id, when, who\."),
        ("log.csv#query", csv_of(), r"no column 'query'; there are: date, search term, clicks"),
        ("log.csv", 'id,query\n1,"open\n', r"line 2: no row of CSV: unexpected end of data"),
        ("log.csv", 'id,query\n1,"a" b\n', r"line 2: no row of CSV"),
        ("log.csv", "id,query\n1\n", r"line 2: 1 columns, not 2"),
        ("log.tsv", "1\ta\tb\n", r"say which column has the texts"),
        ("log.csv", "red,blue\n", r"the texts, .*; there are: 1 \('red'\), 2 \('blue'\)"),
        ("log.tsv", "1\t2\n", r"say which column has the texts"),
        ("log.csv", "id,n\n1,2\n", r"say which column has the texts"),
        ("log.tsv", "1\ta\n2\tb\tc\n", r"line 2: 3 columns, not 2"),
        ("log.txt", tsv(), r"log\.txt begins as \.tsv does; call it so"),
        ("log.txt", jsonl(objects("text")), r"log\.txt begins as \.jsonl does; call it so"),
        ("log", json.dumps(objects("text")), r"begins as \.json does; call it so"),
        ("log.jsonl", "one\n", r"line 1: no JSON: 'one'"),
        ("log.jsonl", '{"text": "a"}\n["b"]\n', r"line 2: expected a JSON object, as in line 1"),
        ("log.json", '{"queries": ["a"]}', r"line 1: \"?\['a'\]\"? is no text"),
        ("log.txt", "café\n".encode("latin-1"), r"line 1: not UTF-8 text; save it as UTF-8"),
        ("log.txt", "a\nb\n".encode("utf-16"), r"log\.txt is UTF-16 text; save it as UTF-8"),
        ("log.csv", csv_of().encode("utf-16-le"), r"is UTF-16 text or none at all"),
        ("log.tsv", tsv().encode("utf-16-be"), r"is UTF-16 text or none at all"),
        ("log.xlsx", b"PK\3\4 and so on", r"is an archive, such as \.xlsx or \.npz; save its"),
        ("log.tsv.gz", tsv(), r"is not a whole gzip file"),
        ("log.parquet", tsv(), r"is no Parquet, or cut off or damaged"),
        ("log.txt", b"PAR1 and so on", r"is Parquet; call it \.parquet"),
        ("log.tsv", "version https://git-lfs.github.com/spec/v1\n", r"a pointer of Git LFS"),
    ],
)  # fmt: skip
def test_a_log_is_refused(tmp_path, monkeypatch, name, content, said):
    monkeypatch.chdir(tmp_path)
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name.partition("#")[0]).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_queries([name])


def test_cells_of_any_length_and_lone_quotes(tmp_path):
    (tmp_path / "x.csv").write_text(f'id,query\n1,"{"long, " * 50_000}"\n')
    assert len(read_queries([tmp_path / "x.csv"])[0]) > 200_000
    quoted = ['"phrase"', '5" screen', '"open', 'shut"', '"a" or "b"', '""', '"']
    (tmp_path / "x.tsv").write_text("".join(f"{n}\t{text}\n" for n, text in enumerate(quoted)))
    assert read_queries([tmp_path / "x.tsv"]) == quoted


def test_lines_have_the_numbers_that_an_editor_shows(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a\r\nb\rc\n\nd\r")
    assert list(lines(tmp_path / "x.txt")) == [(1, "a"), (2, "b"), (3, "c"), (4, ""), (5, "d")]


def test_a_row_of_csv_may_have_several_lines(tmp_path):
    (tmp_path / "x.csv").write_text('id,query,note\n1,one,"a\nb"\n2,two,c,d\n')
    table = open_table(tmp_path / "x.csv")
    rows = table.rows(table.text_column())
    assert next(rows) == (3, ["one"])
    with pytest.raises(UserError, match=r"x\.csv, line 4: 4 columns, not 3"):
        next(rows)


def test_a_log_holds_out_its_own_queries(tmp_path, capsys):
    """The same ones in any order, and none of them is trained on."""
    texts = [f"query {n}" for n in range(1000)]
    for name, own in (("a.txt", texts), ("b.txt", texts[::-1])):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in own))
    queries, valid, sources = training_queries([(str(tmp_path / "a.txt"), 1.0)], [])
    assert 5 < len(valid) < 50
    assert sorted(queries + valid) == sorted(texts)
    few = training_queries([(str(tmp_path / "a.txt"), 1.0)], [], limit=100)
    assert few[:2] == (queries[:100], valid)
    assert few[2]["training"][0].count == 100
    assert sources["training"][0].count == len(queries)
    assert sources["validation"][0].count == len(valid)
    assert f"{len(valid)} of them are held out, to validate on" in capsys.readouterr().err
    _, again, _ = training_queries([(str(tmp_path / "b.txt"), 1.0)], [])
    assert set(again) == set(valid)
    both = [(str(tmp_path / name), 2.0) for name in ("a.txt", "b.txt")]
    queries, again, sources = training_queries(both, [])
    assert set(again) == set(valid)
    assert not set(queries) & set(valid)
    assert [source.count for source in sources["training"]] == [1000 - len(valid)] * 2
