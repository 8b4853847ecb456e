"""The page that shows teacher and student side by side, in a browser that others wrote."""

import json
import shutil

import faiss
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from test_server import serving
from tiny import save_encoder

from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.serve.comparison import LETTERS, page
from disret.serve.export import export

CHROMIUM = shutil.which("chromium")
MARKED = '<img src=x onerror="document.title=1"><script>document.title=2</script> [a](b) **c**'
TURNED = "one \u202eowt eerht\u202c \x1b[31mred"
SEEN = [f"{i * i} things that {i % 7} people have seen in {i} days" for i in range(40)]
DOCUMENTS = [MARKED, TURNED, "מסמך בעברית", "long " * 25_000, *SEEN]
QUERIES = [f"who has seen {i * 3} things" for i in range(30)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A teacher, a student, an index of 44 documents, a corpus and a log."""
    folder = tmp_path_factory.mktemp("page")
    teacher = SentenceTransformer(str(save_encoder(folder / "teacher", layers=2)), device="cpu")
    student = load_encoder(str(save_encoder(folder / "student", layers=1)), "cpu")
    export(student, folder / "student", QUERIES, folder / "student")
    vectors = teacher.encode_document(DOCUMENTS)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(folder / "documents.faiss"))
    lines = [json.dumps({"_id": str(n), "text": text}) for n, text in enumerate(DOCUMENTS)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "log.txt").write_text("\n".join(QUERIES) + "\n")
    return folder


@pytest.fixture(scope="module")
def server(world):
    with serving(
        world, world / "student", "--teacher", world / "teacher", "--index",
        world / "documents.faiss", "--corpus", world / "corpus.jsonl", "--queries",
        world / "log.txt", key=None,
    ) as running:  # fmt: skip
        yield running


def test_both_sides_are_those_of_the_index(server, world):
    found = server.http.get("/search", params={"q": QUERIES[3]}).json()
    index = faiss.read_index(str(world / "documents.faiss"))
    teacher = SentenceTransformer(str(world / "teacher"), device="cpu")
    student = QueryEncoder.from_pretrained(world / "student")
    vectors = {name: encoder.encode_query([QUERIES[3]])
               for name, encoder in {"teacher": teacher, "student": student}.items()}  # fmt: skip
    sides = {}
    for side, vector in vectors.items():
        scores, rows = index.search(vector, 10)
        sides[side] = [str(row) for row in rows[0]]
        hits = found[side]["hits"]
        assert [hit["id"] for hit in hits] == sides[side]
        np.testing.assert_allclose([hit["score"] for hit in hits], scores[0], atol=1e-5)
        assert all(hit["text"] == DOCUMENTS[int(hit["id"])][:LETTERS] for hit in hits)
        assert found[side]["encode"] > 0
        assert found[side]["search"] > 0
    assert found["shared"] == len(set(sides["teacher"]) & set(sides["student"]))


def test_the_worst_queries_come_first(server):
    queries = server.http.get("/queries").json()
    assert len(queries) == 20
    assert set(queries) <= set(QUERIES)
    shared = [server.http.get("/search", params={"q": q}).json()["shared"] for q in queries]
    assert np.mean(shared[:5]) <= np.mean(shared[-5:])


@pytest.mark.parametrize("query", ["", "x" * 2001])
def test_queries_that_are_refused(server, query):
    answer = server.http.get("/search", params={"q": query})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_the_page_asks_nobody_else(server):
    answer = server.http.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy == page()[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in answer.text


PAGE = ["--index", "documents.faiss", "--corpus", "corpus.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--index", "documents.faiss"], "the page needs an --index and the --corpus"),
        (["--watch", "0.1"], "a --teacher is compared by --watch, or on an --index"),
        (["--teacher", "teacher"], "a --teacher is compared by --watch, or on an --index"),
        (["--worst", "worst.txt"], "--worst is of what --watch sees"),
        (["--queries", "log.txt"], "the page needs an --index"),
        (["--teacher", "teacher", "--watch", "1", "--workers", "2"], "is asked by one process"),
        (["--watch", "2", "--teacher", "teacher"], "must be above 0, and 1 at most"),
        (["--teacher", "other", *PAGE], "is no student of it"),
        (["--teacher", "log.parquet", *PAGE], "log.parquet"),
        (["--teacher", "teacher", "--index", "documents.faiss", "--corpus", "other.jsonl"],
         "has no text of a document of"),
    ],
)  # fmt: skip
def test_what_does_not_fit(world, arguments, said, monkeypatch, capsys):
    from disret.command_line import run
    from disret.serve.__main__ import main

    if not (world / "other").exists():
        save_encoder(world / "other", layers=1, dense=8)
        (world / "other.jsonl").write_text('{"_id": "x1", "text": "another"}\n')
    monkeypatch.chdir(world)
    monkeypatch.setattr("sys.argv", ["serve", "student", "--port", "8999", *arguments])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


# --- In a browser ---------------------------------------------------------------------------------


@pytest.fixture
def browser(server):
    """A page of Chromium at the server's `/`, and what it logged."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab, said = chromium.new_page(), []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(server.at + "/")
        tab.wait_for_selector("#teacher li")
        yield tab, said
        chromium.close()


def ask(tab, query: str) -> None:
    """Type a query, and wait for the answer."""
    from playwright.sync_api import expect

    tab.fill("#query", query)
    tab.keyboard.press("Enter")
    expect(tab.locator("#said")).to_contain_text("The student finds")


in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@in_chromium
def test_typing_and_reading(server, browser):
    tab, said = browser
    query = "who has seen 81 things"
    ask(tab, query)
    found = server.http.get("/search", params={"q": query}).json()
    for side in ("teacher", "student"):
        shown = tab.eval_on_selector_all(f"#{side} li", "all => all.map(one => one.dataset.id)")
        assert shown == [hit["id"] for hit in found[side]["hits"]]
    assert f"finds {found['shared']} of the teacher's 10 hits" in tab.text_content("#said")
    assert tab.locator("svg path").count() == found["shared"]
    assert tab.locator("#teacher li.both").count() == found["shared"]
    assert said == []


@in_chromium
def test_by_keyboard_alone(browser):
    tab, _ = browser
    for _ in range(3):  # past the field and the button, to the queries of the log
        tab.keyboard.press("Tab")
    asked = tab.evaluate("document.activeElement.textContent")
    assert asked in QUERIES
    tab.keyboard.press("Enter")
    assert tab.input_value("#query") == asked


@in_chromium
def test_text_is_text(server, browser):
    """Of documents and queries that would like to be more."""
    tab, said = browser
    shown = {}
    for query in (*QUERIES, *DOCUMENTS[:3], "long long"):
        ask(tab, query)
        for node in tab.locator("#sides li").all():
            shown[node.get_attribute("data-id")] = node.text_content()
    assert MARKED in shown["0"]
    assert "\\u202e" in shown["1"] and "\\u001b[31m" in shown["1"]
    assert tab.locator("#sides img, #sides script, #sides a").count() == 0
    assert tab.title() == "Teacher and student, side by side"
    assert said == []


@in_chromium
@pytest.mark.parametrize("width", [420, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, width, scheme):
    tab, _ = browser
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 22, 26)") == (scheme == "dark")
