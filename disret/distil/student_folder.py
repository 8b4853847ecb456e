"""A run of distill.py on disk: new, unfinished beside its output, or finished."""

import hashlib
import shutil
import time
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError, invocation, is_main_process, say, without_secrets
from disret.data.queries import Source
from disret.files import (
    check_writable,
    claim,
    follow_umask,
    read_record,
    replace_folder,
    write_json,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from disret.distil.teachers import Teacher

# Arguments that do not decide the student, and so are not recorded with it.
CIRCUMSTANCES = (
    "resume", "overwrite", "debug", "device", "mirror", "output", "eval_batch_size", "router",
    "export", "push_to_hub", "results", "dry_run",
)  # fmt: skip
# Names of files and models, whose content the fingerprints stand for.
_NAMES = (
    "teacher", "teacher_vectors", "queries", "valid_queries", "max_queries", "adapt",
    "vocabulary",
)  # fmt: skip


class Taken(UserError):
    """Something stands at the output already."""


class Foreign(UserError):
    """What stands at the output is no student."""


class Unfinished(UserError):
    """A run beside the output waits to be continued."""


class Different(UserError):
    """What is to be continued was made of something else."""


class Damaged(UserError):
    """Nothing says what is to be continued."""


class Unloaded(UserError):
    """The best weights of a training are not in the student at its end."""


class Diverged(UserError):
    """A loss is no longer a number."""


class Run:
    """A run, told from others by its arguments and the content of what they name.

    Args:
        args: of distill.py; `output`, `resume` and `overwrite` say what may be touched.

    Attributes:
        teacher_sha256: the teacher's fingerprint, once the run is identified.
        encoder_sha256: that of what embeds the documents, by which an export knows its index.
        sources: of the queries to train and to validate on, for the report.
        training_dtype: what it is trained in, for the report.
        resumed_at: the step from which an earlier process's training goes on, for the report.

    Raises:
        UserError: the place cannot be written; or something stands there, or unfinished beside
            it, that is neither to be resumed nor to be replaced, or is no model.
    """

    def __init__(self, args: Namespace) -> None:
        self.output: Path = args.output
        self.partial = unfinished(args.output)
        self.args = args
        self.teacher_sha256 = self.encoder_sha256 = ""
        self.on_hub: str | None = None
        self.inputs: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.sources: dict[str, list[Source]] = {}
        self.training_dtype = "float32"
        self.resumed_at = 0
        check_output(args.output, args.resume, args.overwrite)
        _check_no_input(args)
        if is_main_process():
            claim(args.output)
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def identify(
        self,
        teacher: "Teacher",
        start: "SentenceTransformer | None",
        queries: Sequence[str],
        sentences: Sequence[str],
        valid_queries: Sequence[str],
    ) -> None:
        """Say what the run is made of: teacher, all texts, and what the student starts from.

        Args:
            start: None for what follows from the teacher.
        """
        from disret.encode.models import fingerprint

        self.teacher_sha256, self.on_hub = teacher.sha256, teacher.on_hub
        self.encoder_sha256 = teacher.encoder_sha256
        initial = fingerprint(start) if start else self.teacher_sha256
        self.inputs = {
            "teacher_sha256": self.teacher_sha256,
            "initial_student_sha256": initial,
            "queries_sha256": _sha256([*queries, *sentences]),
            "valid_queries_sha256": _sha256(valid_queries),
        }
        self.counts = {
            "training": len(queries),
            "sentences": len(sentences),
            "validation": len(valid_queries),
        }
        self._started = time.perf_counter()

    @property
    def content(self) -> dict[str, dict[str, Any]]:
        """The arguments that decide the student, as JSON, and what they name."""
        arguments = {k: v for k, v in vars(self.args).items() if k not in CIRCUMSTANCES}
        for key in ("queries", "valid_queries"):
            arguments[key] = [str(path) for path in arguments[key]] if arguments[key] else None
        arguments["teacher"] = without_secrets(arguments["teacher"])
        return {"arguments": arguments, "inputs": self.inputs}

    @cached_property
    def is_finished(self) -> bool:
        """Whether the student at the output is the one asked for.

        Raises:
            Different: to be resumed, but what is there was made of something else.
        """
        if not self.args.resume:
            return False
        run = read_record(self.partial / "run.json", {"arguments": dict, "inputs": dict})
        if run is not None:  # first, as it may be about to replace a finished student
            _check_same(run, self.content, self.partial)
            return False
        if self.output.exists():
            _check_same(read_report(self.output), self.content, self.output)
            shutil.rmtree(self.partial, ignore_errors=True)  # left by a kill at the very end
            return True
        if self.checkpoints.exists():
            raise Damaged(f"{self.partial / 'run.json'} does not say what the run is made of")
        return False

    def claim(self) -> None:
        """Note what the run is made of; what is to be overwritten and unfinished is given up."""
        if is_main_process():
            if self.args.overwrite:
                shutil.rmtree(self.partial, ignore_errors=True)
            write_json(self.partial / "run.json", self.content)

    @property
    def checkpoints(self) -> Path:
        """Where the trainer's checkpoints go."""
        return self.partial / "checkpoints"

    def last_checkpoint(self) -> str | None:
        """The newest whole checkpoint; a kill or a power cut may have damaged one."""
        steps = {
            int(path.name.rpartition("-")[2]): path
            for path in self.checkpoints.glob("checkpoint-*")
        }
        for step in sorted(steps, reverse=True):
            if _is_whole(steps[step]):
                self.resumed_at = step
                return str(steps[step])
            say(f"note: {steps[step]} is damaged or unfinished, so it is passed over.")
        return None

    def lap(self, name: str) -> None:
        """Note the seconds since the last call, or since the run was identified."""
        now = time.perf_counter()
        self._seconds[name] = round(now - self._started, 1)
        self._started = now

    def save(self, student: "SentenceTransformer", curve: list[dict[str, float]]) -> None:
        """Put the complete model in place, with its `distillation.json`; the run is finished.

        Args:
            curve: validation MSE by step, from step 0, before training.
        """
        from disret.devices import versions, world_size
        from disret.encode.models import describe, fingerprint, load_encoder

        if not is_main_process():
            return
        folder = self.partial / "model"
        shutil.rmtree(folder, ignore_errors=True)
        student.save_pretrained(str(folder), create_model_card=False)
        follow_umask(folder)
        # As its users will load it: settings may be spelt otherwise.
        saved = load_encoder(str(folder), "cpu")
        report = {
            **self.content,
            "command": invocation(),
            "teacher_on_hub": self.on_hub,
            "encoder_sha256": self.encoder_sha256,
            "queries": self.counts,
            "sources": {
                use: [source._asdict() for source in sources]
                for use, sources in self.sources.items()
            },
            "training_dtype": self.training_dtype,
            "processes": world_size(),
            "resumed_at_step": self.resumed_at,
            "seconds": self._seconds,  # of this process
            "validation_mse": curve,
            "student_sha256": fingerprint(saved),
            "size": asdict(describe(saved)),
            "versions": versions(),
        }
        write_json(folder / "distillation.json", report)
        replace_folder(folder, self.output)
        (self.partial / "run.json").unlink()  # first: what is left after a kill is no run
        shutil.rmtree(self.partial)
        before, *after = (point["mse"] for point in curve)
        best = min(after, default=before)
        print(f"{self.output}: validation MSE {before:.3g} before, {best:.3g} after.")


# What is read of `distillation.json`.
_REPORT = {
    "arguments": dict, "inputs": dict, "command": str, "queries": dict,
    "validation_mse": list, "student_sha256": str, "size": dict,
}  # fmt: skip


def read_report(student: Path) -> dict[str, Any]:
    """What the `distillation.json` of a finished student says.

    Raises:
        Foreign: there is none, or it is of another shape.
    """
    report = read_record(student / "distillation.json", _REPORT)
    if report is None:
        raise Foreign(f"{student} was not made by distill.py, or its distillation.json is damaged")
    return report


def unfinished(output: Path) -> Path:
    """Where the checkpoints of a run lie until its output is whole."""
    return output.with_name(f"{output.name}.partial")


def check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to touch what is not to be touched, before anything is computed.

    Raises:
        UserError: as `Run`.
    """
    check_writable(output, is_file=False)
    if output.exists():
        if not (output / "modules.json").exists():
            raise Foreign(f"{output} exists and is not a model")
        if overwrite and not (output / "distillation.json").exists():
            raise Foreign(f"{output} was not made by distill.py, so it is not replaced")
        if not (resume or overwrite):
            raise Taken(f"{output} exists")
    elif unfinished(output).exists() and not (resume or overwrite):
        raise Unfinished(f"{unfinished(output)} holds an unfinished run")


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint can be read; the trainer writes its state last."""
    from safetensors import SafetensorError, safe_open

    if read_record(checkpoint / "trainer_state.json", {"global_step": int}) is None:
        return False
    try:
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, "pt"):
                pass
        for pattern in ("*.pt", "*.pth", "*.bin"):  # zip archives, by torch.save
            for path in checkpoint.glob(pattern):
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip():
                        return False
    except (SafetensorError, zipfile.BadZipFile, OSError):
        return False
    return True


def _check_no_input(args: Namespace) -> None:
    """Raise `UserError` if a run would replace what it reads."""
    named = [args.teacher, args.init_with, args.adapt, *(args.queries or [])]
    named += [*(args.valid_queries or []), *(args.teacher_vectors or [])]
    inputs = {Path(name).resolve() for name in named if name and Path(name).exists()}
    for place in (args.output, unfinished(args.output)):
        for path in inputs:
            if path == place.resolve() or place.resolve() in path.parents:
                raise Foreign(f"{path} is an input of this run, which would replace it")


def _sha256(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _check_same(earlier: dict[str, dict], now: dict[str, dict], folder: Path) -> None:
    differing = [
        key
        for part in ("arguments", "inputs")
        for key in now[part]
        if key not in _NAMES and earlier.get(part, {}).get(key) != now[part][key]
    ]
    if differing:
        shown = ", ".join(differing[:5]) + (" and others" if differing[5:] else "")
        raise Different(f"{folder} was made with another {shown}")
