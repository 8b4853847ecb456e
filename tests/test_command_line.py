"""How scripts end: status, sentence, traceback on request, and the time of --help."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, accept_interrupts

import disret
from disret import command_line
from disret.command_line import UserError

SCRIPTS = ("distill", "benchmark", "ispeed")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_does_not_wait_for_torch(name):
    code = f"import sys; sys.argv=['{name}.py','--help']; import {name}\n"
    code += f"try: {name}.parse_args()\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch','transformers','faiss','beir','pandas','datasets'} & set(sys.modules)\n"
    )
    code += "sys.exit(str(heavy) if heavy else 0)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert b"usage:" in result.stdout


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("what to do"), 2, "what to do"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "no room left"),
        (RuntimeError("write failed: No space left on device (os error 28)"), 2, "no room left"),
        (
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
            2,
            "no room left",
        ),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError"),
    ],
)
def test_endings(monkeypatch, capsys, error, status, sentence):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    assert end.value.code == status
    assert sentence in capsys.readouterr().err


def test_a_usage_error_takes_two_lines(script):
    outcome = script("benchmark", "--k-values", "ten")
    assert outcome.status == 2
    assert outcome.err.splitlines() == [
        "usage: benchmark.py …, with the flags that --help lists",
        "benchmark.py: error: argument --k-values: expected a whole number, got 'ten'",
    ]


def test_arguments_may_stand_in_groups(monkeypatch):
    parser = command_line.argument_parser("What it does.")
    command_line.add_device(parser.add_argument_group("where it runs"))
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument("--datasets")
    one_of.add_argument("--queries")
    monkeypatch.setattr(sys, "argv", ["x.py", "--device", "cpu", "--queries", "q"])
    assert parser.parse_args().device == "cpu"
    monkeypatch.setattr(sys, "argv", ["x.py", "--datasets", "d", "--queries", "q"])
    with pytest.raises(SystemExit):
        parser.parse_args()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host/x/y.zip answers 404", "http://host/x/y.zip answers 404"),
        ("https://secret@host:8000", "https://host:8000"),
        ("no http://h/x?token=secret&a=b (Timeout)", "no http://h/x?… (Timeout)"),
        ("https://user:secret@secret@host/v1", "https://host/v1"),
        ("https://user:sec#secret@host/v1#m", "https://host/v1#m"),
        ("https://user:sec/secret@host/v1#m", "https://host/v1#m"),
        ("https://user:sec?secret@host/v1#m", "https://host/v1#m"),
        ("http://127.0.0.1:8000/v1#m@r, a@b", "http://127.0.0.1:8000/v1#m@r, a@b"),
        ("x-api-key=secret my_token=secret a=b", "x-api-key=… my_token=… a=b"),
        ("max_tokens=5 token", "max_tokens=5 token"),
        ("someone@example.org, a/b@c and 3 / 4?", "someone@example.org, a/b@c and 3 / 4?"),
    ],
)  # fmt: skip
def test_no_secret_is_shown(monkeypatch, capsys, text, shown):
    assert command_line.without_secrets(text) == shown

    def main():
        command_line.say(text)
        raise UserError(text)

    monkeypatch.setattr(sys, "argv", ["x.py", "--mirror", text])
    assert "secret" not in command_line.invocation()
    with pytest.raises(SystemExit):
        command_line.run(main)
    assert capsys.readouterr().err == f"{shown}\nx.py: {shown}\n"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("distill.py --output a b", "python distill.py --output a b --resume"),
        ("distill.py --overwrite --output a", "python distill.py --output a --resume"),
        ("x/distill.py --resume --output a", "python distill.py --resume --output a"),
        ("/x/benchmark.py --output a", "python benchmark.py --output a"),
        ("/x/beyond/agree.py --index a", "python beyond/agree.py --index a"),
        ("ispeed.py", "python ispeed.py"),
    ],
)
def test_who_interrupts_is_told_what_goes_on(monkeypatch, capsys, words, shown):
    def main():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit):
        command_line.run(main)
    resumed = any(name in words for name in ("distill", "benchmark"))
    how = "goes on from here" if resumed else "starts it again"
    assert capsys.readouterr().err.endswith(f"interrupted; this {how}: {shown}\n")


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_a_library_caught_still_ends(name, status):
    program = (
        "import os, signal, sys; from disret.command_line import end_if_told, run\n"
        "def main():\n"
        f"    try: os.kill(os.getpid(), signal.{name})\n"
        "    except BaseException: pass\n"
        "    end_if_told(); print('kept')\n"
        "sys.argv = ['x.py']; run(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True,
                          text=True, check=False, preexec_fn=accept_interrupts)  # fmt: skip
    assert (done.returncode, done.stdout) == (status, "")


def test_several_processes_are_started_as_before(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distill.py", "--output", "a"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command_line.invocation() == "torchrun --nproc-per-node 4 distill.py --output a"


def test_a_module_is_named_as_python_takes_it(tmp_path):
    (tmp_path / "wing").mkdir()
    (tmp_path / "wing" / "export.py").write_text(
        "from disret.command_line import invocation; print(invocation())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "wing.export", "--flag", "a b"]
    said = subprocess.check_output(command, env=environment, text=True)
    assert said == "python -m wing.export --flag 'a b'\n"


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\rb", "\x9b31m", "\u202ecod", "\u2066a"])
def test_nothing_steers_the_terminal(monkeypatch, capsys, text):
    def main():
        command_line.say(f"said {text} once\n\tü ✓")
        command_line.tell(f"told {text} once\n\tü ✓")
        raise UserError(f"ended {text} once")

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit):
        command_line.run(main)
    shown, shown_text = capsys.readouterr(), ascii(text)[1:-1]
    assert shown.out == f"told {shown_text} once\n\tü ✓\n"
    assert shown.err == f"said {shown_text} once\n\tü ✓\nx.py: ended {shown_text} once\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs(closed):
    command = f"{sys.executable} {ROOT}/ispeed.py --encoders none --datasets none {closed}"
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode == 2


def test_a_rank_alone_is_no_run_of_several(monkeypatch):
    """Some schedulers set RANK for what is one process."""
    monkeypatch.setenv("RANK", "1")
    assert command_line.is_main_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not command_line.is_main_process()


@pytest.mark.parametrize(
    ("name", "flag", "near"),
    [("benchmark", "--index-type", "--index-dtype"), ("distill", "--epochs", "--num-epochs"),
     ("ispeed", "--batch-size", "--batch-sizes")],
)  # fmt: skip
def test_flags_are_not_abbreviated(script, name, flag, near):
    outcome = script(name, "--encoders" if name == "ispeed" else "--teacher", "x", flag, "1",
                     "--output", "y")  # fmt: skip
    assert outcome.status == 2
    assert f"{flag}" in outcome.err
    assert f"did you mean {near}?" in outcome.err


def test_debug_shows_the_traceback(script, tmp_path):
    plain = script("benchmark", "--datasets", "nothing")
    assert plain.status == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in script("benchmark", "--datasets", "nothing", "--debug").err


def test_a_failure_on_any_process_is_said(monkeypatch, capsys):
    """Under torchrun the process that fails may not be the first."""
    monkeypatch.setattr(sys, "argv", ["x.py"])
    monkeypatch.setenv("RANK", "3")

    def main():
        raise UserError("what to do")

    with pytest.raises(SystemExit):
        command_line.run(main)
    assert capsys.readouterr().err == "x.py [rank 3]: what to do\n"


@pytest.mark.kill
def test_interrupted_benchmark(teacher, collection, home, tmp_path):
    """Ctrl-C while the model loads or documents are encoded: 130, no traceback."""
    command = [sys.executable, str(ROOT / "benchmark.py"), "--datasets", str(collection),
               "--document-encoder", str(teacher), "--output", str(tmp_path / "r.csv")]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=accept_interrupts
    )
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err


@pytest.mark.kill
def test_full_disk_ends_a_distillation_with_a_sentence(teacher, queries, valid_queries, tmp_path):
    """A real limit on file size: the first checkpoint does not fit."""
    program = f"""
import resource, signal, sys
sys.argv = {["distill.py", "--teacher", str(teacher), "--layers", "0", "--recipe", "paper",
             "--queries", str(queries), "--valid-queries", str(valid_queries),
             "--output", str(tmp_path / "s")]!r}
import distill
from disret import command_line
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
command_line.run(distill.main)
"""  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "no room left to write" in result.stderr
    assert not (tmp_path / "s").exists()


def test_the_version(script):
    assert script("ispeed", "--version").out == f"disret {disret.__version__}\n"


def test_a_bar_without_a_terminal(capsys):
    """A line for each tenth, in a log as in a file."""
    with command_line.progress_bar(total=1000, desc="work", unit="text") as bar:
        for _ in range(500):
            bar.update(2)
    for _ in command_line.progress_bar(range(3), desc="few"):
        pass
    with command_line.progress_bar(desc="unknown", unit="doc") as bar:
        for _ in range(500):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    shares = [int(line.split()[1].split("%")[0]) for line in lines if line.startswith("work")]
    assert shares == list(range(0, 101, 10))
    assert len([line for line in lines if line.startswith("few")]) == 4
    assert len([line for line in lines if line.startswith("unknown")]) == 2
    assert max(map(len, lines)) < 200
