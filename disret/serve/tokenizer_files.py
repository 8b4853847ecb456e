"""What runtimes read beside the graph: the tokenizer and its settings, in the hub's layout.

FastEmbed and transformers.js split texts by `tokenizer.json` and `tokenizer_config.json` alone.
These get to say what the model itself does; sentence-transformers reads the same from them as
before. What they do not do: put a prompt before a query; and transformers.js cuts a text that is
too long without keeping its last special token.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.encode.tokens import LONGEST
from disret.files import read_json, whole_file, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

NO_LIMIT = 2**31 - 1  # tokens of a text; FastEmbed wants a number


def backend_of(encoder: "SentenceTransformer") -> Any:
    """The tokenizer of the `tokenizers` library that a model has, or another that it has."""
    return getattr(encoder.tokenizer, "backend_tokenizer", encoder.tokenizer)


def write_tokenizer(encoder: "SentenceTransformer", folder: Path) -> dict[str, Any]:
    """Let the files in a model's folder say how the model splits queries.

    What says so already stays as it is.

    Returns:
        `max_length` in tokens, None without a maximum, and `truncation_side`.
    """
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = encoder.tokenizer
    split = Tokenizer.from_str(backend_of(encoder).to_str())
    if isinstance(encoder[0], StaticEmbedding):
        cut = split.truncation or {}
        length, side = cut.get("max_length"), cut.get("direction", "right")
        own = {"pad_token": split.id_to_token(0), "padding_side": "right",  # a mask hides it
               "tokenizer_class": "PreTrainedTokenizerFast"}  # fmt: skip
        if split.num_special_tokens_to_add(is_pair=False):
            split.post_processor = None  # others would add the tokens that the model leaves out
        vocabulary, width = encoder[0].embedding.weight.shape
        config = {"model_type": "static-embedding", "vocab_size": vocabulary, "hidden_size": width}
    else:
        length, side = encoder.max_seq_length, tokenizer.truncation_side
        own = {"pad_token": tokenizer.pad_token, "padding_side": tokenizer.padding_side}
        split.no_padding()
        split.no_truncation()
        config = encoder.transformers_model.config.to_dict()
    if length and length > LONGEST:
        length = None
    path = folder / "tokenizer.json"
    if not path.exists() or _rules(Tokenizer.from_file(str(path))) != _rules(split):
        with whole_file(path) as partial:
            split.save(str(partial))
    own |= {"model_max_length": length or NO_LIMIT, "truncation_side": side}
    path = folder / "tokenizer_config.json"
    noted = read_json(path) or {}
    said = {**noted, **own}
    said.pop("max_length", None)  # where FastEmbed would cut, and sentence-transformers does not
    if said != noted:
        write_json(path, said)
    if not (folder / "config.json").exists():  # which transformers.js wants
        write_json(folder / "config.json", config)
    query_length = getattr(encoder[0], "query_length", None)
    return {"max_length": query_length or length, "truncation_side": side}


def _rules(tokenizer: "Tokenizer") -> dict[str, Any]:
    """What splits texts, but for lengths."""
    return json.loads(tokenizer.to_str()) | {"truncation": None, "padding": None}
