"""The owner of an index whose embeddings come from a service."""

import faiss
import pytest
from embedding_service import KEY, EmbeddingService
from sentence_transformers import SentenceTransformer
from tiny import save_encoder


@pytest.fixture
def owner(teacher, tmp_path, monkeypatch):
    """A service, an index of what it embedded, a log, and another model to start from."""
    monkeypatch.chdir(tmp_path)
    model = SentenceTransformer(str(teacher), device="cpu")
    server = EmbeddingService(lambda texts: model.encode_query(texts, show_progress_bar=False))
    server.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    texts = [f"thing {i} of {i * i}" for i in range(400)]
    vectors = model.encode_document(texts)
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    faiss.write_index(index, "documents.faiss")
    (tmp_path / "ids.txt").write_text("".join(f"doc-{i}\n" for i in range(400)))
    log = [f"{('what', 'who', 'when')[i % 3]} is {i * 7}" for i in range(900)]
    (tmp_path / "log.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(log)))
    held_out = "".join(f"{i}\twho is {i * 21 + 1}\n" for i in range(40))
    (tmp_path / "held-out.tsv").write_text(held_out)
    save_encoder(tmp_path / "small", "distilbert", layers=1, seed=4)
    yield server
    server.close()
