#!/usr/bin/env python
"""Publish a student: its card with scores, one model with its teacher, an export, the model hub.

    python beyond/publish.py models/student             # benchmarks/results.csv into its card
    python beyond/publish.py models/student --router    # with its teacher: models/student-router
    python beyond/publish.py models/student --export --push-to-hub USER/NAME

It works on the folder that distill.py left, trains nothing, and can be run again.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret import paths
from disret.command_line import UserError, add_mirror, argument_parser, run, tell
from disret.data.download import mirror_from
from disret.data.hub import hub_obstacle
from disret.data.queries import msmarco_queries, read_queries
from disret.distil.model_card import write_model_card
from disret.distil.student_folder import read_report
from disret.encode.models import load_encoder, prompt_of
from disret.files import check_writable, claim, follow_umask, whole_folder
from disret.retrieve.scores import read_scores

if TYPE_CHECKING:
    from huggingface_hub import RepoUrl


def main() -> None:
    """Refuse what would fail later; then write the card, join, export and upload."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("student", type=lambda path: Path(path).resolve(), help="the folder that distill.py left")
    add("--results", type=Path, metavar="CSV",
        help="table of benchmark.py for the card (default: benchmarks/results.csv)")
    add("--router", action="store_true",
        help="also save it and its teacher as one model: STUDENT-router")
    add("--export", action="store_true", help="also as ONNX graphs for services, into onnx/")
    add("--queries", type=Path, metavar="FILE",
        help="compare the export on these (default: MS MARCO's dev queries)")
    add("--push-to-hub", metavar="USER/NAME", help="upload the student to this model repository")
    # fmt: on
    add_mirror(parser)
    args = parser.parse_args()
    student: Path = args.student
    report = read_report(student)
    if args.results and not args.results.exists():
        raise UserError(f"there is no file {args.results}.")
    rows = read_scores(args.results or paths.HOME / "benchmarks" / "results.csv")
    repository = open_repository(args.push_to_hub) if args.push_to_hub else None
    queries: list[str] = []
    if args.export:
        from disret.serve.export import QUERIES, export_once

        file = args.queries or msmarco_queries(mirror_from(args.mirror))[1]
        queries = read_queries([file], QUERIES)
    check_writable(student, is_file=False)
    claim(student)
    if args.router:
        save_router(student, report["arguments"])
    write_model_card(student, rows, args.push_to_hub)
    if args.export:
        export_once(student, queries)
    if repository:
        upload(student, repository)


# --- Teacher and student as one model -------------------------------------------------------------


def save_router(student: Path, arguments: dict[str, Any]) -> None:
    """Save a student and its teacher as one model, in the folder STUDENT-router.

    Its `encode_query` gives the student's embeddings, `encode_document` the teacher's, each with
    its prompt; `encode` without a task is that of documents.

    Args:
        arguments: that the student was made with.

    Raises:
        UserError: something else stands there, the teacher is no model, or their vectors have
            different dimensions.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    if "://" in arguments["teacher"]:
        raise UserError(
            f"the teacher {arguments['teacher']} is no model, which alone can be joined with a "
            "student."
        )
    teacher = load_encoder(arguments["teacher"], "cpu")
    folder = student.with_name(f"{student.name}-router")
    if folder.exists() and not (folder / "distillation.json").exists():
        raise UserError(f"{folder} exists and is not a model of this project; move it elsewhere.")
    own = load_encoder(str(student), "cpu")
    sizes = [model.get_embedding_dimension() for model in (own, teacher)]
    if sizes[0] != sizes[1]:
        raise UserError(f"{student} has {sizes[0]} dimensions, and its teacher {sizes[1]}.")
    prompts = {
        "query": prompt_of(own, "query") or "",
        "document": prompt_of(teacher, "document") or "",
    }
    joined = SentenceTransformer(
        modules=[Router.for_query_document(list(own), list(teacher))],
        prompts=prompts if any(prompts.values()) else None,
        default_prompt_name="document" if prompts["document"] else None,
        similarity_fn_name=teacher.similarity_fn_name,
        device="cpu",
    )
    with whole_folder(folder) as partial:
        joined.save_pretrained(str(partial), create_model_card=False)
        follow_umask(partial)
        shutil.copy(student / "distillation.json", partial)  # by which it is known as ours
    tell(f"{folder}: queries by the student, documents by the teacher.")


# --- The model hub --------------------------------------------------------------------------------


def open_repository(name: str) -> "RepoUrl":
    """A model repository, made now if need be, so that what is in the way is said at once.

    Raises:
        UserError: the hub does not answer or refuses, or nobody is logged in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    if obstacle := hub_obstacle():
        raise UserError(f"nothing can be uploaded: {obstacle}.")
    try:
        return HfApi(token=True).create_repo(name, exist_ok=True)
    except LocalTokenNotFoundError:
        raise UserError("log in first, with `hf auth login` or the variable HF_TOKEN.") from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(f"nothing can be uploaded: {_reason(error)}") from None


def upload(folder: Path, repository: "RepoUrl") -> None:
    """Upload a folder to a model repository.

    Raises:
        UserError: the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().upload_folder(
            repo_id=repository.repo_id, folder_path=folder, commit_message="Upload query encoder"
        )
    except HfHubHTTPError as error:
        raise UserError(
            f"{folder} was not uploaded: {_reason(error)}; run the same again to retry."
        ) from None
    tell(f"uploaded to {repository}")


def _reason(error: Exception) -> str:
    return getattr(error, "server_message", None) or str(error).splitlines()[0]


if __name__ == "__main__":
    run(main)
