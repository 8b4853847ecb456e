"""Models as people have them: each teaches as its library has it, or is refused at once."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers as t
from conftest import ROOT
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tiny import COMMON, config, save_encoder, tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from disret.distil.static import student_of_tokens
from disret.encode.encoders import open_encoder
from disret.encode.models import load_encoder, query_side
from disret.query_encoder import QueryEncoder

WORDS = [
    "how",
    "far",
    "is",
    "the",
    "red",
    "house",
    "of",
    "a",
    "city",
    "from",
    "river",
    "bank",
    "old",
    "new",
]
TEXTS = [" ".join(WORDS[(n * k) % len(WORDS)] for k in range(1, 3 + n % 6)) for n in range(80)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.txt").write_text("".join(f"{text} {n}\n" for n, text in enumerate(TEXTS)))
    return tmp_path


@pytest.fixture
def distil(call, here):
    """A student of a model, or what is said of it; nothing is embedded before that."""

    def run(teacher, *more):
        outcome = call(
            "distill", "--teacher", teacher, "--queries", "log.txt", "--recipe", "best",
            "--num-epochs", 0, "--teacher-dtype", "float32", "--device", "cpu", "--output",
            "student", "--overwrite", *more,
        )  # fmt: skip
        if outcome.status:
            assert outcome.status == 2, outcome.err
            return outcome.err
        return SentenceTransformer("student", device="cpu")

    return run


@pytest.fixture
def other(here):
    return save_encoder(here / "other", "distilbert", layers=1, seed=3)


def bpe(pad=True):
    """A byte-level tokenizer, as GPT-2, ModernBERT and Qwen have."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["[CLS]", "[SEP]", "[PAD]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [f"search_query: {text} a" for text in TEXTS]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    tokens.train_from_iterator(texts, trainer)
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    more = {"pad_token": "[PAD]"} if pad else {}
    return t.PreTrainedTokenizerFast(
        tokenizer_object=tokens, cls_token="[CLS]", sep_token="[SEP]", model_max_length=64,
        model_input_names=["input_ids", "attention_mask"], **more,
    )  # fmt: skip


def save(folder, settings, tokens, *after, architecture=None, prompts=None):
    plain = folder.with_name(f"{folder.name}-plain")
    torch.manual_seed(0)
    (architecture or t.AutoModel.from_config)(settings).save_pretrained(plain)
    tokens.save_pretrained(plain)
    modules = [st.Transformer(str(plain)), *(after or [st.Pooling(32, "mean"), st.Normalize()])]
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def error_of(model, teacher):
    """The mean squared distance of a student's queries to those of its teacher, as a library."""
    teacher = SentenceTransformer(str(teacher), device="cpu")
    return float(np.mean((model.encode_query(TEXTS) - teacher.encode_query(TEXTS)) ** 2))


def test_no_token_to_pad_with(distil, here):
    settings = t.GPT2Config(vocab_size=330, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    plain = here / "m"
    t.AutoModel.from_config(settings).save_pretrained(plain)
    bpe(pad=False).save_pretrained(plain)
    said = distil("m", "--layers", 0, 1)
    assert "the tokenizer of m has no token to pad with; set its pad_token." in said


def test_fewer_positions_than_the_tokenizer_allows(distil, here):
    """RoBERTa's first two positions are no token's."""
    tokens = tokenizer()
    tokens.pad_token = "[UNK]"  # its number is 1, as RoBERTa's
    tokens.model_max_length = int(1e30)
    settings = t.RobertaConfig(**{**COMMON, "pad_token_id": 1}, num_hidden_layers=2)
    save(here / "m", settings, tokens, st.Pooling(32, "mean"))
    (here / "m/sentence_bert_config.json").write_text("{}")
    (here / "log.txt").write_text("".join(f"{n} {' '.join(WORDS * 4)}\n" for n in range(40)))
    student = distil("m", "--layers", 0, 1)
    assert student.max_seq_length == 64
    assert student.encode_query([" ".join(WORDS * 9)]).shape == (1, 32)


def test_an_end_that_is_said_and_not_there(call, here):
    tokens = tokenizer()
    save(here / "m", config("bert", 2), tokens)
    file = here / "m/tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "add_eos_token": True, "eos_token": "[MASK]"}
    file.write_text(json.dumps(settings))
    outcome = call("distill", "--teacher", "m", "--layers", 0, "--queries", "log.txt", "--output",
                   "s", "--dry-run", "--device", "cpu")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "is said to end a text with [MASK], and does not: vectors" in outcome.err


@pytest.mark.parametrize("prompt", ["search_query: ", "Query:", "find\n", ""])
def test_bytes_behind_a_prompt(distil, here, prompt):
    """A word behind a space is another token than the word alone."""
    settings = t.ModernBertConfig(
        **{**COMMON, "vocab_size": 330, "pad_token_id": 2}, num_hidden_layers=2,
        layer_types=["full_attention", "sliding_attention"], local_attention=4, bos_token_id=0,
        cls_token_id=0, eos_token_id=1, sep_token_id=1,
    )  # fmt: skip
    prompts = {"query": prompt, "document": ""} if prompt else None
    save(here / "m", settings, bpe(), prompts=prompts)
    student = distil("m", "--init-with", "static", "--words", 0)
    teacher = SentenceTransformer("m", device="cpu")
    word = " red" if prompt.endswith(" ") else "red"
    own = student.encode([word])
    wanted = teacher.encode_query(["red"])
    assert float(np.sum(own * wanted)) > 0.7


def test_more_tokens_than_the_model_knows(distil, here):
    tokens = tokenizer()
    save(here / "m", config("bert", 2), tokens)
    file = here / "m/tokenizer.json"
    backend = Tokenizer.from_file(str(file))
    backend.add_special_tokens(["[unknown to the model]"])
    backend.save(str(file))
    student = distil("m", "--init-with", "static", "--words", 0)
    assert not student[0].embedding.weight[-1].detach().any()
    assert student[0].embedding.weight[:-1].detach().any(dim=1).all()


@pytest.fixture
def router(here):
    """A model of two ways, and one whose vectors are normalised behind them."""
    saved = [save_encoder(here / name, layers=layers, seed=seed)
             for name, layers, seed in (("q", 3, 0), ("d", 2, 1))]  # fmt: skip
    ways = [SentenceTransformer(str(folder), device="cpu") for folder in saved]
    for name, count, after in (("whole", None, []), ("behind", 2, [st.Normalize()])):
        parts = [list(way)[:count] for way in ways]
        joined = SentenceTransformer(
            modules=[st.Router.for_query_document(*parts), *after], device="cpu"
        )
        joined.save_pretrained(str(here / name), create_model_card=False)
    return here


@pytest.mark.parametrize("name", ["whole", "behind"])
def test_a_router_teaches_by_its_way_of_queries(distil, router, other, name):
    assert error_of(distil(name, "--layers", 0, 1, 2), name) < 1e-10
    from_other = distil(name, "--init-with", other)
    assert np.linalg.norm(from_other.encode(TEXTS), axis=1) == pytest.approx(1, abs=1e-5)
    assert error_of(from_other, name) < 0.02
    static = distil(name, "--init-with", "static", "--words", 0)
    assert np.linalg.norm(static.encode(TEXTS), axis=1) == pytest.approx(1, abs=1e-5)
    short = distil(name, "--layers", 0, 2, "--truncate-dim", 8)
    assert short.encode(TEXTS).shape == (80, 8)
    assert np.linalg.norm(short.encode(TEXTS), axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_router_by_what_its_texts_are(distil, here, mapped):
    """Its one way is of texts, or is named by pairs of what is asked and what it is asked of."""
    way = list(SentenceTransformer(str(save_encoder(here / "q", layers=3)), device="cpu"))
    mappings = {("query", "text"): "text", ("document", "text"): "text"} if mapped else None
    model = SentenceTransformer(
        modules=[st.Router({"text": way}, route_mappings=mappings)], device="cpu"
    )
    model.save_pretrained(str(here / "m"), create_model_card=False)
    assert error_of(distil("m", "--layers", 0, 1, 2), "m") < 1e-10


def test_a_router_without_a_way_of_queries(distil, here):
    way = list(SentenceTransformer(str(save_encoder(here / "q", layers=2)), device="cpu"))
    model = SentenceTransformer(modules=[st.Router({"document": way})], device="cpu")
    model.save_pretrained(str(here / "m"), create_model_card=False)
    said = "a Router of the model has no way for queries, but document."
    assert said in distil("m", "--layers", 0, 1)


def test_each_way_of_a_router_has_its_length(here):
    ways = [list(SentenceTransformer(str(save_encoder(here / name, layers=1)), device="cpu"))
            for name in "qd"]  # fmt: skip
    ways[0][0].max_seq_length, ways[1][0].max_seq_length = 16, 500
    joined = SentenceTransformer(modules=[st.Router.for_query_document(*ways)], device="cpu")
    joined.save_pretrained(str(here / "m"), create_model_card=False)
    for most, own in ((None, 66), (32, 32)):  # as many positions as it has, or fewer
        loaded = load_encoder("m", "cpu", most)
        lengths = {name: way[0].max_seq_length for name, way in loaded[0].sub_modules.items()}
        assert lengths == {"query": 16, "document": own}


def test_dimensions_that_the_model_cuts(here):
    """By the library's own setting, of a way of a Router and of a vocabulary's vectors."""
    way = list(SentenceTransformer(str(save_encoder(here / "q", layers=1)), device="cpu"))
    model = SentenceTransformer(
        modules=[st.Router.for_query_document(way, way)], truncate_dim=8, device="cpu"
    )
    side = query_side(model)
    assert side.encode(TEXTS).shape == (80, 8)
    assert student_of_tokens(side).encode(TEXTS).shape == (80, 8)


@pytest.mark.parametrize("kind", ["xlm", "clip"])
def test_tokens_whose_table_is_not_the_first_or_not_said(distil, here, kind):
    if kind == "xlm":
        settings = t.XLMConfig(vocab_size=77, emb_dim=32, n_layers=2, n_heads=2, pad_index=0,
                               max_position_embeddings=64)  # fmt: skip
        save(here / "m", settings, tokenizer())
    else:
        text = {**COMMON, "num_hidden_layers": 2, "projection_dim": 32}
        settings = t.CLIPConfig(text_config=text, projection_dim=32)
        save(here / "m", settings.text_config, tokenizer(), architecture=t.CLIPTextModel)
    student = distil("m", "--init-with", "static", "--words", 0)
    assert student[0].embedding.weight.detach().any(dim=1).all()


def test_a_static_teacher(distil, here, other):
    backend = tokenizer()._tokenizer
    torch.manual_seed(0)
    table = st.StaticEmbedding(backend, embedding_weights=torch.randn(77, 32))
    SentenceTransformer(modules=[table, st.Normalize()], device="cpu").save_pretrained("m")
    (here / "m/tokenizer_config.json").write_text('{"add_eos_token": true}')
    assert error_of(distil("m", "--init-with", "static", "--words", 0), "m") < 1e-10
    assert error_of(distil("m", "--init-with", other), "m") < 0.05
    said = "a StaticEmbedding has no layers that a student could start from"
    assert said in distil("m", "--layers", 0)
    assert said in distil(other, "--init-with", "m")


def test_sparse_vectors(distil, here, other):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder import modules as sparse

    t.BertForMaskedLM(config("bert", 2)).save_pretrained("p")
    tokenizer().save_pretrained("p")
    modules = [sparse.MLMTransformer("p"), sparse.SpladePooling()]
    SparseEncoder(modules=modules, device="cpu").save_pretrained("m")
    for start in (["--layers", 0, 1], ["--init-with", other]):
        assert "m gives sparse vectors, for which this is not made." in distil("m", *start)
    assert "m gives sparse vectors" in distil(other, "--init-with", "m")


def test_code_of_its_own(distil, here):
    save_encoder(here / "m", layers=2)
    file = here / "m/config.json"
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    (here / "m/own.py").write_text("raise SystemExit('it was run')\n")
    assert "it has code of its own, which is not run" in distil("m", "--layers", 0, 1)


def test_a_list_by_layer_that_is_not_called_so(distil, here):
    settings = t.LongformerConfig(
        **{**COMMON, "max_position_embeddings": 74}, num_hidden_layers=3, attention_window=[8, 4, 8]
    )
    save(here / "m", settings, tokenizer())
    student = distil("m", "--layers", 0, 1)
    assert student[0].model.config.attention_window == [8, 4]


def test_an_adapter(distil, here, monkeypatch):
    save_encoder(here / "m", layers=2)
    load = SentenceTransformer.__init__

    def with_adapter(self, *args, **kwargs):
        load(self, *args, **kwargs)
        self[0].model.peft_config = {"default": object()}

    monkeypatch.setattr(SentenceTransformer, "__init__", with_adapter)
    said = distil("m", "--layers", 0, 1)
    assert "the model has a LoRA adapter; merge it into the weights first" in said


def test_a_prompt_out_of_the_mean(distil, here):
    """As INSTRUCTOR has it."""
    prompts = {"query": "represent the question: ", "document": ""}
    pooling = st.Pooling(32, "mean", include_prompt=False)
    save(here / "m", config("bert", 2), tokenizer(), pooling, st.Normalize(), prompts=prompts)
    assert error_of(distil("m", "--layers", 0, 1), "m") < 1e-10
    found = open_encoder("m").encode_query(TEXTS)
    wanted = SentenceTransformer("m", device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_stands_before_a_query_is_said(call, here):
    save_encoder(here / "m", layers=2, prompts={"s2p_query": "find: ", "query": "q "})
    for given, shown in (([], "q "), (["s2p_query"], "find: "), (["s2p_qury"], "s2p_qury")):
        more = ["--teacher-prompt", *given] if given else []
        outcome = call("distill", "--teacher", "m", "--layers", 0, "--queries", "log.txt", *more,
                       "--output", "s", "--dry-run", "--device", "cpu")  # fmt: skip
        assert f"80 texts to embed, each behind {shown!r}, in " in outcome.err


def test_only_a_sentencepiece_model(distil, here):
    import sentencepiece

    (here / "text.txt").write_text("\n".join(TEXTS * 9))
    sentencepiece.SentencePieceTrainer.train(
        input="text.txt", model_prefix="spm", vocab_size=35, minloglevel=2
    )
    settings = t.CamembertConfig(**{**COMMON, "vocab_size": 90, "pad_token_id": 1},
                                 num_hidden_layers=2)  # fmt: skip
    t.AutoModel.from_config(settings).save_pretrained("m")
    shutil.copy("spm.model", "m/sentencepiece.bpe.model")
    said = {"tokenizer_class": "CamembertTokenizer", "model_max_length": 64}
    (here / "m/tokenizer_config.json").write_text(json.dumps(said))
    assert distil("m", "--layers", 0, 1).encode(TEXTS).shape == (80, 32)


def test_a_precision_of_the_environment(call, here):
    """It is not the trainer's; in a process of its own, as accelerate reads it on import."""
    save_encoder(here / "m", layers=3)
    arguments = ["--teacher", "m", "--layers", "0", "2", "--queries", "log.txt", "--recipe",
                 "paper", "--num-epochs", "2", "--train-batch-size", "16", "--warmup-steps", "2",
                 "--device", "cpu", "--output"]  # fmt: skip
    assert call("distill", *arguments, "a").status == 0
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16"}
    command = [sys.executable, ROOT / "distill.py", *arguments, "b"]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    reports = [json.loads((here / name / "distillation.json").read_text()) for name in "ab"]
    curves = [[point["mse"] for point in report["validation_mse"]] for report in reports]
    assert curves[0] == curves[1]


def test_cosines_by_the_dot_product(call, here, collection):
    folder = save(here / "m", config("bert", 2), tokenizer(), st.Pooling(32, "mean"))
    model = SentenceTransformer(str(folder), device="cpu", similarity_fn_name="cosine")
    model.save_pretrained(str(folder), create_model_card=False)
    arguments = ["--datasets", collection, "--document-encoder", "m", "--device", "cpu", "--output"]
    outcome = call("benchmark", *arguments, "a.csv")
    assert outcome.status == 0, outcome.err
    assert "note: m is made for cosines, and its vectors have not length 1" in outcome.err
    outcome = call("benchmark", *arguments, "b.csv", "--score-function", "cos_sim")
    assert "is made for cosines" not in outcome.err


def test_an_export_through_pickle(call, here):
    save_encoder(here / "m", layers=2)
    assert call("disret.serve.export", "m", "--queries", "log.txt").status == 0
    encoder = QueryEncoder.from_pretrained("m", "int8", num_threads=1)
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_a_teacher_that_pools_no_tokens(distil, here, other):
    """A bag of words: what it has no layers of is said, and the other model's pooling is taken."""
    bow = st.BoW(vocab=WORDS)
    dense = st.Dense(len(WORDS), 16, activation_function=torch.nn.Identity())
    SentenceTransformer(modules=[bow, dense], device="cpu").save_pretrained("m")
    said = distil("m", "--layers", 0)
    assert "has no layers that a student could start from" in said or "not take rows" in said
