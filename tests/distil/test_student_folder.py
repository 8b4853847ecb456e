"""A run of distill.py on disk."""

import json
from argparse import Namespace

import pytest

from disret.command_line import at_end
from disret.distil.student_folder import Different, Foreign, Run, Taken, Unfinished
from disret.distil.teachers import ModelTeacher
from disret.encode.models import load_encoder


@pytest.fixture(autouse=True)
def locks_are_given_back():
    """As at the end of a script; each run of a test is one."""
    yield
    at_end.close()


@pytest.fixture
def arguments(tmp_path, teacher):
    return {"output": tmp_path / "s", "resume": False, "overwrite": False, "teacher": str(teacher),
            "queries": None, "valid_queries": None, "layers": [0], "device": "cpu",
            "init_with": "subset", "adapt": None, "teacher_vectors": None}  # fmt: skip


def run(arguments, texts=("a", "b"), **changes):
    at_end.close()
    model = load_encoder(arguments["teacher"], "cpu")
    found = Run(Namespace(**{**arguments, **changes}))
    found.identify(ModelTeacher(model, "t", "cpu", "float32"), None, texts, [], ["v"])
    return found


def finish(arguments, **changes):
    """What a finished run leaves, but for the model."""
    output = arguments["output"]
    output.mkdir()
    (output / "modules.json").write_text("[]")
    (output / "distillation.json").write_text("{}")
    report = {
        **run(arguments, overwrite=True, **changes).content,
        "command": "",
        "queries": {},
        "teacher_is_local": True,
        "validation_mse": [],
        "student_sha256": "",
        "size": {},
    }
    (output / "distillation.json").write_text(json.dumps(report))


def test_a_new_run_is_not_finished(arguments):
    assert not run(arguments).is_finished
    assert not run(arguments, resume=True).is_finished


def test_circumstances_and_names_do_not_decide(arguments):
    """Another device or another name of the same teacher is the same run."""
    finish(arguments)
    assert run(arguments, resume=True, device="cuda", teacher="another name").is_finished
    for changes in ({"layers": [1]}, {"texts": ("a", "c")}, {"texts": ("ab", "")}):
        with pytest.raises(Different, match=r"another (layers|queries_sha256)"):
            _ = run(arguments, resume=True, **changes).is_finished


def test_what_stands_there_is_not_touched(arguments):
    arguments["output"].mkdir()
    with pytest.raises(Foreign, match="not a model"):
        run(arguments, overwrite=True)
    (arguments["output"] / "modules.json").write_text("[]")
    with pytest.raises(Taken):
        run(arguments)
    with pytest.raises(Foreign, match=r"not made by distill\.py"):
        _ = run(arguments, resume=True).is_finished


def test_only_what_distill_made_is_replaced(arguments):
    """Not another model, however it came there."""
    arguments["output"].mkdir()
    (arguments["output"] / "modules.json").write_text("[]")
    with pytest.raises(Foreign, match="so it is not replaced"):
        run(arguments, overwrite=True)
    (arguments["output"] / "distillation.json").write_text("{}")
    run(arguments, overwrite=True)


@pytest.mark.parametrize("what", ["teacher", "init_with", "adapt"])
def test_an_input_is_not_replaced(arguments, what):
    """By whatever name: a student that is distilled further is not its own teacher."""
    finish(arguments)
    link = arguments["output"].with_name("link")
    link.symlink_to(arguments["output"])
    for name in (str(arguments["output"]), str(link)):
        with pytest.raises(Foreign, match="is an input of this run"):
            Run(Namespace(**{**arguments, what: name, "overwrite": True}))
    inside = arguments["output"] / "log.tsv"
    inside.touch()
    with pytest.raises(Foreign, match="is an input of this run"):
        Run(Namespace(**{**arguments, "queries": [inside], "overwrite": True}))


def test_an_unfinished_run_waits(arguments):
    first = run(arguments)
    first.claim()
    with pytest.raises(Unfinished):
        run(arguments)
    assert not run(arguments, resume=True).is_finished
    with pytest.raises(Different, match="another layers"):
        _ = run(arguments, resume=True, layers=[2]).is_finished
    (first.partial / "left").touch()
    run(arguments, overwrite=True, layers=[2]).claim()
    assert [path.name for path in first.partial.iterdir()] == ["run.json"]


def test_laps(arguments):
    found = run(arguments)
    for name in ("first", "second"):
        found.lap(name)
    assert list(found._seconds) == ["first", "second"]
    assert all(0 <= seconds < 60 for seconds in found._seconds.values())
