"""A student without transformer layers: the mean of an embedding for each token."""

import copy
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError, progress_bar, say
from disret.distil.closed_form import token_table
from disret.encode.batches import BatchEncoder
from disret.encode.encoders import Encoder
from disret.encode.models import prompt_of, tokenizer_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

UNIT = 0.5  # a coordinate, as the feed-forward layers see it at first
BATCH = 1024  # tokens of the vocabulary run through the teacher together
FEWEST = 3  # times that a word stands in the texts; a rarer one would keep the place it starts at


def student_of_tokens(
    teacher: "SentenceTransformer", texts: Sequence[str] = (), words: int = 0
) -> "SentenceTransformer":
    """A student without layers: the mean of an embedding for each token, in the teacher's space.

    Each token is run through the teacher by itself, and stands where a query of one word would:
    behind the query prompt, between the special tokens. The queries' own special tokens and prompt
    are left out. The most frequent words of some texts that the teacher splits have a token as
    well, which starts as the query of that word.

    Args:
        words: how many of them, at most.

    Raises:
        UserError: the teacher has no tokenizer of the `tokenizers` library.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    if isinstance(teacher[0], StaticEmbedding):
        return copy.deepcopy(teacher).float()
    backend = getattr(teacher.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            "token embeddings need a teacher with a tokenizer of the tokenizers library."
        )
    tokenizer = Tokenizer.from_str(backend.to_str())
    _for_means(tokenizer, teacher.max_seq_length)
    table = _embed_vocabulary(teacher, tokenizer)
    if added := words_to_add(tokenizer, texts, words, "the teacher's"):
        queries = [as_text(tokenizer, word) for word in added]
        starts = torch.from_numpy(BatchEncoder(teacher.eval()).encode_query(queries))
        table, tokenizer = torch.cat([table, starts]), with_words(tokenizer, added)
    modules = [StaticEmbedding(tokenizer, embedding_weights=table)]
    modules += [Normalize() for module in teacher if isinstance(module, Normalize)]
    how = teacher.similarity_fn_name
    return SentenceTransformer(modules=modules, similarity_fn_name=how, device=str(teacher.device))


def _for_means(tokenizer: "Tokenizer", max_length: int) -> None:
    """Let a tokenizer give the tokens that a mean is taken of: no padding, no special ones."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    tokenizer.post_processor = None  # would add special tokens wherever others load the student


def feed_forward(student: "SentenceTransformer") -> None:
    """Put two layers behind the mean of a static student's token embeddings, which it starts as.

    A mean weighs a token alike whatever stands beside it; units behind it see which tokens meet.
    relu(x) - relu(-x) is x, so that the student before training is the one without them.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    table = student[0].embedding.weight.detach()
    eye = torch.eye(table.shape[1])
    both, scale = torch.cat([eye, -eye]), UNIT / table.square().mean().sqrt().clamp(min=1e-12).cpu()
    layers = (both * scale, torch.nn.ReLU()), ((both.T / scale).contiguous(), torch.nn.Identity())
    for place, (weight, activation) in enumerate(layers, start=1):
        zeros = torch.zeros(len(weight))
        layer = Dense(*weight.T.shape, True, activation, init_weight=weight, init_bias=zeros)
        student.insert(place, layer.to(student.device))


def student_of_texts(
    vocabulary: str, teacher: Encoder, texts: list[str], max_length: int, words: int = 0
) -> "SentenceTransformer":
    """A student without layers whose token embeddings fit the teacher's vectors of some texts.

    For a teacher whose vocabulary cannot be run through it.

    Args:
        vocabulary: the model whose tokenizer splits the texts.
        words: that it splits and that have a token of their own, the most frequent, at most.

    Raises:
        UserError: that has no tokenizer of the `tokenizers` library.
    """
    import torch
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    tokenizer = tokenizer_of(vocabulary)
    _for_means(tokenizer, max_length)
    if added := words_to_add(tokenizer, texts, words, f"{vocabulary}'s"):
        tokenizer = with_words(tokenizer, added)
    ids = [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    columns = np.fromiter(itertools.chain.from_iterable(ids), np.int32, count=starts[-1])
    values = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    shape = len(texts), tokenizer.get_vocab_size()
    shares = csr_array((values, columns, starts), shape=shape)
    shares.sum_duplicates()
    targets = teacher.embed_once(texts)[:]
    mean = targets.mean(axis=0)  # where a token stands that the texts say little of
    table = torch.from_numpy(token_table(shares, targets - mean) + mean)
    modules = [StaticEmbedding(tokenizer, embedding_weights=table)]
    modules += [Normalize()] if teacher.normalises else []
    return SentenceTransformer(modules=modules, device="cpu")


def _embed_vocabulary(teacher: "SentenceTransformer", tokenizer) -> "torch.Tensor":
    """The teacher's vector of each token as a query of its own, float32 [vocabulary, dimension]."""
    import torch

    prompt = prompt_of(teacher, "query")
    query = teacher.preprocess(["a"], prompt=prompt, task="query")["input_ids"][0].tolist()
    words = [tokenizer.encode(word, add_special_tokens=False).ids for word in ("a", " a")]
    places = [(n, n + len(word)) for word in words for n in range(len(query))
              if query[n : n + len(word)] == word]  # fmt: skip
    if not places:
        raise UserError(
            f"the teacher's tokenizer joins the prompt {prompt!r} with the query's first word, so "
            "tokens have no place of their own behind it."
        )
    start, end = max(places)
    before, after = query[:start], query[end:]
    tables = (m for m in teacher.transformers_model.modules() if isinstance(m, torch.nn.Embedding))
    known = next(tables).num_embeddings  # of CLIP, which does not say where its tokens are
    with suppress(NotImplementedError):
        known = len(teacher.transformers_model.get_input_embeddings().weight)
    count = tokenizer.get_vocab_size()
    tokens = torch.arange(min(count, known)).split(BATCH)
    weights = []
    with torch.inference_mode():
        for block in progress_bar(tokens, desc="teacher, vocabulary"):
            rows = [torch.full((len(block),), token) for token in before]
            rows += [block, *(torch.full((len(block),), token) for token in after)]
            ids = torch.stack(rows, dim=1).to(teacher.device)
            features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            rows = teacher(features, task="query")["sentence_embedding"][:, : teacher.truncate_dim]
            weights.append(rows.float().cpu())
    table = torch.cat(weights)
    return torch.nn.functional.pad(table, (0, 0, 0, count - len(table)))  # of what it does not know


# --- Tokens for words that a tokenizer splits ---------------------------------------------------
# A transformer puts the pieces of a word together again; a mean of their embeddings cannot.


def words_to_add(tokenizer: "Tokenizer", texts: Iterable[str], count: int, whose: str) -> list[str]:
    """The words that get a token of their own, at most `count`, which is said.

    They can be added where texts are split into words first, and these into pieces, as WordPiece
    and BPE do; the pieces of Unigram have probabilities, and a word would need one.
    """
    kind = type(tokenizer.model).__name__
    if count and (kind not in ("WordPiece", "BPE") or tokenizer.pre_tokenizer is None):
        say(f"note: {whose} tokenizer ({kind}) takes no more words, so none was added.")
        return []
    if added := count and frequent_words(tokenizer, texts, count):
        say(f"{len(added):,} words that {whose} tokenizer splits have a token of their own.")
    return added or []


def frequent_words(tokenizer: "Tokenizer", texts: Iterable[str], count: int) -> list[str]:
    """The most frequent words of some texts that the tokenizer splits, as its vocabulary has words.

    Args:
        count: how many, at most.
    """
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    found = Counter(
        word
        for text in progress_bar(texts, desc="words", unit="text", delay=2)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalise(text))
    )
    split = (
        word
        for word, times in found.most_common()
        if times >= FEWEST
        and len(tokenizer.model.tokenize(word)) > 1
        and as_text(tokenizer, word).isalnum()
    )
    return list(islice(split, count))


def as_text(tokenizer: "Tokenizer", word: str) -> str:
    """A word of the vocabulary as people write it: byte-level ones have a letter for each byte."""
    return tokenizer.decoder.decode([word]).strip() if tokenizer.decoder else word


def with_words(tokenizer: "Tokenizer", words: Iterable[str]) -> "Tokenizer":
    """The same with a token for each word, numbered behind all others."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    model = content["model"]
    model["vocab"] |= {word: n for n, word in enumerate(words, start=tokenizer.get_vocab_size())}
    if model["type"] == "BPE":
        model["ignore_merges"] = True  # take what the vocabulary has as a whole
    return Tokenizer.from_str(json.dumps(content))
