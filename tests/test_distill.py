"""distill.py: what it leaves, how it resumes, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, accept_interrupts
from dataset_hub import DatasetHub, hub_environment
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import VOCABULARY, save_encoder, tokenizer

from disret.data.queries import read_queries
from disret.devices import mixed_precision
from disret.encode.models import load_encoder
from disret.tables import read_rows

SMALL = ["--recipe", "paper", "--train-batch-size", 16, "--warmup-steps", 2, "--eval-steps", 4,
         "--adamw-lr", 1e-3,
         "--teacher-dtype", "float32", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def arguments(teacher, queries, valid_queries, tmp_path):
    return ["--teacher", teacher, "--queries", queries, "--valid-queries", valid_queries,
            "--output", tmp_path / "student", *SMALL]  # fmt: skip


def report(folder):
    return json.loads((folder / "distillation.json").read_text())


def test_a_student_moves_onto_its_teacher(call, arguments, teacher, tmp_path):
    outcome = call("distill", *arguments, "--layers", 0, 3)
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert student.transformers_model.config.num_hidden_layers == 2
    assert student.max_seq_length == 64
    assert student.prompts == {"query": "q ", "document": "d "}

    found = report(tmp_path / "student")
    curve = found["validation_mse"]
    assert [point["step"] for point in curve] == [0, 4, 8, 12, 13]
    lines = [line for line in outcome.out.splitlines() if line.strip()]
    assert lines[0] == f"step 4: validation MSE {curve[1]['mse']:.4g}"
    assert len(lines) == 5
    best = min(point["mse"] for point in curve)
    assert best < 0.9 * curve[0]["mse"]
    assert found["queries"] == {"training": 200, "sentences": 0, "validation": 20}
    assert found["arguments"]["layers"] == [0, 3]
    assert set(found["versions"]) >= {"python", "torch", "sentence-transformers"}

    # What was measured is what was saved: the best checkpoint, on queries as queries.
    texts = [f"who has seen {i * 3} things" for i in range(20)]
    wanted = SentenceTransformer(str(teacher), device="cpu").encode_query(texts)
    assert np.mean((student.encode_query(texts) - wanted) ** 2) == pytest.approx(best, rel=1e-4)

    rights = {path.stat().st_mode & 0o777 for path in (tmp_path / "student").glob("*.*")}
    assert len(rights) == 1  # those of any new file
    card = (tmp_path / "student" / "README.md").read_text()
    assert "layers 0, 3 of the teacher" in card
    # The card's example, where the student has been moved to.
    moved = shutil.copytree(tmp_path / "student", tmp_path / "elsewhere" / "renamed")
    example = card.partition("```python\n")[2].partition("```")[0]
    example += "print(queries.shape)"
    result = subprocess.run(
        [sys.executable, "-c", example], cwd=moved, capture_output=True, text=True, check=False
    )
    assert result.stdout == "(1, 32)\n", result.stderr
    assert f"{best:.4g}" in card
    assert not (tmp_path / "student.partial").exists()


@pytest.mark.parametrize("loss", ["mse", "l2"])
def test_another_model_is_aligned(call, arguments, tmp_path, loss):
    other = save_encoder(tmp_path / "other", "distilbert", layers=1, dense=16)
    wide = save_encoder(tmp_path / "wide", "bert", dense=48)
    arguments[1] = wide
    outcome = call("distill", *arguments, "--init-with", other, "--loss", loss)
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert [type(m).__name__ for m in student] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert student.get_embedding_dimension() == 48
    assert student.transformers_model.config.model_type == "distilbert"
    assert student.encode(["negative coordinates"]).min() < 0
    curve = report(tmp_path / "student")["validation_mse"]
    assert min(p["mse"] for p in curve) < curve[0]["mse"]


def test_relu_projection_of_the_authors(call, arguments, tmp_path):
    other = save_encoder(tmp_path / "other", "bert", layers=1)
    wide = save_encoder(tmp_path / "wide", "bert", dense=48)
    arguments[1] = wide
    outcome = call("distill", *arguments, "--init-with", other, "--projection", "relu")
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert student.encode(["no negative coordinates"]).min() >= 0


@pytest.mark.kill
def test_killed_run_resumes_to_the_same_student(arguments, call, tmp_path, home):
    """SIGKILL in the second epoch; the resumed student equals one of an unbroken run."""
    layers = ["--layers", "0", "3", "--num-epochs", "3"]
    unbroken = call("distill", *arguments, *layers)
    assert unbroken.status == 0, unbroken.err
    whole = tmp_path / "student"
    whole.rename(tmp_path / "unbroken")

    command = [sys.executable, str(ROOT / "distill.py"), *map(str, arguments), *layers]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "student.partial" / "checkpoints"
    while not (checkpoints / "checkpoint-20" / "trainer_state.json").exists():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not whole.exists()

    refused = call("distill", *arguments, *layers)
    assert refused.status == 2
    assert "unfinished run" in refused.err
    other = call("distill", *arguments, "--layers", 0, 2, "--num-epochs", 3, "--resume")
    assert other.status == 2
    assert "another layers" in other.err

    resumed = call("distill", *arguments, *layers, "--resume")
    assert resumed.status == 0, resumed.err
    expected, found = (load_file(f / "model.safetensors") for f in (tmp_path / "unbroken", whole))
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)
    curve, unbroken_curve = (report(f)["validation_mse"] for f in (whole, tmp_path / "unbroken"))
    assert curve[-1]["step"] == 39
    assert [p["step"] for p in curve] == [p["step"] for p in unbroken_curve]
    assert [p["mse"] for p in curve] == pytest.approx([p["mse"] for p in unbroken_curve], rel=1e-4)
    assert report(whole)["resumed_at_step"] in (20, 24, 28, 32, 36)
    assert report(tmp_path / "unbroken")["resumed_at_step"] == 0


def test_finished_student_is_left_alone(call, arguments, tmp_path):
    assert call("distill", *arguments, "--layers", 0).status == 0
    written = (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns
    again = call("distill", *arguments, "--layers", 0, "--resume")
    assert again.status == 0
    assert "finished already" in again.err
    refused = call("distill", *arguments, "--layers", 0)
    assert refused.status == 2
    assert "exists: name another output, or overwrite it" in refused.err
    other = call("distill", *arguments, "--layers", 1, "--resume")
    assert other.status == 2
    assert "another layers" in other.err
    assert (tmp_path / "student" / "model.safetensors").stat().st_mtime_ns == written
    replaced = call("distill", *arguments, "--layers", 1, "--overwrite")
    assert replaced.status == 0, replaced.err
    assert report(tmp_path / "student")["arguments"]["layers"] == [1]


def test_the_error_that_is_told_is_of_the_weights_that_are_kept(call, arguments, tmp_path):
    """A student with all of its teacher's layers cannot come nearer."""
    outcome = call("distill", *arguments, "--layers", 0, 1, 2, 3)
    assert outcome.status == 0, outcome.err
    assert "training has not brought the student nearer; it is kept as it started" in outcome.err
    found = report(tmp_path / "student")
    before, *after = (point["mse"] for point in found["validation_mse"])
    assert found["validation_mse_after"] == before < min(after)
    assert f"validation MSE {before:.3g} before, {before:.3g} after" in outcome.out
    card = (tmp_path / "student" / "README.md").read_text()
    assert f"| validation MSE after | {before:.4g} |" in card


def test_a_student_copies_only_what_it_keeps(teacher, monkeypatch):
    """Of a teacher of billions of weights a second whole would not fit."""
    import distill

    model = load_encoder(str(teacher), "cpu")
    copied = []
    original = torch.nn.Parameter.__deepcopy__
    monkeypatch.setattr(
        torch.nn.Parameter, "__deepcopy__",
        lambda self, memo: copied.append(self.numel()) or original(self, memo),
    )  # fmt: skip
    student = distill.init_from_layers(model, [0, 3])
    assert sum(copied) == 0
    assert student.transformers_model.config.num_hidden_layers == 2
    assert student.prompts == model.prompts


@pytest.mark.kill
def test_killed_replacement_resumes(arguments, call, tmp_path, home):
    """A finished student stays until its replacement is whole, and the replacement resumes."""
    assert call("distill", *arguments, "--layers", 0).status == 0
    command = [sys.executable, str(ROOT / "distill.py"), *map(str, arguments), "--layers", "1",
               "--num-epochs", "200", "--overwrite"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "student.partial" / "checkpoints"
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert report(tmp_path / "student")["arguments"]["layers"] == [0]
    other = call("distill", *arguments, "--layers", 0, "--resume")
    assert other.status == 2
    assert "another layers, num_epochs" in other.err


def test_changed_queries_are_not_resumed(call, arguments, queries, tmp_path):
    assert call("distill", *arguments, "--layers", 0).status == 0
    queries.write_text(queries.read_text() + "200\tone more\n")
    outcome = call("distill", *arguments, "--layers", 0, "--resume")
    assert outcome.status == 2
    assert "another queries_sha256" in outcome.err


@pytest.mark.kill
def test_interrupt_is_130_and_resumable(arguments, tmp_path, home, call):
    command = [sys.executable, str(ROOT / "distill.py"), *map(str, arguments), "--layers", "0",
               "--num-epochs", "200"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=accept_interrupts
    )
    checkpoints = tmp_path / "student.partial" / "checkpoints"
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "--resume" in err
    assert "Traceback" not in err
    assert list(checkpoints.glob("checkpoint-*/trainer_state.json"))


@pytest.mark.torchrun
def test_two_processes_make_one_model(arguments, call, tmp_path, home):
    """torchrun with two processes takes the same steps over the same batches.

    192 queries make whole batches: sentence-transformers drops an incomplete last one here.
    """
    arguments += ["--max-queries", 192]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               str(ROOT / "distill.py"), *map(str, arguments), "--layers", "0"]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    found = report(tmp_path / "student")
    assert found["processes"] == 2
    (tmp_path / "student").rename(tmp_path / "two")
    assert call("distill", *arguments, "--layers", 0).status == 0
    one = report(tmp_path / "student")
    steps = [point["step"] for point in one["validation_mse"]]
    assert [point["step"] for point in found["validation_mse"]] == steps
    # Dropout differs between the two, the batches do not.
    assert found["validation_mse"][-1]["mse"] == pytest.approx(
        one["validation_mse"][-1]["mse"], rel=0.1
    )


WATCHED = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import distill
from disret import command_line
real = distill.open_encoder
def watched(*names, **options):
    open(f"opened-by-{{os.environ['RANK']}}", "w").close()
    return real(*names, **options)
distill.open_encoder = watched
command_line.run(distill.main)
"""


@pytest.mark.torchrun
@pytest.mark.parametrize("start", [
    ("--layers", 0, "--resume"), pytest.param(("--init-with", "static"), marks=pytest.mark.long),
])  # fmt: skip
def test_one_process_alone_holds_the_teacher(arguments, tmp_path, home, start):
    """The others are given the student, and open the file of embeddings themselves."""
    (tmp_path / "watched.py").write_text(WATCHED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "watched.py", *map(str, arguments), *map(str, start)]  # fmt: skip
    for _ in range(2 if "--resume" in start else 1):  # the second finds it finished
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr[-2000:]
        assert [path.name for path in tmp_path.glob("opened-by-*")] == ["opened-by-0"]
        assert report(tmp_path / "student")["processes"] == 2


@pytest.mark.parametrize("start", [("--layers", 0, 3), ("--init-with", "static")])
def test_a_teacher_of_16_bits(call, arguments, tmp_path, start):
    """Its student has 32, and learns."""
    narrow = SentenceTransformer(str(arguments[1]), device="cpu").bfloat16()
    narrow.save_pretrained(str(tmp_path / "narrow"), create_model_card=False)
    arguments[1] = tmp_path / "narrow"
    outcome = call("distill", *arguments, *start, "--teacher-dtype", "float32")
    assert outcome.status == 0, outcome.err
    curve = report(tmp_path / "student")["validation_mse"]
    assert curve[-1]["mse"] < curve[0]["mse"]
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert {p.element_size() for p in student.parameters()} == {4}


@pytest.mark.parametrize("recipe", ["best", "paper"])
def test_a_static_student_moves_its_texts_tokens(call, arguments, queries, tmp_path, recipe):
    """Behind the mean, the best recipe puts two layers, and the paper's none."""
    for output, passes in (("start", 0), ("student", 3)):
        outcome = call(
            "distill", *arguments, "--init-with", "static", "--recipe", recipe, "--adamw-lr", 1e-4,
            "--num-epochs", passes, "--output", tmp_path / output,
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
    start, student = (
        SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("start", "student")
    )
    moved = (start[0].embedding.weight != student[0].embedding.weight).any(dim=1)
    texts = read_queries([queries])
    ids = {token for text in texts for token in student.tokenizer.encode(text).ids}
    assert set(moved.nonzero().ravel().tolist()) <= ids
    assert moved.any()
    layers = sum(type(module).__name__ == "Dense" for module in student)
    assert layers == (2 if recipe == "best" else 0)
    curve = report(tmp_path / "student")["validation_mse"]
    assert curve[-1]["mse"] < curve[0]["mse"]


@pytest.mark.parametrize("words, more", [(None, 5), (3, 3), (0, 0)])
def test_words_of_the_texts_get_tokens(call, arguments, tmp_path, words, more):
    texts = [f"the zebra and {letter} for\nlion {letter}" for letter in "abcd"] + ["lions two lion"]
    (tmp_path / "words.txt").write_text("\n".join(texts))
    files = ["--queries", tmp_path / "words.txt"]
    chosen = [] if words is None else ["--words", words]
    outcome = call(
        "distill", *arguments, "--init-with", "static", "--recipe", "best", "--num-epochs", 0,
        *files, *chosen,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert len(student[0].embedding.weight) == student.tokenizer.get_vocab_size()
    assert student.tokenizer.get_vocab_size() == len(VOCABULARY) + more
    card = (tmp_path / "student" / "README.md").read_text()
    assert ("and of words that it splits" in card) == bool(more)


def test_what_is_of_static_students_is_refused_elsewhere(call, arguments):
    for flag in (["--words", 9], ["--feed-forward"]):
        outcome = call("distill", *arguments, "--layers", 0, *flag)
        assert outcome.status == 2
        assert "are for a static student alone" in outcome.err


def test_mixed_precision(script, arguments, tmp_path):
    outcome = script("distill", *arguments, "--layers", 0, "--mixed-precision", "--keep-order")
    assert outcome.status == 0, outcome.err
    found = report(tmp_path / "student")
    curve = found["validation_mse"]
    assert min(p["mse"] for p in curve) < curve[0]["mse"]
    assert found["training_dtype"] == mixed_precision("cpu")


def test_mixed_precision_on_a_cpu_without_bfloat16(call, arguments, monkeypatch, tmp_path):
    """Nothing takes the slow emulation, and a line says so."""
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: pytest.fail("autocast was entered"))
    outcome = call("distill", *arguments, "--layers", 0, "--mixed-precision")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("no bfloat16, so mixed precision trains in float32") == 1
    assert report(tmp_path / "student")["training_dtype"] == "float32"


def test_the_best_recipe_fits_the_number_of_queries(call, arguments, tmp_path):
    """200 queries are shown as often as it takes, and warm-up does not eat up the steps."""
    i = arguments.index("--warmup-steps")
    del arguments[i : i + 4]  # and --eval-steps
    outcome = call("distill", *arguments, "--layers", 0, 3, "--recipe", "best",
                   "--presentations", 6400)  # fmt: skip
    assert outcome.status == 0, outcome.err
    steps = [point["step"] for point in report(tmp_path / "student")["validation_mse"]]
    assert steps == [0, *range(41, 411, 41), 416]
    assert "warm-up" not in outcome.err


def test_the_papers_recipe_says_what_it_cannot_do(call, arguments):
    i = arguments.index("--warmup-steps")
    del arguments[i : i + 2]
    outcome = call("distill", *arguments, "--layers", 0, 3)
    assert outcome.status == 0, outcome.err
    assert "13 of 13 steps of training are warm-up" in outcome.err
    assert "use the recipe best" in outcome.err


def test_divergence_is_said(call, arguments, tmp_path):
    arguments[arguments.index("--adamw-lr") + 1] = 1e30
    outcome = call("distill", *arguments, "--layers", 0)
    assert outcome.status == 2
    assert "training diverged" in outcome.err
    assert not (tmp_path / "student").exists()


def test_broken_teacher_is_said(call, arguments, tmp_path):
    """A teacher with NaN in its weights is found in its first embeddings."""
    import torch

    broken = SentenceTransformer(str(arguments[1]), device="cpu")
    torch.nn.init.constant_(broken.transformers_model.embeddings.word_embeddings.weight, torch.nan)
    broken.save_pretrained(str(tmp_path / "broken"), create_model_card=False)
    arguments[1] = tmp_path / "broken"
    outcome = call("distill", *arguments, "--layers", 0)
    assert outcome.status == 2
    assert "not numbers" in outcome.err
    assert not list(tmp_path.glob("student*"))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([], "name the --layers of a subset"),
        (["--layers", 0, 9], "the model has layers 0 to 3, so there is no 9"),
        (["--layers", 0, "--seed", -1], "--seed: must be from 0 to 4294967295"),
        (["--layers", 0, "--output", "."], "is not a model"),
        (["--layers", 1, 1], "twice"),
        (["--layers", -1], "from 0"),
        (["--layers", 0, "--init-with", "static"], "a static student has none"),
        (["--layers", 0, "--adapt", "no-such-set"], "no-such-set"),
        (["--layers", 0, "--max-queries", 0], "--max-queries: must be positive, got 0"),
        (["--layers", 0, "--device", "cuda"], "the device cuda cannot be used"),
        (["--layers", 0, "--queries", "none.tsv"], "there is no file none.tsv"),
        (["--layers", 0, "--teacher", "no-such/model"], "HF_HUB_OFFLINE"),
        (["--layers", 0, "--output", "/proc/nothing/here"], "cannot write"),
        (["--layers", 0, "--resume", "--overwrite"], "not allowed with argument --resume"),
        (["--layers", 0, "--num-epochs", 1, "--presentations", 9], "not allowed with argument"),
        (["--init-with", "no-such/model"], "cannot load the model"),
        (["--layers", 0, "--max-queries", 1.5], "expected a whole number, got '1.5'"),
    ],
)
def test_bad_arguments(call, arguments, extra, reason, tmp_path):
    import torch

    if "cuda" in extra and torch.cuda.is_available():
        pytest.skip("a CUDA device is present")
    outcome = call("distill", *arguments, *extra)
    assert outcome.status == 2
    assert reason in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "student").exists()
    assert not (tmp_path / "student.partial").exists()


def test_validation_queries_from_training(call, arguments, queries, valid_queries):
    arguments[arguments.index(valid_queries)] = queries
    outcome = call("distill", *arguments, "--layers", 0)
    assert outcome.status == 2
    assert "every validation query" in outcome.err


def test_overlapping_validation_queries_are_left_out(call, arguments, valid_queries, tmp_path):
    with valid_queries.open("a") as file:
        file.write("what is number 4 of 2\n")
    outcome = call("distill", *arguments, "--layers", 0)
    assert "left out 1 validation queries" in outcome.err
    assert report(tmp_path / "student")["queries"]["validation"] == 20


def test_shared_layers_teacher(call, arguments, tmp_path):
    arguments[1] = save_encoder(tmp_path / "albert", "albert")
    outcome = call("distill", *arguments, "--layers", 0)
    assert outcome.status == 2
    assert "start the student from another model instead" in outcome.err


def test_recipes_and_what_takes_their_place(call, arguments, tmp_path):
    del arguments[arguments.index("--adamw-lr") : arguments.index("--adamw-lr") + 2]
    outcome = call("distill", *arguments, "--layers", 0, "--recipe", "best", "--num-epochs", 2)
    assert outcome.status == 0, outcome.err
    found = report(tmp_path / "student")["arguments"]
    assert (found["num_epochs"], found["warmup_steps"]) == (2, 2)
    assert (found["dropout"], found["lr_schedule"], found["adamw_lr"]) == (False, "cosine", 1e-3)
    other = call("distill", *arguments, "--layers", 0, "--resume")
    assert other.status == 2
    assert "another recipe" in other.err


def test_adapts_to_a_collection(call, arguments, collection, tmp_path):
    outcome = call("distill", *arguments, "--layers", 0, "--adapt", collection)
    assert outcome.status == 0, outcome.err
    assert report(tmp_path / "student")["queries"]["sentences"] == 60
    assert "60 sentences of" in (tmp_path / "student" / "README.md").read_text()
    missing = call(
        "distill", *arguments, "--layers", 0, "--adapt", tmp_path / "none", "--overwrite"
    )
    assert missing.status == 2
    assert "none" in missing.err


def test_a_student_cannot_start_from_token_embeddings(call, arguments, tmp_path):
    static = StaticEmbedding(tokenizer(), embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(tmp_path / "static"))
    outcome = call("distill", *arguments, "--init-with", tmp_path / "static")
    assert outcome.status == 2
    assert "a StaticEmbedding has no layers that a student could start from" in outcome.err


@pytest.mark.kill
def test_a_second_run_is_refused_while_the_first_is_at_work(call, arguments, tmp_path):
    command = [sys.executable, str(ROOT / "distill.py"), *map(str, arguments), "--layers", "0",
               "--num-epochs", "200"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (tmp_path / "student.partial" / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    second = call("distill", *arguments, "--layers", 1, "--overwrite")
    assert second.status == 2
    assert "another run is at work on" in second.err
    process.kill()
    process.wait()
    assert (tmp_path / "student.partial" / "run.json").exists()
    assert call("distill", *arguments, "--layers", 1, "--overwrite").status == 0


def test_a_link_as_output_is_followed(call, arguments, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "student").symlink_to(tmp_path / "disk" / "s")
    for layer in (0, 1):
        outcome = call("distill", *arguments, "--layers", layer, "--overwrite")
        assert outcome.status == 0, outcome.err
        assert (tmp_path / "student").is_symlink()
        assert report(tmp_path / "disk" / "s")["arguments"]["layers"] == [layer]


def test_a_teacher_is_not_overwritten(call, arguments, teacher, tmp_path):
    own = shutil.copytree(teacher, tmp_path / "student")
    weights = (own / "model.safetensors").read_bytes()
    arguments[1] = own
    outcome = call("distill", *arguments, "--layers", 0, "--overwrite")
    assert outcome.status == 2
    assert "was not made by distill.py, so it is not replaced" in outcome.err
    assert (own / "model.safetensors").read_bytes() == weights


def test_wrong_layers_of_another_model_are_its_own(call, arguments, tmp_path):
    """Not the teacher's, which has four."""
    other = save_encoder(tmp_path / "other", "distilbert", layers=3)
    outcome = call("distill", *arguments, "--init-with", other, "--layers", 0, 3)
    assert outcome.status == 2
    assert "the model has layers 0 to 2, so there is no 3" in outcome.err
    assert "teacher" not in outcome.err


def test_layers_of_another_model(call, arguments, tmp_path):
    other = save_encoder(tmp_path / "other", "distilbert", layers=3)
    outcome = call("distill", *arguments, "--init-with", other, "--layers", 0, 2)
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert student.transformers_model.config.model_type == "distilbert"
    assert student.transformers_model.config.n_layers == 2


@pytest.mark.real
def test_real_teacher(call, arguments, real_teacher, tmp_path):
    """all-MiniLM-L6-v2 keeps a third of its layers and comes nearer again in a few steps."""
    arguments[1] = real_teacher
    outcome = call("distill", *arguments, "--layers", 0, 5, "--num-epochs", 4)
    assert outcome.status == 0, outcome.err
    found = report(tmp_path / "student")
    before, after = (found["validation_mse"][point]["mse"] for point in (0, -1))
    assert after < 0.8 * before
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert student.transformers_model.config.num_hidden_layers == 2
    assert np.linalg.norm(student.encode("length one")) == pytest.approx(1, abs=1e-5)


def test_queries_of_the_hub(script, teacher, queries, tmp_path):
    """They are trained on like those of a file, and the card says whose they are."""
    hub = DatasetHub()
    texts = [f"how old is number {i}" for i in range(100)]
    held_out_texts = [f"where is number {i}" for i in range(20)]
    hub.add_split("train", {"question": [f"{t}\n" for t in texts] + [texts[0], None]})
    hub.add_split("dev", {"question": held_out_texts})
    hub.about = {"tags": ["license:cc-by-4.0"]}
    named, held_out = "hub:someone/set#question", "hub:someone/set:dev#question"
    here = {"env": hub_environment(tmp_path, hub.url)}

    def distil(student, training, valid, *more):
        outcome = script(
            "distill", "--teacher", teacher, "--layers", 0, "--queries", training, queries,
            "--valid-queries", valid, "--max-queries", 150, "--output", tmp_path / student, *SMALL,
            *more, **here,
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
        return outcome.out + outcome.err

    distil("student", named, held_out)
    found = report(tmp_path / "student")
    assert found["arguments"]["queries"] == [named, str(queries)]
    assert found["queries"] == {"training": 150, "sentences": 0, "validation": 20}
    of_hub = {"revision": "a" * 40, "licence": "cc-by-4.0", "weight": 1.0, "last": None}
    of_file = {"revision": None, "licence": None, "weight": 1.0, "last": None}
    assert found["sources"] == {
        "training": [
            {"name": named, "count": 100, **of_hub},
            {"name": str(queries), "count": 50, **of_file},
        ],
        "validation": [{"name": held_out, "count": 20, **of_hub}],
    }
    card = (tmp_path / "student" / "README.md").read_text()
    assert f"\n- `{named}`: 100 queries, licence `cc-by-4.0`\n" in card
    assert f"\n- `{queries}`: 50 queries, licence not stated\n" in card

    hub.files.clear()  # the copies are there
    assert "is finished already" in distil("student", named, held_out, "--resume")
    np.save(tmp_path / "index.npy", load_encoder(str(teacher), "cpu").encode(texts))
    scored = script(
        "beyond/agree", "--queries", held_out, "--index", tmp_path / "index.npy", "--ids", "rows",
        "--document-encoder", teacher, "--query-encoder", tmp_path / "student",
        "--output", tmp_path / "s.csv", "--device", "cpu", **here,
    )  # fmt: skip
    assert scored.status == 0, scored.err
    (row,) = read_rows(tmp_path / "s.csv")
    assert (row["dataset"], row["queries"], row["documents"]) == ("set:dev#question", 20, 100)

    for name, lines in (("log.txt", texts), ("held.txt", held_out_texts)):
        (tmp_path / name).write_text("\n".join(lines))
    distil("same", tmp_path / "log.txt", tmp_path / "held.txt")
    assert report(tmp_path / "same")["student_sha256"] == found["student_sha256"]
    hub.close()
