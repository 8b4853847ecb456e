"""Teacher and student as one model: queries go to the student, documents to the teacher."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from disret.encode.models import load_encoder, prompt_of
from disret.files import follow_umask, whole_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def join_encoders(
    teacher: "SentenceTransformer", student: "SentenceTransformer"
) -> "SentenceTransformer":
    """One sentence-transformers model of two encoders.

    `encode_query` gives the student's embeddings, `encode_document` the teacher's, each with its
    prompt; `encode` without a task is that of documents.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    prompts = {
        "query": prompt_of(student, "query") or "",
        "document": prompt_of(teacher, "document") or "",
    }
    return SentenceTransformer(
        modules=[Router.for_query_document(list(student), list(teacher))],
        prompts=prompts if any(prompts.values()) else None,
        default_prompt_name="document" if prompts["document"] else None,
        similarity_fn_name=teacher.similarity_fn_name,
        device=str(teacher.device),
    )


def router_folder(student: Path) -> Path:
    """Where a teacher and its student are saved as one model."""
    return student.with_name(f"{student.name}-router")


def save_router(teacher: str, student: Path) -> None:
    """Save a teacher and its student as one model, in the folder STUDENT-router."""
    folder = router_folder(student)
    joined = join_encoders(load_encoder(teacher, "cpu"), load_encoder(str(student), "cpu"))
    with whole_folder(folder) as partial:
        joined.save_pretrained(str(partial), create_model_card=False)
        follow_umask(partial)
        shutil.copy(student / "distillation.json", partial)  # by which it is known as ours
    print(f"{folder}: queries by the student, documents by the teacher.")
