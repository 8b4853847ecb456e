"""What sentence-transformers' trainer needs for distillation: data, order, validation, watch."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.evaluation import MSEEvaluator
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer
from transformers import ProgressCallback, TrainerCallback

from disret.command_line import UserError, progress_bar, say
from disret.devices import mixed_precision, world_size
from disret.distil.training_data import TrainingData
from disret.encode.batches import BatchEncoder
from disret.encode.tokens import Tokens

POOL = 512  # batches that are sorted by length together; with 64, a sixth would be padding


class QueryBatchSampler(DefaultBatchSampler):
    """Batches of queries of similar length, in an order that depends on seed and epoch alone.

    The queries are shuffled, POOL batches at a time are sorted by length and cut, and those
    batches are shuffled again: hardly any padding, and hardly less chance in what meets whom.
    Under `torchrun`, a batch is what all processes take in a step; each gets its part of it.

    Args:
        dataset: the numbers of the queries (`TrainingData.dataset`).
        lengths: tokens of each of them, int64 [n_queries].
        in_order: keep the order of the dataset instead.
    """

    def __init__(
        self, dataset: Dataset, lengths: np.ndarray, in_order: bool = False, **kwargs
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.lengths = torch.from_numpy(lengths)
        self.in_order = in_order

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(len(self.lengths))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if not self.in_order:
            order = torch.randperm(len(order), generator=generator)
        step = self.batch_size * world_size()
        whole = len(order) // step * step
        for pool in order[:whole].split(POOL * step):
            if not self.in_order:
                by_length = pool[self.lengths[pool].argsort(stable=True)].view(-1, step)
                pool = by_length[torch.randperm(len(by_length), generator=generator)]
            yield from pool.view(-1, self.batch_size).tolist()
        for start in range(whole, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch.tolist()

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + bool(rest and not self.drop_last)


def precision(device: str, mixed: bool) -> str:
    """What to train in: with `mixed`, bfloat16 or float16 where the device is fast in it."""
    dtype = mixed_precision(device) if mixed else "float32"
    if mixed and dtype == "float32":
        say("note: this CPU has no bfloat16, so mixed precision trains in float32.")
    return dtype


def trainer_settings(
    checkpoints: Path, device: str, dtype: str, **recipe: Any
) -> SentenceTransformerTrainingArguments:
    """The trainer's settings: a recipe's, and those that every student has.

    Args:
        dtype: bfloat16 or float16 for mixed precision, float32 for none.
    """
    # Else float32 would take its precision from there.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": recipe["eval_steps"]}
    return SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=device == "cpu",
        save_total_limit=1,  # the best one stays beside the last
        load_best_model_at_end=True,
        metric_for_best_model="negative_mse",
        greater_is_better=True,
        logging_steps=50,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=False,  # whatever the level of transformers' logging
        **{**steps, **recipe},
    )


@contextmanager
def for_short_texts(student: SentenceTransformer, dropout: bool) -> Iterator[None]:
    """Let a student train fast on queries of some ten tokens.

    On a CPU, attention is computed as products and a softmax: torch's fused kernel is made for long
    texts, and its gradients take longer on short ones.

    Args:
        dropout: keep the dropout that the student's configuration asks for. Without it, the
            transformer stays in evaluation mode, in which no architecture drops anything out.
    """
    first = student[0]
    if not isinstance(first, Transformer):
        yield
        return
    transformer = first.auto_model

    def calm(module: Transformer, _inputs: tuple) -> None:
        module.train(module.training and dropout)

    hook = first.register_forward_pre_hook(calm)
    attention = transformer.config._attn_implementation
    if attention == "sdpa" and student.device.type == "cpu":
        transformer.set_attn_implementation("eager")
    try:
        yield
    finally:
        transformer.set_attn_implementation(attention)
        hook.remove()


class QueryMSEEvaluator(MSEEvaluator):
    """MSE between the model's query embeddings and the teacher's, which are given.

    Args:
        queries: the validation queries.
        embeddings: the teacher's, float32 [n_queries, dimension].
    """

    def __init__(self, queries: list[str], embeddings: np.ndarray) -> None:
        self.queries, self.teacher_embeddings = queries, embeddings
        self.tokens: Tokens | None = None
        super().__init__(queries, queries, write_csv=False)

    def embed_inputs(self, model: SentenceTransformer | None, sentences: list[str]) -> np.ndarray:
        return self.teacher_embeddings if model is None else self.embed(model)

    def embed(self, model: SentenceTransformer) -> np.ndarray:
        """The model's embeddings of the queries, float32 [n_queries, dimension]."""
        encoder = BatchEncoder(model.eval())
        self.tokens = self.tokens or encoder.tokenise(self.queries, "query")  # of the one student
        return encoder.encode(self.tokens, "query")

    def mse(self, model: SentenceTransformer) -> float:
        """The mean squared error per coordinate; the metric is -100 times that."""
        return self(model)["negative_mse"] / -100


class DistillationTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer with a batch order that survives a resume.

    Args:
        data: what to train on.
        keep_order: feed the queries in their order.
    """

    def __init__(self, *args, data: TrainingData, keep_order: bool = False, **kwargs) -> None:
        self.lengths, self.keep_order = data.lengths, keep_order
        collator = _Collator(preprocess_fn=data.collate)
        super().__init__(*args, train_dataset=data.dataset(), data_collator=collator, **kwargs)
        # A static student trains on the rows of each batch alone; NCCL adds up no sparse gradients.
        if isinstance(self.model[0], StaticEmbedding) and world_size() == 1:
            settings = {"lr": self.args.learning_rate, "eps": self.args.adam_epsilon}
            self.optimizer_cls_and_kwargs = torch.optim.SparseAdam, settings
            self.add_callback(_SparseGradients())
        self.remove_callback(ProgressCallback)
        self.add_callback(_Watch(self))

    def get_batch_sampler(self, dataset: Dataset, **kwargs) -> QueryBatchSampler:
        self.sampler = QueryBatchSampler(dataset, self.lengths, self.keep_order, **kwargs)
        return self.sampler

    def validation_mse(self) -> list[dict[str, float]]:
        """The validation MSE by step."""
        logs = [log for log in self.state.log_history if "eval_negative_mse" in log]
        return [{"step": log["step"], "mse": log["eval_negative_mse"] / -100} for log in logs]

    def add_model_card_callback(self, default_args_dict: dict) -> None:
        """Nothing: the student has a card of its own, and theirs samples the whole dataset."""


class _Collator(SentenceTransformerDataCollator):
    """The trainer's collator, for rows that are tokenised already."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return self.preprocess_fn(features)


class _SparseGradients(TrainerCallback):
    """Gradients of the rows that a batch has, for `SparseAdam`, of a static student.

    A batch has some hundred of a vocabulary's tokens. Adam on all rows takes most of a step, and
    its momentum moves rows long after their only text. The trainer wants the norm of what is there
    before it steps, and torch has none of sparse gradients: they come after.
    """

    def __init__(self) -> None:
        self.gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_begin(self, args, state, control, model, **kwargs) -> None:
        model[0].embedding.sparse = True
        self.hooks = [
            weight.register_post_accumulate_grad_hook(self.keep) for weight in model.parameters()
        ]

    def keep(self, weight: torch.nn.Parameter) -> None:
        gradient, weight.grad = weight.grad, None
        if not gradient.is_sparse:  # of a layer, all of whose rows a batch touches
            rows = torch.arange(len(gradient), device=gradient.device)[None]
            gradient = torch.sparse_coo_tensor(
                rows, gradient, gradient.shape, is_coalesced=True, check_invariants=False
            )
        self.gradients[weight] = gradient

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        for weight, gradient in self.gradients.items():
            weight.grad = gradient
        self.gradients.clear()

    def on_train_end(self, args, state, control, model, **kwargs) -> None:
        model[0].embedding.sparse = False
        for hook in self.hooks:
            hook.remove()


class _Watch(ProgressCallback):
    """The trainer's bar, with the validation MSE alone; ends a training that has diverged."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        super().__init__()
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.training_bar = progress_bar(total=state.max_steps, desc="train", unit="step")
        self.current_step = 0

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        # Through whatever accelerate has wrapped the sampler in.
        self.trainer.sampler.set_epoch(int(state.epoch))

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        for name in ("loss", "train_loss", "eval_negative_mse"):
            if not math.isfinite((logs or {}).get(name, 0.0)):
                raise UserError(
                    f"training diverged: {name} is {logs[name]} at step {state.global_step}; lower "
                    "the learning rate or leave out mixed precision, and overwrite it."
                )
        if state.is_world_process_zero and "eval_negative_mse" in (logs or {}):
            mse = self.trainer.validation_mse()[-1]["mse"]
            self.training_bar.write(f"step {state.global_step}: validation MSE {mse:.4g}")
