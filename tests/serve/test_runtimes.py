"""One folder for every runtime: sentence-transformers, FastEmbed and transformers.js agree."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tiny import save_encoder

from disret.distil.layers import keep_layers
from disret.distil.static import feed_forward, student_of_tokens
from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.serve.export import export
from disret.serve.tokenizer_files import write_tokenizer

pytestmark = pytest.mark.export
PROMPT = "find q "  # which other runtimes do not put before a query
QUERIES = [f"who has seen {i * 3} things in {i} days" for i in range(9)]
TEXTS = ["", "a", "x y z " * 9, *QUERIES, "don't [SEP] stop", "Größe, 東京; naïve!"]
LONG = "a long text " * 100  # beyond what a model reads
PYTHON = ROOT / ".venv-fastembed" / "bin" / "python"  # by make runtimes
NODE = ROOT / ".node-runtimes"  # as well
FASTEMBED = """
import json, sys
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

folder, dimension, graph, texts = json.load(sys.stdin)
TextEmbedding.add_custom_model(
    model="student", dim=dimension, model_file=graph, sources=ModelSource(hf="user/student"),
    pooling=PoolingType.DISABLED, normalization=False,
)
model = TextEmbedding("student", specific_model_path=folder)
print(json.dumps([vector.tolist() for vector in model.embed(texts, batch_size=5)]))
"""
TRANSFORMERS_JS = """
import { readFileSync } from "node:fs";
import { env, pipeline } from "@huggingface/transformers";

const [parent, name, dtype, texts] = JSON.parse(readFileSync(0));
env.allowRemoteModels = false;
env.localModelPath = parent;
const extractor = await pipeline("feature-extraction", name, { dtype });
const pooled = await extractor(texts, { pooling: "mean", normalize: true });
const tokens = extractor.tokenizer(texts, { padding: true, truncation: true });
const { sentence_embedding } = await extractor.model(tokens);
console.log(JSON.stringify([pooled.tolist(), sentence_embedding.tolist()]));
"""


def tiny_layers(folder: Path) -> SentenceTransformer:
    return load_encoder(str(save_encoder(folder, layers=2)), "cpu")


def tiny_static(folder: Path) -> SentenceTransformer:
    return student_of_tokens(load_encoder(str(save_encoder(folder, layers=1)), "cpu"))


def tiny_words(folder: Path) -> SentenceTransformer:
    """The queries' words have tokens of their own."""
    return student_of_tokens(load_encoder(str(save_encoder(folder, layers=1)), "cpu"), QUERIES, 5)


def tiny_feed_forward(folder: Path) -> SentenceTransformer:
    """Layers that are not what they start as."""
    model = tiny_static(folder)
    feed_forward(model)
    torch.manual_seed(0)
    for dense in list(model)[1:3]:
        torch.nn.init.normal_(dense.linear.weight, std=0.3)
        torch.nn.init.normal_(dense.linear.bias, std=0.3)
    return model


def real_layers(folder: Path) -> SentenceTransformer:
    model = load_encoder(str(folder), "cpu")
    model[0].model = keep_layers(model[0].model, [0, 5])
    return model


def real_static(folder: Path) -> SentenceTransformer:
    """The table is that of word embeddings: what the teacher makes of each takes two minutes."""
    model = load_encoder(str(folder), "cpu")
    table = model[0].model.embeddings.word_embeddings.weight.detach()
    static = StaticEmbedding(model.tokenizer, embedding_weights=table)
    return SentenceTransformer(modules=[static, Normalize()], device="cpu")


@pytest.fixture(scope="session")
def made() -> dict:
    """Students that another test has exported already."""
    return {}


@pytest.fixture(
    params=[
        tiny_layers, tiny_static, tiny_words, tiny_feed_forward,
        *(pytest.param(make, marks=pytest.mark.real) for make in (real_layers, real_static)),
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def student(request, made, tmp_path_factory) -> Path:
    make = request.param
    if make not in made:
        folder = tmp_path_factory.mktemp(make.__name__) / "student"
        is_real = make in (real_layers, real_static)
        start = request.getfixturevalue("real_teacher") if is_real else folder.with_name("start")
        model = make(start)
        model.prompts = {"query": PROMPT}
        model.save_pretrained(str(folder))
        model = load_encoder(str(folder), "cpu")
        before = model.encode_query([*TEXTS, LONG])
        export(model, folder, QUERIES, folder)
        after = SentenceTransformer(str(folder), device="cpu").encode_query([*TEXTS, LONG])
        np.testing.assert_array_equal(after, before)
        made[make] = folder
    return made[make]


@pytest.fixture
def expected(student) -> np.ndarray:
    """What sentence-transformers says of TEXTS, and of LONG at the end."""
    return SentenceTransformer(str(student), device="cpu").encode_query([*TEXTS, LONG])


def run(command: list, program_input: list, cwd: Path, **environment: str) -> list:
    result = subprocess.run(
        list(map(str, command)), input=json.dumps(program_input), capture_output=True, text=True,
        cwd=cwd, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def fastembed(student: Path, graph: str, texts: list[str]) -> list:
    if not PYTHON.exists():
        pytest.skip("FastEmbed is not installed: make runtimes")
    texts = [PROMPT + text for text in texts]
    dimension = QueryEncoder.from_pretrained(student).dimension
    program_input = [str(student), dimension, f"onnx/{graph}", texts]
    return run([PYTHON, "-c", FASTEMBED], program_input, student)


def transformers_js(student: Path, dtype: str, texts: list[str]) -> list:
    """Vectors that its pipeline pools, and those that the graph gives."""
    if not (NODE / "node_modules").exists():
        pytest.skip("transformers.js is not installed: make runtimes")
    texts = [PROMPT + text for text in texts]
    command = ["node", "--input-type=module", "--eval", TRANSFORMERS_JS]
    return run(command, [f"{student.parent}/", student.name, dtype, texts], NODE)


def test_every_file_is_there_once(student):
    files = {path.relative_to(student).as_posix() for path in student.rglob("*") if path.is_file()}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    graphs = {name.removeprefix("onnx/") for name in files if name.startswith("onnx/")}
    assert graphs == {"index.json", "model.onnx", "model_quantized.onnx", "query_encoder.json"}


def test_tokenizer_files_are_changed_only_where_others_read_something_else(teacher, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    config = folder / "tokenizer_config.json"
    as_saved = json.loads(config.read_text())
    config.write_text(json.dumps({**as_saved, "max_length": 16}))  # FastEmbed would cut there
    write_tokenizer(load_encoder(str(folder), "cpu"), folder)
    said = json.loads(config.read_text())
    assert "max_length" not in said
    assert said["model_max_length"] == 64
    assert said.items() >= as_saved.items()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_tokenizer(load_encoder(str(folder), "cpu"), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert (folder / "tokenizer.json").read_bytes() == (teacher / "tokenizer.json").read_bytes()


def test_in_fastembed(student, expected):
    found = fastembed(student, "model.onnx", [*TEXTS, LONG])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_in_transformers_js(student, expected, request):
    # Its \w is ASCII alone, by which the tiny tokenizer splits; and it cuts off the last token.
    some = slice(-1) if "real" in request.node.callspec.id else slice(-2)
    for found in transformers_js(student, "fp32", [*TEXTS, LONG][some]):
        np.testing.assert_allclose(found, expected[some], atol=1e-4)


@pytest.mark.parametrize("runtime", ["fastembed", "transformers.js"])
def test_int8(student, runtime):
    texts = TEXTS[:-1]
    expected = QueryEncoder.from_pretrained(student, "int8").encode(texts)
    if runtime == "fastembed":
        found = fastembed(student, "model_quantized.onnx", texts)
    else:
        found = transformers_js(student, "q8", texts)[1]
    np.testing.assert_allclose(found, expected, atol=1e-4)
