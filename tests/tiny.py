"""Random encoders of many architectures, a few kilobytes each, saved as real models."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
DIMENSION = 32

COMMON = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": DIMENSION,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # layers that matter, unlike with the usual 0.02
}


def config(kind: str, layers: int):
    """A transformers configuration of the given architecture."""
    import transformers as t

    if kind == "bert":
        return t.BertConfig(**COMMON, num_hidden_layers=layers)
    if kind == "roberta":
        return t.RobertaConfig(**COMMON, num_hidden_layers=layers)
    if kind == "xlm-roberta":
        return t.XLMRobertaConfig(**COMMON, num_hidden_layers=layers)
    if kind == "mpnet":
        return t.MPNetConfig(**COMMON, num_hidden_layers=layers)
    if kind == "electra":
        return t.ElectraConfig(**COMMON, num_hidden_layers=layers, embedding_size=16)
    if kind == "albert":
        return t.AlbertConfig(**COMMON, num_hidden_layers=layers, embedding_size=16)
    if kind == "distilbert":
        return t.DistilBertConfig(
            vocab_size=len(VOCABULARY),
            dim=DIMENSION,
            n_layers=layers,
            n_heads=2,
            hidden_dim=48,
            max_position_embeddings=66,
            initializer_range=0.3,
        )
    if kind == "modernbert":
        return t.ModernBertConfig(
            **COMMON,
            num_hidden_layers=layers,
            layer_types=["full_attention" if i % 3 == 0 else "sliding_attention"
                         for i in range(layers)],
            local_attention=4,
            bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
        )  # fmt: skip
    if kind == "qwen3":
        return t.Qwen3Config(
            **COMMON,
            num_hidden_layers=layers,
            num_key_value_heads=1,
            head_dim=16,
            layer_types=["full_attention" if i % 2 == 0 else "sliding_attention"
                         for i in range(layers)],
            sliding_window=4,
            use_sliding_window=True,
        )  # fmt: skip
    if kind == "t5":
        return t.T5Config(
            vocab_size=len(VOCABULARY),
            d_model=DIMENSION,
            num_layers=layers,
            num_heads=2,
            d_kv=16,
            d_ff=48,
            pad_token_id=0,
            decoder_start_token_id=0,
            architectures=["T5EncoderModel"],
        )
    raise ValueError(kind)


def tokenizer():
    """Spells words out in letters, so that no text is unknown."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: row for row, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_encoder(
    folder: Path,
    kind: str = "bert",
    layers: int = 4,
    seed: int = 0,
    dense: int | None = None,
    prompts: dict[str, str] | None = None,
) -> Path:
    """Save a random sentence-transformers model and return its folder.

    Args:
        dense: add a Dense layer to this dimension.
    """
    import transformers

    settings = config(kind, layers)
    torch.manual_seed(seed)
    architecture = transformers.T5EncoderModel if kind == "t5" else None
    model = architecture(settings) if architecture else transformers.AutoModel.from_config(settings)
    plain = folder.with_name(f"{folder.name}-transformers")
    model.save_pretrained(plain)
    tokenizer().save_pretrained(plain)
    transformer = Transformer(str(plain))
    mode = "lasttoken" if kind == "qwen3" else "mean"
    modules = [transformer, Pooling(DIMENSION, mode)]
    if dense:
        modules.append(Dense(DIMENSION, dense, activation_function=torch.nn.Identity()))
    modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    return folder
