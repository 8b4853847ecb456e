"""Every family exports, and gives the model's own vectors without torch."""

import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Normalize, Router
from tiny import save_encoder

from disret import paths
from disret.command_line import UserError
from disret.distil.layers import keep_layers
from disret.distil.static import student_of_tokens
from disret.encode.models import load_encoder
from disret.query_encoder import ExportError, QueryEncoder
from disret.serve import export as exports
from disret.serve.export import export

pytestmark = pytest.mark.export
QUERIES = [f"who has seen {i * 3} things in {i} days" for i in range(40)]
FAMILIES = ("bert", "roberta", "xlm-roberta", "mpnet", "electra", "albert", "distilbert",
            "modernbert", "qwen3", "t5")  # fmt: skip


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean((first * second).sum(axis=1) / lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path):
    folder = save_encoder(tmp_path / "m", family, layers=2, dense=24, prompts={"query": "find q "})
    model = load_encoder(str(folder), "cpu")
    export(model, folder, QUERIES, folder)
    texts = ["a", "", "x y z " * 60, *QUERIES[:9]]
    expected = model.encode_query(texts)
    found = QueryEncoder.from_pretrained(folder).encode(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one_by_one = [QueryEncoder.from_pretrained(folder).encode([text])[0] for text in texts[:4]]
    np.testing.assert_allclose(one_by_one, expected[:4], atol=1e-5)
    int8 = QueryEncoder.from_pretrained(folder, "int8").encode(texts)
    assert 0.995 < cosine(int8, expected) < 0.9999999
    size = {p: (folder / "onnx" / p).stat().st_size for p in ("model.onnx", "model_quantized.onnx")}
    assert size["model_quantized.onnx"] != size["model.onnx"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dimension", [None, 20])
def test_a_static_model(teacher, tmp_path, normalize, dimension):
    modules = [student_of_tokens(load_encoder(str(teacher), "cpu"))[0], *[Normalize()] * normalize]
    model = SentenceTransformer(modules=modules, device="cpu", truncate_dim=dimension)
    model.save_pretrained(str(tmp_path / "static"))
    export(model, tmp_path / "static", QUERIES, tmp_path / "static")
    texts = [*QUERIES, "", "a"]
    expected = model.encode_query(texts)
    for precision, tolerance in (("float32", 1e-5), ("int8", 0.02 * np.abs(expected).max())):
        found = QueryEncoder.from_pretrained(tmp_path / "static", precision).encode(texts)
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prompt_that_pooling_leaves_out(tmp_path, side):
    # Of a family whose positions are relative: padding does not move them.
    folder = save_encoder(tmp_path / "m", "t5", layers=1, prompts={"query": "find q "})
    model = load_encoder(str(folder), "cpu")
    model.tokenizer.padding_side = side
    model.set_pooling_include_prompt(False)
    with_prompt = load_encoder(str(folder), "cpu").encode_query(QUERIES)
    export(model, tmp_path / "out", QUERIES)
    found = QueryEncoder.from_pretrained(tmp_path / "out").encode(QUERIES)
    np.testing.assert_allclose(found, model.encode_query(QUERIES), atol=1e-5)
    assert np.abs(found - with_prompt).max() > 1e-3


def test_settings_that_decide_the_vectors(tmp_path):
    folder = save_encoder(tmp_path / "m", "t5", layers=1)
    model = load_encoder(str(folder), "cpu")
    model.truncate_dim = 20
    model.tokenizer.padding_side = "left"
    model.tokenizer.truncation_side = "left"
    for length in (12, int(1e30)):
        model.max_seq_length = length
        export(model, tmp_path / "out", QUERIES)
        texts = ["a b", "x y z " * 30, *QUERIES]
        encoder = QueryEncoder.from_pretrained(tmp_path / "out")
        assert encoder.max_length == (length if length == 12 else None)
        np.testing.assert_allclose(encoder.encode(texts), model.encode_query(texts), atol=1e-5)


def test_a_tokenizer_written_in_python_is_refused(teacher, tmp_path):
    model = SentenceTransformer(modules=[BoW(vocab=["a", "b"])], device="cpu")
    with pytest.raises(UserError, match="tokenizer of the tokenizers library"):
        export(model, tmp_path / "out", QUERIES)
    assert not (tmp_path / "out").exists()


def test_another_models_folder_is_left_alone(call, teacher, valid_queries, tmp_path):
    folder = save_encoder(tmp_path / "other", layers=1)
    outcome = call("disret.serve.export", teacher, "--output", folder, "--queries", valid_queries)
    assert outcome.status == 2
    assert "holds another model" in outcome.err
    assert not (folder / "onnx").exists()


def test_files_of_others_are_left_alone(teacher, tmp_path):
    model = load_encoder(str(teacher), "cpu")
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "main.py").write_text("of something else")
    with pytest.raises(UserError, match="service holds other files"):
        export(model, tmp_path / "service", QUERIES)
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model_O4.onnx").write_text("of the hub")
    with pytest.raises(UserError, match="onnx was not made here"):
        export(model, folder, QUERIES, folder)
    assert (folder / "onnx" / "model_O4.onnx").read_text() == "of the hub"


def test_what_is_not_close_enough_is_refused_with_its_figure(teacher, tmp_path, monkeypatch):
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    model = load_encoder(str(folder), "cpu")
    monkeypatch.setattr(exports, "INT8_COSINE", 1.1)
    checks = export(model, folder, QUERIES, folder)
    assert checks["int8"] is None
    assert 0.99 < checks["int8_mean_cosine"] < 1
    assert "int8 left out, as it came to a cosine of 0.99" in exports.summary(folder, checks)
    files = {path.name for path in (folder / "onnx").iterdir()}
    assert files == {"index.json", "model.onnx", "query_encoder.json"}
    assert QueryEncoder.from_pretrained(folder).encode(QUERIES).shape == (40, 32)
    with pytest.raises(ExportError, match=r"no int8, which came to a cosine of 0\.99"):
        QueryEncoder.from_pretrained(folder, "int8")

    earlier = (folder / "onnx" / "query_encoder.json").read_bytes()
    monkeypatch.setattr(exports, "FLOAT32_TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from the model by"):
        export(model, folder, QUERIES, folder)
    assert (folder / "onnx" / "query_encoder.json").read_bytes() == earlier
    assert not list(folder.glob(".*partial"))


def test_two_encoders_in_one_model_are_refused(teacher, tmp_path):
    model = load_encoder(str(teacher), "cpu")
    router = Router.for_query_document(list(model), list(model))
    with pytest.raises(UserError, match="export the student alone"):
        export(SentenceTransformer(modules=[router], device="cpu"), tmp_path / "out", QUERIES)


def test_the_command(call, teacher, valid_queries, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    outcome = call("disret.serve.export", folder, "--queries", valid_queries)
    assert outcome.status == 0, outcome.err
    assert "float32 within" in outcome.out
    assert "on 20 queries" in outcome.out
    settings = json.loads((folder / "onnx" / "query_encoder.json").read_text())
    assert settings["checks"]["queries"] == 20
    assert settings["size"] == {"layers": 4, "parameters": settings["size"]["parameters"],
                                "dimension": 32}  # fmt: skip
    elsewhere = call("disret.serve.export", "no/such-model", "--queries", valid_queries)
    assert elsewhere.status == 2
    assert "--output" in elsewhere.err


def test_a_student_is_for_the_index_of_its_teacher(
    call, teacher, collection, queries, valid_queries, tmp_path
):
    """Whatever its teacher puts before a query."""
    student = tmp_path / "student"
    outcome = call(
        "distill", "--teacher", teacher, "--teacher-prompt", "find: ", "--layers", 0, 3,
        "--queries", queries, "--valid-queries", valid_queries, "--num-epochs", 0,
        "--output", student, "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert call("disret.serve.export", student, "--queries", valid_queries).status == 0
    outcome = call("benchmark", "--datasets", collection, "--document-encoder", teacher,
                   "--output", tmp_path / "r.csv", "--device", "cpu")  # fmt: skip
    assert outcome.status == 0, outcome.err
    (manifest,) = paths.INDEXES.rglob("manifest.json")
    assert QueryEncoder.from_pretrained(student, index=manifest.parent).dimension == 32
    other = save_encoder(tmp_path / "other", layers=1, seed=1)
    assert call("disret.serve.export", other, "--queries", valid_queries).status == 0
    for index in (manifest, student / "onnx" / "index.json"):
        with pytest.raises(ValueError, match=rf"for an index of {other} .* is of {teacher} "):
            QueryEncoder.from_pretrained(other, index=index)


def test_what_a_report_says_of_the_index(teacher, tmp_path):
    student = SentenceTransformer(
        modules=[student_of_tokens(load_encoder(str(teacher), "cpu"))[0]], device="cpu"
    )
    first, second = "1a" * 32, "2b" * 32
    report = {"arguments": {"teacher": "T"}, "inputs": {"teacher_sha256": first}}
    for changes, wanted in (({}, first), ({"encoder_sha256": second}, second)):
        (tmp_path / "distillation.json").write_text(json.dumps({**report, **changes}))
        export(student, tmp_path, QUERIES, tmp_path)
        assert json.loads((tmp_path / "onnx" / "index.json").read_text()) == {
            "encoder": "T", "encoder_sha256": wanted, "dimension": 32,
        }  # fmt: skip


@pytest.mark.real
def test_int8_is_as_exact_as_it_must_be(real_teacher, tmp_path):
    model = load_encoder(str(real_teacher), "cpu")
    model[0].model = keep_layers(model[0].model, [0, 5])
    queries = ["what is dense retrieval?", "how many people live in berlin", "über naïve café 東京",
               "statin use after breast cancer diagnosis", "vitamin d", "x" * 3000,
               *QUERIES]  # fmt: skip
    checks = export(model, tmp_path / "out", queries)
    assert checks["float32_largest_difference"] < 1e-5
    assert checks["int8"] == "scales set beforehand"
    assert 0.995 < checks["int8_mean_cosine"] < 1
    encoder = QueryEncoder.from_pretrained(tmp_path / "out", "int8")
    alone = [encoder.encode([query])[0] for query in queries]
    np.testing.assert_allclose(encoder.encode(queries), alone, atol=1e-6)
    large, small = ((tmp_path / "out" / "onnx" / name).stat().st_size
                    for name in ("model.onnx", "model_quantized.onnx"))  # fmt: skip
    assert small < 0.4 * large
