"""A student on disk: new, unfinished beside its place, or finished."""

import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import UserError, invocation, is_main_process, say, tell, without_secrets
from disret.data.text_files import file_of
from disret.devices import versions, world_size
from disret.distil.training_data import Texts
from disret.encode.encoders import Encoder
from disret.encode.models import describe, fingerprint, load_encoder
from disret.files import (
    check_writable,
    claim,
    follow_umask,
    read_record,
    replace_folder,
    text_sha256,
    write_json,
)
from disret.retrieve.agreement import usable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Arguments that do not decide the student, and so are not recorded with it.
CIRCUMSTANCES = (
    "resume", "overwrite", "debug", "device", "mirror", "output", "eval_batch_size", "dry_run",
)  # fmt: skip
# Arguments that name files and models, for whose content the fingerprints stand.
_NAMES = ("teacher", "queries", "valid_queries", "max_queries", "adapt")
_BEFORE = {"long_texts": "refuse"}  # what was done before there was such an argument
# What is read of `run.json`, and of `distillation.json` beside it.
_MADE_OF = {"arguments": dict, "inputs": dict}
_REPORT = {"queries": dict, "validation_mse": list, "student_sha256": str, "size": dict}


class StudentFolder:
    """Where a student goes, told from others by what it is made of.

    Args:
        path: the place of the finished student; until then, PATH.partial holds its checkpoints.
        resume: go on with what is unfinished, or leave a finished student as it is.
        overwrite: replace what stands there.
        reads: names of what the run reads, files among them, which it may not replace.

    Raises:
        UserError: the place cannot be written; or something stands there, or unfinished beside
            it, that is neither to be resumed nor to be replaced, or is no model.
    """

    def __init__(self, path: Path, resume: bool, overwrite: bool, reads: Iterable[object]) -> None:
        self.path, self.resume, self.overwrite = path, resume, overwrite
        self.unfinished = path.with_name(f"{path.name}.partial")
        self.report: dict[str, Any] = {"resumed_at_step": 0}
        self.made_of: dict[str, dict[str, Any]] = {}
        # Refuse to touch what is not to be touched, before anything is computed.
        check_writable(path, is_file=False)
        if path.exists():
            if not (path / "modules.json").exists():
                raise UserError(f"{path} exists and is not a model; name another output.")
            if overwrite and not (path / "distillation.json").exists():
                raise UserError(f"{path} was not made by distill.py, so it is not replaced.")
            if not (resume or overwrite):
                raise UserError(f"{path} exists: name another output, or overwrite it.")
        elif self.unfinished.exists() and not (resume or overwrite):
            raise UserError(f"{self.unfinished} holds an unfinished run: resume or overwrite it.")
        files = [file_of(str(name))[0] for name in reads if name]
        inputs = {file.resolve() for file in files if file.exists()}
        for place in (path.resolve(), self.unfinished.resolve()):
            if replaced := [one for one in inputs if place in (one, *one.parents)]:
                raise UserError(
                    f"{replaced[0]} is an input of this run, which would replace it; name another "
                    "output."
                )
        if is_main_process():
            claim(path)
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def identify(
        self,
        arguments: Mapping[str, Any],
        teacher: Encoder,
        start: "SentenceTransformer | None",
        texts: Texts,
    ) -> bool:
        """Say what the student is made of.

        Args:
            arguments: by name; those that do not decide the student are left out.
            start: what the student starts from; None for what follows from the teacher.

        Returns:
            Whether it is there and finished.

        Raises:
            UserError: to be resumed, but what is there was made of something else.
        """
        deciding = {key: value for key, value in arguments.items() if key not in CIRCUMSTANCES}
        weights = [weight for _, weight in arguments["queries"]]
        deciding |= {
            "teacher": " ".join(map(without_secrets, arguments["teacher"])),
            "queries": [str(name) for name, _ in arguments["queries"]] or None,
            "query_weights": weights if set(weights) - {1.0} else None,
            "valid_queries": [str(name) for name in arguments["valid_queries"]] or None,
        }
        if options := arguments.get("service_option"):
            deciding["service_option"] = [*map(without_secrets, options)]
        inputs = {
            "teacher_sha256": teacher.fingerprint,
            "initial_student_sha256": fingerprint(start) if start else teacher.fingerprint,
            "queries_sha256": text_sha256(texts.training),
            "valid_queries_sha256": text_sha256(texts.valid),
        }
        self.made_of = {"arguments": deciding, "inputs": inputs}
        counts = len(texts.queries), len(texts.sentences), len(texts.valid)
        self.report |= {
            "teacher_on_hub": teacher.on_hub,
            "encoder_sha256": teacher.index_fingerprint,
            "log_sha256": texts.log_sha256,
            "queries": dict(zip(("training", "sentences", "validation"), counts, strict=True)),
            "sources": {use: [s._asdict() for s in some] for use, some in texts.sources.items()},
        }
        self._started = time.perf_counter()
        if not self.resume:
            return False
        run = read_record(self.unfinished / "run.json", _MADE_OF)
        if run is not None:  # first, as it may be about to replace a finished student
            self._check_same(run, self.unfinished)
            return False
        if self.path.exists():
            self._check_same(read_report(self.path), self.path)
            shutil.rmtree(self.unfinished, ignore_errors=True)  # left by a kill at the very end
            return True
        return False

    def _check_same(self, earlier: Mapping[str, Any], folder: Path) -> None:
        differing = [
            key
            for part, now in self.made_of.items()
            for key in now
            if key not in _NAMES and earlier[part].get(key, _BEFORE.get(key)) != now[key]
        ]
        if differing:
            shown = ", ".join(differing[:5]) + (" and others" if differing[5:] else "")
            raise UserError(
                f"{folder} was made with another {shown}; give the same, name another output, or "
                "overwrite it."
            )

    def begin(self) -> None:
        """Note what the student is made of; what is to be overwritten is given up."""
        if is_main_process():
            if self.overwrite or not (self.unfinished / "run.json").exists():
                shutil.rmtree(self.unfinished, ignore_errors=True)
            write_json(self.unfinished / "run.json", self.made_of)

    @property
    def checkpoints(self) -> Path:
        """Where the trainer's checkpoints go."""
        return self.unfinished / "checkpoints"

    def last_checkpoint(self) -> str | None:
        """The newest whole checkpoint; a kill may have left one unfinished."""
        steps = [int(path.name.split("-")[1]) for path in self.checkpoints.glob("checkpoint-*")]
        for step in sorted(steps, reverse=True):
            path = self.checkpoints / f"checkpoint-{step}"
            # The trainer writes its state last; torch's files are zip archives.
            parts = [*path.glob("*.pt"), *path.glob("*.pth")]
            if read_record(path / "trainer_state.json", {"global_step": int}) and all(
                map(_is_whole_zip, parts)
            ):
                self.report["resumed_at_step"] = step
                return str(path)
            say(f"note: {path} is unfinished or damaged, so it is passed over.")
        return None

    def lap(self, name: str) -> None:
        """Note the seconds since the last call, or since the student was identified."""
        now = time.perf_counter()
        self._seconds[name] = round(now - self._started, 1)
        self._started = now

    def save(
        self,
        student: "SentenceTransformer",
        curve: Sequence[Mapping[str, float]],
        mse: float,
        cosines: np.ndarray,
        dtype: str,
    ) -> None:
        """Put the complete model in place, with its `distillation.json`.

        Args:
            curve: validation MSE by step, from step 0, before training.
            mse: that of the weights that are saved.
            cosines: theirs to the teacher, centred, of each validation query.
            dtype: what they were trained in.
        """
        self.lap("training")
        folder = self.unfinished / "model"
        shutil.rmtree(folder, ignore_errors=True)
        student.save_pretrained(str(folder), create_model_card=False)
        follow_umask(folder)
        # As its users will load it: settings may be spelt otherwise.
        saved = load_encoder(str(folder), "cpu")
        report = {
            **self.made_of,
            "command": invocation(),
            **self.report,
            "training_dtype": dtype,
            "processes": world_size(),
            "seconds": self._seconds,  # of this process
            "validation_mse": list(curve),
            "validation_mse_after": mse,
            "centred_cosine": float(cosines.mean()),
            "centred_cosine_spread": float(cosines.std()),  # standard deviation over queries
            "student_sha256": fingerprint(saved),
            "size": describe(saved)._asdict(),
            "versions": versions(),
        }
        write_json(folder / "distillation.json", report)
        replace_folder(folder, self.path)
        (self.unfinished / "run.json").unlink()  # first: what is left after a kill is no run
        shutil.rmtree(self.unfinished)
        tell(f"{self.path}: validation MSE {curve[0]['mse']:.3g} before, {mse:.3g} after; "
              f"centred cosine {cosines.mean():.3f}. {usable(cosines.mean())}")  # fmt: skip


def _is_whole_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_report(student: Path) -> dict[str, Any]:
    """What the `distillation.json` of a finished student says.

    Raises:
        UserError: there is none, or it is of another shape.
    """
    report = read_record(student / "distillation.json", {**_MADE_OF, **_REPORT})
    if report is None:
        raise UserError(
            f"{student} was not made by distill.py, or its distillation.json is damaged."
        )
    return report
