"""One LangChain embedder, for any vector store: the teacher for documents, a student for queries.

python -m examples.langchain_embeddings TEACHER STUDENT documents.txt "a query"
"""

import argparse
from pathlib import Path

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from sentence_transformers import SentenceTransformer

from disret.query_encoder import QueryEncoder


class StudentEmbeddings(Embeddings):
    def __init__(self, student: str, teacher: str | None = None) -> None:
        self.student = QueryEncoder.from_pretrained(student)
        self.teacher = teacher and SentenceTransformer(teacher, device="cpu")  # to add documents

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.teacher.encode_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.student.encode([text])[0].tolist()


def main(teacher: str, student: str, documents: str, query: str) -> None:
    store = InMemoryVectorStore(StudentEmbeddings(student, teacher))
    store.add_texts(Path(documents).read_text(encoding="utf-8").splitlines())
    for document, score in store.similarity_search_with_score(query, k=10):
        print(f"{score:.4f}\t{document.page_content}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "student", "documents", "query"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
