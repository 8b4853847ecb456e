"""A run of distill.py on disk: new, unfinished beside its output, or finished."""

import shutil
from pathlib import Path
from typing import Any

from disret.files import check_writable, read_json, write_json
from disret.terminal import UserError, is_main_process


def unfinished(output: Path) -> Path:
    """Where the checkpoints of a run lie until its output is whole."""
    return output.with_name(f"{output.name}.partial")


def is_finished(output: Path, arguments: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Whether there is nothing left to do.

    Args:
        arguments: those that decide the student, as its `distillation.json` records them.

    Raises:
        UserError: something stands at `output`, or unfinished beside it, that is neither to be
            resumed nor to be replaced, or that was made with other arguments.
    """
    check_writable(output)
    partial = unfinished(output)
    if overwrite:
        if is_main_process():
            shutil.rmtree(partial, ignore_errors=True)
        return False
    if output.exists():
        report = read_json(output / "distillation.json") if resume else None
        if report is None:
            raise UserError(
                f"{output} exists; name another --output, or replace it with --overwrite."
            )
        _check_same(report["arguments"], arguments, output)
        return True
    if partial.exists() and not resume:
        raise UserError(
            f"{partial} holds an unfinished run; go on with --resume or start with --overwrite."
        )
    return False


def claim(output: Path, content: dict[str, Any]) -> None:
    """Note what a run is made of, or check that the unfinished one was made of the same.

    Args:
        content: the arguments, and fingerprints of what they name.
    """
    if not is_main_process():
        return
    partial = unfinished(output)
    earlier = read_json(partial / "run.json")
    if earlier is not None:
        _check_same(earlier, content, partial)
    else:
        write_json(partial / "run.json", content)


def _check_same(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    differing = sorted(key for key in now if earlier.get(key) != now[key])
    if differing:
        raise UserError(
            f"{folder} was made with another {', '.join(differing)}; give the same, name another "
            "--output, or start with --overwrite."
        )
