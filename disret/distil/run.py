"""A run of distill.py on disk: new, unfinished beside its output, or finished."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError, is_main_process
from disret.files import check_writable, read_json, replace_folder, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def unfinished(output: Path) -> Path:
    """Where the checkpoints of a run lie until its output is whole."""
    return output.with_name(f"{output.name}.partial")


def check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to touch what is not to be touched, before anything is computed.

    Raises:
        UserError: the place cannot be written; or something stands there, or unfinished beside
            it, that is neither to be resumed nor to be replaced, or is no model.
    """
    check_writable(output, is_file=False)
    if output.exists():
        if not (output / "modules.json").exists():
            raise UserError(f"{output} exists and is not a model; name another --output.")
        if not (resume or overwrite):
            raise UserError(
                f"{output} exists; name another --output, or replace it with --overwrite."
            )
    elif unfinished(output).exists() and not (resume or overwrite):
        raise UserError(
            f"{unfinished(output)} holds an unfinished run; go on with --resume or start with "
            "--overwrite."
        )


def is_finished(output: Path, content: dict[str, dict], resume: bool) -> bool:
    """Whether the student at `output` is the one asked for.

    Args:
        content: what the run is made of: `arguments`, and `inputs`, the fingerprints of what
            they name.

    Raises:
        UserError: to be resumed, but what is there was made of something else.
    """
    if not resume:
        return False
    partial = unfinished(output)
    run = read_json(partial / "run.json")
    if run is not None:  # first, as it may be about to replace a finished student
        _check_same(run, content, partial)
        return False
    if not output.exists():
        return False
    report = read_json(output / "distillation.json")
    if report is None:
        raise UserError(f"{output} was not made by distill.py; name another --output.")
    _check_same(report, content, output)
    return True


def claim(output: Path, content: dict[str, dict], overwrite: bool) -> None:
    """Note what a run is made of; with `overwrite`, whatever was unfinished is given up."""
    partial = unfinished(output)
    if is_main_process():
        if overwrite:
            shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / "run.json", content)


def save_student(output: Path, student: "SentenceTransformer", report: dict[str, Any]) -> None:
    """Put the complete model in place, with its `distillation.json`; the run is finished."""
    from disret.devices import versions
    from disret.encode.models import describe, fingerprint, load_encoder

    partial = unfinished(output)
    folder = partial / "model"
    shutil.rmtree(folder, ignore_errors=True)
    student.save_pretrained(str(folder), create_model_card=False)
    saved = load_encoder(str(folder), "cpu")  # as its users will: settings may be spelt otherwise
    report = {
        **report,
        "student_sha256": fingerprint(saved),
        "size": asdict(describe(saved)),
        "versions": versions(),
    }
    write_json(folder / "distillation.json", report)
    replace_folder(folder, output)
    shutil.rmtree(partial)
    before, *after = (point["mse"] for point in report["validation_mse"])
    print(f"{output}: validation MSE {before:.3g} before, {min(after):.3g} after.")


def text_sha256(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def last_checkpoint(output: Path) -> str | None:
    """The newest whole checkpoint; a kill may have left one half-written."""
    steps = {
        int(path.name.rpartition("-")[2]): path
        for path in (unfinished(output) / "checkpoints").glob("checkpoint-*")
        if read_json(path / "trainer_state.json") is not None  # the trainer writes it last
    }
    return str(steps[max(steps)]) if steps else None


# Names of files and models, whose content the fingerprints stand for.
_NAMES = ("teacher", "queries", "valid_queries", "max_queries", "adapt")


def _check_same(earlier: dict[str, dict], now: dict[str, dict], folder: Path) -> None:
    if now["arguments"].keys() - earlier.get("arguments", {}).keys():
        raise UserError(
            f"{folder} was made by an earlier version; name another --output, or start with "
            "--overwrite."
        )
    differing = [
        key
        for part in ("arguments", "inputs")
        for key in now[part]
        if key not in _NAMES and earlier.get(part, {}).get(key) != now[part][key]
    ]
    if differing:
        raise UserError(
            f"{folder} was made with another {', '.join(differing)}; give the same, name another "
            "--output, or start with --overwrite."
        )
