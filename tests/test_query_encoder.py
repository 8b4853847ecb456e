"""The runtime by itself: what it imports, and what it says of bad input."""

import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

import disret
from disret.distil.static import student_of_tokens
from disret.encode.models import load_encoder
from disret.query_encoder import ExportError, QueryEncoder, digest_of, sha256_of
from disret.serve.export import export

QUERIES = [f"who has seen {i * 3} things" for i in range(30)]
# The module is read as a service would that has copied the file: nothing else of the project.
ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from query_encoder import QueryEncoder
vectors = QueryEncoder.from_pretrained(sys.argv[2], "int8").encode(["a b c"])
heavy = ["torch", "transformers", "sentence_transformers", "onnx", "onnxruntime", "disret"]
print(json.dumps([vectors.shape, [name for name in heavy if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = save_encoder(tmp_path_factory.mktemp("models") / "m", layers=2)
    export(load_encoder(str(folder), "cpu"), folder, QUERIES, folder)
    return folder


@pytest.fixture
def model(exported, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(exported, tmp_path / "model")


@pytest.fixture(scope="module")
def static(exported, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "static"
    modules = [student_of_tokens(load_encoder(str(exported), "cpu"))[0]]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(folder))
    export(model, folder, QUERIES, folder)
    return folder


@pytest.mark.parametrize(("kind", "runtime"), [("exported", ["onnxruntime"]), ("static", [])])
def test_needs_no_torch(kind, runtime, request, tmp_path):
    shutil.copy(ROOT / "disret" / "query_encoder.py", tmp_path)
    folder = request.getfixturevalue(kind)
    result = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), str(folder)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(result.stdout) == [[1, 32], runtime]


def test_graph_and_tokenizer_are_enough(exported, tmp_path):
    alone = shutil.copytree(exported / "onnx", tmp_path / "onnx")
    shutil.copy(exported / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text("of the service")
    vectors = QueryEncoder.from_pretrained(alone).encode(QUERIES)
    expected = QueryEncoder.from_pretrained(exported).encode(QUERIES)
    np.testing.assert_array_equal(vectors, expected)


def test_threads_may_share_an_encoder(exported):
    encoder = QueryEncoder.from_pretrained(exported, num_threads=1)
    expected = [encoder.encode([query]) for query in QUERIES]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: encoder.encode([query]), QUERIES * 20))
    np.testing.assert_array_equal(found, expected * 20)


@pytest.mark.parametrize(
    ("kind", "precision"), [("exported", "float32"), ("static", "float32"), ("static", "int8")]
)
def test_order_and_batch_size_do_not_matter(kind, precision, request):
    encoder = QueryEncoder.from_pretrained(request.getfixturevalue(kind), precision)
    texts = [" ".join("abcdefg"[: i % 8]) for i in range(150)]
    expected = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts, batch_size=7), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["exported", "static"])
def test_nothing_to_encode(kind, request):
    encoder = QueryEncoder.from_pretrained(request.getfixturevalue(kind))
    vectors = encoder.encode([])
    assert vectors.shape == (0, 32)
    assert vectors.dtype == np.float32


def test_a_longer_text_is_cut(exported):
    encoder = QueryEncoder.from_pretrained(exported)
    assert encoder.max_length == 64
    cut = encoder.encode(["ab " * 31])
    np.testing.assert_array_equal(encoder.encode(["ab " * 31 + "xyz " * 500]), cut)
    assert np.abs(encoder.encode(["ab " * 30]) - cut).max() > 1e-4


@pytest.mark.parametrize(
    ("queries", "reason"),
    [
        ("a query", "a list of strings, got one str"),
        (b"a query", 'not "int"'),
        (["a", None], 'not "NoneType"'),
        (["a", "\ud800"], "TextInputSequence"),  # half a surrogate pair
    ],
)
def test_what_is_no_list_of_strings(exported, queries, reason):
    with pytest.raises(TypeError, match=reason):
        QueryEncoder.from_pretrained(exported).encode(queries)


def test_any_iterable_of_strings(exported):
    encoder = QueryEncoder.from_pretrained(exported)
    expected = encoder.encode(["a b", "c"])
    np.testing.assert_array_equal(encoder.encode(text for text in ("a b", "c")), expected)
    np.testing.assert_array_equal(encoder.encode(np.array(["a b", "c"])), expected)


def test_int8_does_not_depend_on_the_batch(exported):
    encoder = QueryEncoder.from_pretrained(exported, "int8")
    texts = [*QUERIES, "zzz 999 " * 3, "a"]
    alone = [encoder.encode([text])[0] for text in texts]
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-6)


def test_no_such_precision(exported):
    with pytest.raises(ValueError, match="float32 or int8, got 'int4'"):
        QueryEncoder.from_pretrained(exported, "int4")


def test_a_batch_size_of_nothing(exported):
    with pytest.raises(ValueError, match="batch_size must be positive"):
        QueryEncoder.from_pretrained(exported).encode(["a"], batch_size=0)


@pytest.mark.parametrize("kind", ["exported", "static"])
def test_the_index_of_the_same_encoder(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    record = json.loads((folder / "onnx" / "index.json").read_text())
    assert record["encoder"] == str(folder)
    manifest = {**record, "encoder": "by another name", "documents": 60}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    beside = tmp_path / "of-a-database.json"
    beside.write_text(json.dumps({key: record[key] for key in ("encoder_sha256", "dimension")}))
    for index in (tmp_path, beside):
        assert QueryEncoder.from_pretrained(folder, index=index).dimension == 32


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({"encoder_sha256": "0a" * 32}, r"other \(0a0a0a0a0a0a0a0a, 32 dimensions\)"),
     ({"dimension": 24}, r"other \([0-9a-f]{16}, 24 dimensions\)")],
)  # fmt: skip
def test_the_index_of_another_encoder(exported, tmp_path, changes, shown):
    record = json.loads((exported / "onnx" / "index.json").read_text())
    index = tmp_path / "index.json"
    index.write_text(json.dumps({**record, "encoder": "other", **changes}))
    own = rf"{exported} \({record['encoder_sha256'][:16]}, 32 dimensions\)"
    with pytest.raises(ValueError, match=rf"for an index of {own}, but {index} is of {shown}"):
        QueryEncoder.from_pretrained(exported, "int8", index=index)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"dimension": 32}',
     b'{"encoder_sha256": 3, "dimension": 32}', b'{"encoder_sha256": "%s"}' % (b"a" * 64)],
)  # fmt: skip
def test_a_file_that_says_no_index(exported, tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"manifest\.json does not say what made the index: it needs"
    ):
        QueryEncoder.from_pretrained(exported, index=tmp_path)


def test_no_file_that_says_what_made_an_index(exported, tmp_path):
    for index in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(FileNotFoundError, match=r"No such file .*\.json"):
            QueryEncoder.from_pretrained(exported, index=index)


def test_no_export(tmp_path):
    with pytest.raises(ExportError, match="holds no exported query encoder"):
        QueryEncoder.from_pretrained(tmp_path)


def test_a_missing_file(model):
    (model / "onnx" / "model.onnx").unlink()
    with pytest.raises(ExportError, match=r"model\.onnx is missing"):
        QueryEncoder.from_pretrained(model)
    assert QueryEncoder.from_pretrained(model, "int8").dimension == 32


@pytest.mark.parametrize(
    "name", ["onnx/model_quantized.onnx", "tokenizer.json", "onnx/query_encoder.json"]
)
def test_a_damaged_file(model, name):
    path = model / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ExportError, match=f"{model / name} is damaged"):
        QueryEncoder.from_pretrained(model, "int8")


@pytest.mark.parametrize("name", ["model.safetensors", "config_sentence_transformers.json"])
def test_another_model_beside_the_export(model, name, monkeypatch):
    with (model / name).open("ab") as file:
        file.write(b" ")
    monkeypatch.chdir(model / "onnx")
    for path in (model, "."):
        with pytest.raises(ExportError, match=f"{name} is not what .* was made from"):
            QueryEncoder.from_pretrained(path)


def test_a_format_of_another_version(model):
    path = model / "onnx" / "query_encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(ExportError, match="of another version"):
        QueryEncoder.from_pretrained(model)


def test_a_graph_that_onnxruntime_cannot_load(model):
    path = model / "onnx" / "query_encoder.json"
    settings = json.loads(path.read_text())
    graph = model / "onnx" / "model.onnx"
    graph.write_bytes(b"of a later version")
    settings["files"]["float32"] = {"model.onnx": sha256_of(graph)}
    path.write_text(json.dumps({**settings, "sha256": digest_of(settings)}))
    with pytest.raises(ExportError, match=r"cannot load .*model\.onnx, which was made with 1\."):
        QueryEncoder.from_pretrained(model)


@pytest.mark.parametrize(
    "damage",
    [
        lambda settings: settings.pop("tables"),
        lambda settings: settings.update(tables={"float32": {"embeddings": {}}}),
        lambda settings: settings.update(steps=3),
        lambda settings: settings.update(dimension="x"),
        lambda settings: settings.update(files=None),
        lambda settings: settings["files"].update(tokenizer={}),
        lambda settings: settings.update(max_length=-1),
        lambda settings: settings["tables"]["float32"]["embeddings"].update(shape=[1 << 70, 3]),
        lambda settings: settings["tables"]["float32"]["embeddings"].update(dtype="<f9"),
    ],
)
@pytest.mark.parametrize("is_noted", [True, False])
def test_whatever_is_damaged_in_the_settings(static, tmp_path, damage, is_noted):
    folder = shutil.copytree(static, tmp_path / "static")
    path = folder / "onnx" / "query_encoder.json"
    settings = json.loads(path.read_text())
    damage(settings)
    digest = settings["sha256"] if is_noted else digest_of(settings)
    path.write_text(json.dumps({**settings, "sha256": digest}))
    with pytest.raises(ExportError, match="is damaged"):
        QueryEncoder.from_pretrained(folder).encode(["who?"])


def test_another_prompt_than_was_exported(model):
    path = model / "onnx" / "query_encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompt": "other: "}))
    with pytest.raises(ExportError, match=r"query_encoder\.json is damaged"):
        QueryEncoder.from_pretrained(model)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_that_is_written_over_under_an_encoder(static, tmp_path, precision):
    """As `cp` does; a mapped table would change, or end the process when the file is cut."""
    folder = shutil.copytree(static, tmp_path / "static")
    encoder = QueryEncoder.from_pretrained(folder, precision)
    before = encoder.encode(QUERIES)
    for graph in (folder / "onnx").glob("*.onnx"):
        with graph.open("r+b") as file:
            file.write(b"\x55" * graph.stat().st_size)
            file.truncate(100)
    np.testing.assert_array_equal(encoder.encode(QUERIES), before)


def test_weights_in_another_file(model):
    """No checksum would cover them."""
    import onnx

    graph = model / "onnx" / "model.onnx"
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="w", size_threshold=0)
    path = model / "onnx" / "query_encoder.json"
    settings = json.loads(path.read_text())
    settings["files"]["float32"] = {"model.onnx": sha256_of(graph)}
    path.write_text(json.dumps({**settings, "sha256": digest_of(settings)}))
    with pytest.raises(ExportError, match=r"model\.onnx takes weights from another file"):
        QueryEncoder.from_pretrained(model)


def test_a_call_as_of_sentence_transformers(static):
    encoder = QueryEncoder.from_pretrained(static)
    expected = encoder.encode(QUERIES)
    np.testing.assert_array_equal(encoder.encode_query(QUERIES), expected)
    one = encoder.encode_query(QUERIES[0])
    assert one.shape == (32,)
    np.testing.assert_allclose(one, expected[0], atol=1e-6)


@pytest.mark.long
def test_what_is_installed_encodes(static, real_teacher, tmp_path):
    """A wheel, in an environment of its own, without a checkout."""
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "models", "benchmarks")
    )
    subprocess.run(
        [sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True
    )
    (wheel,) = tmp_path.glob("disret-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, *pip, "install", wheel], check=True)

    def shown(program: str, student: Path) -> str:
        """What a program prints there, of a student."""
        return subprocess.check_output([python, "-c", program, student], cwd=tmp_path, text=True)

    program = (
        "import sys; from disret.query_encoder import QueryEncoder; import disret\n"
        "vectors = QueryEncoder.from_pretrained(sys.argv[1]).encode_query(['who?'])\n"
        "print(disret.__version__, vectors.shape, 'onnxruntime' in sys.modules)"
    )
    assert shown(program, static) == f"{disret.__version__} (1, 32) False\n"
    listed = subprocess.run([python, *pip, "freeze"], capture_output=True, text=True, check=True)
    assert not {"torch", "onnxruntime"} & {line.split("==")[0] for line in listed.stdout.split()}
    with zipfile.ZipFile(wheel) as content:
        assert {"disret/py.typed", "disret/serve/page.html"} <= set(content.namelist())

    documents = ["A cat sleeps on the mat.", "Rates of interest rose again.", "Bread is baked."]
    teacher = SentenceTransformer(str(real_teacher), device="cpu")
    np.save(tmp_path / "index.npy", teacher.encode_document(documents))
    program = (
        "import sys, time; import numpy; from disret.query_encoder import QueryEncoder\n"
        "start = time.process_time()\n"
        "index = numpy.load('index.npy')\n"
        "encoder = QueryEncoder.from_pretrained(sys.argv[1], precision='int8')\n"
        "query = encoder.encode(['what does the central bank do?'])\n"
        "print((index @ query[0]).argmax(), time.process_time() - start < 1)"
    )
    student = ROOT / "models" / "all-MiniLM-L6-v2-static"
    assert shown(program, student) == "1 True\n"

    subprocess.run([python, *pip, "install", f"{wheel}[serve]"], check=True)
    program = (
        "import sys; from disret.serve import __main__ as server\n"
        "server.application(server.parse_args(sys.argv[1:]))\n"
        "print([n for n in ('torch', 'pandas', 'tqdm', 'psutil') if n in sys.modules])"
    )
    assert shown(program, static) == "[]\n"
