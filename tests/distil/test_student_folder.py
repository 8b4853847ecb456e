"""A student on disk: new, unfinished or finished, and what may be touched."""

import json

import pytest
import torch

from disret.command_line import UserError, at_end
from disret.distil.student_folder import StudentFolder
from disret.distil.training_data import Texts
from disret.encode.encoders import open_encoder


@pytest.fixture(autouse=True)
def locks_are_given_back():
    """As at the end of a script; each folder of a test is one's."""
    yield
    at_end.close()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "s"


def open_folder(place, resume=False, overwrite=False, reads=()):
    at_end.close()
    return StudentFolder(place, resume, overwrite, reads)


@pytest.fixture
def identify(teacher):
    """Open a folder, and say what the student is made of: whether it is finished."""
    encoder = open_encoder(str(teacher))

    def run(folder, texts=("a", "b"), **changes) -> bool:
        arguments = {"teacher": [str(teacher)], "queries": [], "valid_queries": [], "layers": [0],
                     "device": "cpu", **changes}  # fmt: skip
        made_of = Texts(list(texts), [], ["v"], None, {}, "")
        return folder.identify(arguments, encoder, None, made_of)

    return run


def finish(place, folder):
    """What a finished run leaves, but for the model."""
    place.mkdir()
    (place / "modules.json").write_text("[]")
    report = {
        **folder.made_of,
        "command": "",
        "queries": {},
        "validation_mse": [],
        "student_sha256": "",
        "size": {},
    }
    (place / "distillation.json").write_text(json.dumps(report))


def test_a_new_run_is_not_finished(place, identify):
    assert not identify(open_folder(place))
    assert not identify(open_folder(place, resume=True))


def test_circumstances_and_names_do_not_decide(place, identify):
    """Another device or another name of the same teacher is the same run."""
    first = open_folder(place)
    identify(first)
    finish(place, first)
    assert identify(open_folder(place, resume=True), device="cuda", teacher=["another name"])
    for changes in ({"layers": [1]}, {"texts": ("a", "c")}, {"texts": ("ab", "")},
                    {"queries": [("log.tsv", 2.0)]}):  # fmt: skip
        with pytest.raises(UserError, match=r"another (layers|queries_sha256|query_weights); give"):
            identify(open_folder(place, resume=True), **changes)


def test_a_run_of_before_there_was_an_argument(place, identify):
    first = open_folder(place)
    identify(first)
    finish(place, first)
    assert identify(open_folder(place, resume=True), long_texts="refuse")
    with pytest.raises(UserError, match="another long_texts; give"):
        identify(open_folder(place, resume=True), long_texts="cut")


def test_what_stands_there_is_not_touched(place, identify):
    place.mkdir()
    with pytest.raises(UserError, match="not a model"):
        open_folder(place, overwrite=True)
    (place / "modules.json").write_text("[]")
    with pytest.raises(UserError, match="exists: name another output, or overwrite it"):
        open_folder(place)
    with pytest.raises(UserError, match=r"not made by distill\.py"):
        identify(open_folder(place, resume=True))


def test_only_what_distill_made_is_replaced(place):
    """Not another model, however it came there."""
    place.mkdir()
    (place / "modules.json").write_text("[]")
    with pytest.raises(UserError, match="so it is not replaced"):
        open_folder(place, overwrite=True)
    (place / "distillation.json").write_text("{}")
    open_folder(place, overwrite=True)


def test_an_input_is_not_replaced(place):
    """By whatever name: a student that is distilled further is not its own teacher."""
    place.mkdir()
    for file in ("modules.json", "distillation.json", "log.tsv"):
        (place / file).write_text("{}")
    link = place.with_name("link")
    link.symlink_to(place)
    for name in (str(place), str(link), place / "log.tsv"):
        with pytest.raises(UserError, match="is an input of this run"):
            open_folder(place, overwrite=True, reads=["static", None, name])


def test_an_unfinished_run_waits(place, identify):
    first = open_folder(place)
    identify(first)
    first.begin()
    with pytest.raises(UserError, match="holds an unfinished run: resume or overwrite it"):
        open_folder(place)
    assert not identify(open_folder(place, resume=True))
    with pytest.raises(UserError, match="another layers"):
        identify(open_folder(place, resume=True), layers=[2])
    (first.unfinished / "left").touch()
    second = open_folder(place, overwrite=True)
    identify(second, layers=[2])
    second.begin()
    assert [path.name for path in first.unfinished.iterdir()] == ["run.json"]


def test_what_does_not_say_what_it_is_is_not_resumed(place, identify):
    (open_folder(place).checkpoints / "checkpoint-4").mkdir(parents=True)
    folder = open_folder(place, resume=True)
    assert not identify(folder)
    folder.begin()
    assert [path.name for path in folder.unfinished.iterdir()] == ["run.json"]


def test_unfinished_checkpoints_are_passed_over(place, capsys):
    """A kill leaves one without its last file, or with a part of that."""
    folder = open_folder(place, overwrite=True)
    for step, state in ((4, '{"global_step": 4}'), (8, '{"global_step": 8}'), (16, '{"glo')):
        (folder.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        (folder.checkpoints / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (folder.checkpoints / "checkpoint-20").mkdir()
    assert folder.last_checkpoint().endswith("checkpoint-8")
    assert folder.report["resumed_at_step"] == 8
    assert capsys.readouterr().err.count("passed over") == 2
    folder.begin()
    assert folder.last_checkpoint() is None


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["altered", "cut", "empty"])
def test_damaged_checkpoints_are_passed_over(place, name, damage):
    folder = open_folder(place)
    for step in (4, 8):
        path = folder.checkpoints / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        for part in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"a": torch.arange(1000)}, path / part)
    assert folder.last_checkpoint().endswith("checkpoint-8")
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes({"altered": content, "cut": content[:-50], "empty": b""}[damage])
    assert folder.last_checkpoint().endswith("checkpoint-4")


def test_no_secret_of_a_service_is_noted(place, identify):
    folder = open_folder(place)
    identify(folder, service_option=["api_key=secret", "dimensions=8"])
    assert folder.made_of["arguments"]["service_option"] == ["api_key=…", "dimensions=8"]


def test_a_run_without_options_is_as_it_was_noted_before(place, identify):
    first = open_folder(place)
    identify(first, service_option=[])
    assert first.made_of["arguments"]["service_option"] == []
    finish(place, first)
    assert identify(open_folder(place, resume=True), service_option=[])


def test_another_vocabulary_is_another_student(place, identify):
    first = open_folder(place)
    identify(first, vocabulary="one")
    first.begin()
    assert not identify(open_folder(place, resume=True), vocabulary="one")
    with pytest.raises(UserError, match="another vocabulary"):
        identify(open_folder(place, resume=True), vocabulary="other")


def test_laps(place):
    found = open_folder(place)
    for name in ("first", "second"):
        found.lap(name)
    assert list(found._seconds) == ["first", "second"]
    assert all(0 <= seconds < 60 for seconds in found._seconds.values())
