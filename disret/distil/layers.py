"""A transformer with some of its layers, for any architecture whose layers are one module list."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedConfig, PreTrainedModel


def check_layers(layers: Sequence[int], depth: int | None = None) -> None:
    """Raise `UserError` unless `layers` are distinct layers of a transformer.

    Args:
        depth: its number of layers, if known already.
    """
    for position, layer in enumerate(layers):
        if layer < 0:
            raise UserError(f"layers count from 0, so there is no {layer}.")
        if layer in layers[:position]:
            raise UserError(f"layer {layer} is named twice.")
        if depth is not None and layer >= depth:
            raise UserError(f"the model has layers 0 to {depth - 1}, so there is no {layer}.")


def transformer_of(model: "SentenceTransformer") -> "PreTrainedModel":
    """The transformer that an encoder begins with; `UserError` if it begins with something else."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    first = model[0]
    if not isinstance(first, Transformer) or not hasattr(first.model.config, "num_hidden_layers"):
        kind = type(first.model if isinstance(first, Transformer) else first).__name__
        raise UserError(f"a {kind} has no layers that a student could start from; name a "
                        "transformer of texts.")  # fmt: skip
    if getattr(first.model, "peft_config", None):
        raise UserError("the model has a LoRA adapter; merge it into the weights first, by "
                        "merge_and_unload of peft.")  # fmt: skip
    return first.model


def keep_layers(model: "PreTrainedModel", layers: Sequence[int]) -> "PreTrainedModel":
    """Build a transformer of the same kind from the given layers of `model`, in float32.

    The layers are in the order given; embeddings and everything else outside them are copied. The
    configuration follows: the layer count, and each list with an entry a layer (attention types,
    for example).

    Where position decides a layer's structure, the new position's applies: what the kept layer
    has beyond it is dropped (ModernBERT's first layer has no norm before attention), and what it
    lacks is taken from the layer that stood there (T5's first layer holds the position biases).

    Raises:
        UserError: a layer number is wrong, the layers are not one module list (ALBERT shares its
            layers), or the architecture cannot be rebuilt from its configuration.
    """
    import torch

    depth = model.config.num_hidden_layers
    prefix = _layer_list(model, depth)
    check_layers(layers, depth)

    source = model.state_dict()
    # Building draws initial weights that are overwritten below; the caller's random state stays.
    with torch.random.fork_rng(devices=[]):
        student = type(model)._from_config(
            _shortened(model.config, layers),
            attn_implementation=model.config._attn_implementation,
            dtype=torch.float32,
        )
    student = student.to(model.device)
    state = {}
    for key in student.state_dict():
        place, _, rest = key.removeprefix(prefix).partition(".")
        old = f"{prefix}{layers[int(place)]}.{rest}" if key.startswith(prefix) else key
        state[key] = source.get(old, source.get(key))
    try:
        student.load_state_dict({key: value for key, value in state.items() if value is not None})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        kind = type(model).__name__
        raise UserError(f"{kind} cannot be cut to layers {list(layers)}: {reason}") from None
    return student.train(model.training)


def _layer_list(model: "PreTrainedModel", depth: int) -> str:
    """The name of the module list that holds the layers, with a dot after it."""
    from torch import nn

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    # A list inside another (experts inside a layer, say) is not the one.
    outermost = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
    if len(outermost) != 1:
        raise UserError(
            f"{type(model).__name__} does not have its {depth} layers in one list (some "
            "architectures, such as ALBERT, share them), so a subset cannot be kept; start the "
            "student from another model instead."
        )
    return f"{outermost[0]}."


def _shortened(config: "PreTrainedConfig", layers: Sequence[int]) -> "PreTrainedConfig":
    """The configuration with only the given layers."""
    depth = config.num_hidden_layers
    count = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    settings: dict[str, Any] = {**config.to_dict(), count: len(layers)}
    for name, value in settings.items():
        # Longformer has a window of attention by layer.
        if not ("layer" in name or name == "attention_window") or not isinstance(value, list):
            continue
        if len(value) == depth and not name.endswith(("only_layers", "layer_indices")):
            settings[name] = [value[layer] for layer in layers]
        elif all(isinstance(index, int) for index in value):  # a list of layer numbers
            settings[name] = [layers.index(layer) for layer in value if layer in layers]
    return type(config).from_dict(settings)
