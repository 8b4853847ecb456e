"""Loading of sentence-transformers models, and what identifies and describes them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from disret.command_line import UserError, say
from disret.data.hub import hub_obstacle
from disret.devices import has_bfloat16
from disret.files import read_json

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


class Description(NamedTuple):
    """What an encoder costs: transformer layers, parameters, and output dimension."""

    layers: int
    parameters: int
    dimension: int


def load_encoder(
    name: str, device: str, max_seq_length: int | None = None, dtype: str = "float32"
) -> "SentenceTransformer":
    """Load a model from a directory or the Hugging Face hub.

    Args:
        max_seq_length: cut texts to so many tokens, or to the model's own maximum if that is less.
        dtype: `float32`, or `auto` for what its files hold: a model in bfloat16 takes half the
            memory, and its fingerprint is the same.

    Raises:
        UserError: it cannot be had, it is not a text encoder, or weights or words are missing.
    """
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from sentence_transformers.util import is_sentence_transformer_model, load_file_path

    def load(place: str, **where: bool) -> SentenceTransformer:
        settings = {"dtype": torch.float32 if dtype == "float32" else dtype}
        kind, tokens = (
            read_json(Path(load_file_path(place, file, **where) or "")) or {}
            for file in ("config_sentence_transformers.json", "tokenizer_config.json")
        )
        if kind.get("model_type") == "SparseEncoder":
            raise UserError(f"{name} gives sparse vectors, for which this is not made.")
        # On the CPU all of it fits; what is wanted of it moves.
        model = SentenceTransformer(place, device="cpu", model_kwargs=settings, **where)
        if not is_sentence_transformer_model(place, **where):
            say(f"note: {name} is a plain transformer; as an encoder, it takes the mean of its "
                "tokens.")  # fmt: skip
        is_said = tokens.get("add_eos_token") and callable(model.tokenizer)  # static ones are not
        if is_said and model.tokenizer("a")["input_ids"][-1] != model.tokenizer.eos_token_id:
            say(f"note: the tokenizer of {name} is said to end a text with "
                f"{model.tokenizer.eos_token}, and does not: vectors that other libraries made may "
                "be others.")  # fmt: skip
        return model

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # It warns of 16 bits on the CPU, from where `place` moves the model.
    logging.getLogger("sentence_transformers.base.model").setLevel(logging.ERROR)
    model = _loaded(name, load)
    lacking = [
        key for module in model.modules() if isinstance(module, Transformer)
        for key, weight in module.auto_model.named_parameters()
        # What transformers has not read is random. A pooler does not count: its place is taken.
        if not hasattr(weight, "_is_hf_initialized") and "pooler" not in key
    ]  # fmt: skip
    if lacking:
        more = " and others" if lacking[1:] else ""
        raise UserError(f"{name} lacks {len(lacking)} weights of its architecture: {lacking[0]}"
                        f"{more}; get its files anew.")  # fmt: skip
    if not _knows_words(model.tokenizer):
        raise UserError(f"the tokenizer of {name} knows no word; are its files missing?")
    if getattr(model.tokenizer, "pad_token", "") is None:
        raise UserError(f"the tokenizer of {name} has no token to pad with; set its pad_token.")
    _limit(model, max_seq_length)
    return model.eval().to(device)


def _limit(model: "SentenceTransformer", tokens: int | None) -> None:
    """Cut texts to so many tokens, and to the positions that a transformer has an embedding of."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Transformer, WordEmbeddings

    for module in model.modules():  # of a Router, in each way
        if isinstance(module, Transformer | WordEmbeddings):
            limits = {tokens, module.max_seq_length} - {None}
            for name, table in module.named_modules():
                if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
                    first = 0 if table.padding_idx is None else table.padding_idx + 1
                    limits.add(table.num_embeddings - first)
            module.max_seq_length = min(limits, default=None)


def query_side(model: "SentenceTransformer") -> "SentenceTransformer":
    """What queries go through, as a model of its own: of a Router, its way for them.

    Raises:
        UserError: a Router has no way for queries.
    """
    from sentence_transformers.sentence_transformer.modules import Router

    if not any(isinstance(module, Router) for module in model):
        return model
    modules: list[Any] = []
    for module in model:
        try:
            is_router = isinstance(module, Router)
            way = module._resolve_route("query", "text") if is_router else None
        except ValueError:
            ways = ", ".join(module.sub_modules)
            raise UserError(f"a Router of the model has no way for queries, but {ways}.") from None
        modules += module.sub_modules[way] if is_router else [module]
    return _of_modules(modules, model)


def _of_modules(modules: list[Any], model: "SentenceTransformer") -> "SentenceTransformer":
    """A model of other modules, and of all else that `model` has."""
    from sentence_transformers import SentenceTransformer

    settings = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    kept = {name: getattr(model, name) for name in settings}
    return SentenceTransformer(modules=modules, device=str(model.device), **kept).eval()


def tokenizer_of(name: str) -> "Tokenizer":
    """The tokenizer of a model, without the model.

    Raises:
        UserError: there is none of the `tokenizers` library.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    found = _loaded(name, AutoTokenizer.from_pretrained)
    backend = getattr(found, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or not _knows_words(found):
        raise UserError(f"{name} has no tokenizer of the tokenizers library that knows a word.")
    return backend


def _loaded(name: str, load: Callable[..., Any]) -> Any:
    """What `load` gives for a model's folder, or for its name on the hub or in its cache."""
    is_local = Path(name).exists()
    obstacle = None if is_local else hub_obstacle()
    try:
        # Without an answer from the hub, each file would be asked for and waited for.
        place = str(Path(name).resolve()) if is_local else name
        return load(place, local_files_only=obstacle is not None)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "custom code" in reason:
            reason = "it has code of its own, which is not run."
        if is_local:
            why = f"{name} is not a model that sentence-transformers can load: {reason}"
        elif obstacle:
            why = (f"cannot load the model {name!r}: it is no directory, and {obstacle}, so only "
                   "models in the local cache can be used.")  # fmt: skip
        else:
            why = (f"cannot load the model {name!r}, neither a directory nor a model of the hub: "
                   f"{reason}")  # fmt: skip
        raise UserError(why) from error


def place(model: "SentenceTransformer", device: str, dtype: str, name: str = "the model") -> None:
    """Cast a model with `set_precision`, then move it: a card need not hold it in float32.

    Raises:
        UserError: it does not fit there.
    """
    import torch

    set_precision(model, dtype, device)
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        raise UserError(f"{name} does not fit into the memory of {device}.") from None


def _knows_words(tokenizer: Any) -> bool:
    """Whether there is a letter or a word among the tokens; without its files, there is none."""
    return any(map(str.isalpha, tokenizer.get_vocab()))


def prompt_of(model: "SentenceTransformer", task: str) -> str | None:
    """The text that `encode_query` puts before a query, and `encode_document` before a document.

    Args:
        task: `query` or `document`.
    """
    for name in ("query",) if task == "query" else ("document", "passage", "corpus"):
        if name in model.prompts:
            return model.prompts[name]
    return model.prompts.get(model.default_prompt_name)


def with_prompt(model: "SentenceTransformer", prompt: str) -> None:
    """Let a model put a text before its queries: one of its prompts by name, or the text itself."""
    model.prompts = {**model.prompts, "query": model.prompts.get(prompt, prompt)}


def with_dimensions(model: "SentenceTransformer", dimensions: int) -> "SentenceTransformer":
    """A model that gives the first coordinates only, as of a Matryoshka model.

    They are normalised where the model normalises: after they are cut.

    Raises:
        UserError: the model has not so many.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    model = query_side(model)
    whole = model.get_embedding_dimension()
    if dimensions > whole:
        raise UserError(f"the model has {whole} dimensions, so {dimensions} cannot be kept.")
    eye = torch.eye(dimensions, whole)
    cut = Dense(whole, dimensions, bias=False, activation_function=None, init_weight=eye)
    modules = list(model)
    modules.insert(len(modules) - isinstance(modules[-1], Normalize), cut)
    return _of_modules(modules, model)


def set_precision(model: "SentenceTransformer", dtype: str, device: str | None = None) -> None:
    """Let the transformers inside a model compute in `dtype`; what follows them stays in float32.

    Pooling, Dense layers and normalisation cost next to nothing, and in float32 they keep the
    digits that a sum over many tokens has.

    Args:
        dtype: `float32`, `bfloat16` or `float16`.
        device: where it will compute, if that is not where it is.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Transformer

    def widen(_module: torch.nn.Module, _inputs: tuple, output: dict) -> dict:
        return {
            key: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
            for key, value in output.items()
        }

    on_cpu = (device or model.device.type) == "cpu"
    for module in model.modules():
        if not isinstance(module, Transformer):
            continue
        cast(module.auto_model, getattr(torch, dtype))
        if on_cpu and dtype == "bfloat16" and has_bfloat16("cpu"):
            from disret.encode.cpu_kernels import speed_up

            speed_up(module.auto_model)
        if dtype != "float32":
            module.register_forward_hook(widen)


def cast(transformer: "PreTrainedModel", dtype: "torch.dtype") -> None:
    """Cast what `from_pretrained(dtype=…)` casts: all but buffers that are computed, not loaded.

    Rotary embeddings keep their frequencies in such buffers. In bfloat16 these would be off by a
    radian at position 2,048.
    """
    computed = list(computed_buffers(transformer))
    transformer.to(dtype)
    for name, buffer in computed:
        parent, _, leaf = name.rpartition(".")
        setattr(transformer.get_submodule(parent), leaf, buffer)


def computed_buffers(model: "torch.nn.Module") -> Iterator[tuple[str, "torch.Tensor"]]:
    """Floating-point buffers that are no part of the model's file, by name."""
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in saved and buffer.is_floating_point():
            yield name, buffer


def describe(model: "SentenceTransformer") -> Description:
    """Count an encoder's transformer layers and parameters."""
    config = getattr(model.transformers_model, "config", None)
    return Description(
        layers=getattr(config, "num_hidden_layers", 0),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dimension=model.get_embedding_dimension(),
    )


def fingerprint(model: "SentenceTransformer") -> str:
    """SHA-256 of everything that decides a model's embeddings but sequence length and precision.

    Weights, the modules and their configuration, tokenizer and prompts count; the name or path
    that the model was loaded from does not.
    """
    import torch

    digest = hashlib.sha256()
    for key, tensor in [*model.state_dict().items(), *computed_buffers(model)]:
        if tensor.is_floating_point() and tensor.itemsize < 4:
            tensor = tensor.float()  # as it may be loaded as well
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        array = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(array.view(dtype=torch.uint8).numpy()))
    for module in model:
        settings = {k: v for k, v in module.get_config_dict().items() if k != "max_seq_length"}
        if settings.get("route_mappings"):  # keys are pairs, which JSON has not
            settings["route_mappings"] = sorted(map(str, settings["route_mappings"].items()))
        digest.update(f"{type(module).__name__} {json.dumps(settings, default=str)}".encode())
    config = getattr(model.transformers_model, "config", None)
    if config is not None:
        volatile = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
        settings = {k: v for k, v in config.to_dict().items() if k not in volatile}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(tokenizer_settings(model).encode())
    digest.update(json.dumps([model.prompts, model.default_prompt_name]).encode())
    return digest.hexdigest()


def tokenizer_settings(model: "SentenceTransformer") -> str:
    """All that decides how a model's tokenizer splits texts, as JSON; empty where it is unknown.

    Of a tokenizer written in Python, that is its class and vocabulary.
    """
    backend = getattr(model.tokenizer, "backend_tokenizer", None) or model.tokenizer
    if hasattr(backend, "to_str"):
        # Truncation and padding are set anew at each call, by what is encoded.
        settings = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
        if (side := getattr(model.tokenizer, "truncation_side", "right")) != "right":
            settings["truncation_side"] = side
    elif hasattr(backend, "get_vocab"):
        settings = [type(backend).__name__, backend.get_vocab()]
    else:
        return ""
    return json.dumps(settings, sort_keys=True)
