"""What sentence-transformers' trainer needs for distillation: data, order, validation, watch."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.evaluation import MSEEvaluator
from transformers import ProgressCallback, TrainerCallback

from disret.terminal import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def distillation_dataset(queries: list[str], embeddings: np.ndarray) -> Dataset:
    """Queries with the teacher's embeddings as `label`, read from the memory map as needed.

    Args:
        embeddings: float32 [n_queries, dimension].
    """
    dataset = Dataset.from_dict({"query": queries, "row": np.arange(len(queries))})

    def with_labels(batch: dict) -> dict:
        labels = torch.from_numpy(embeddings[batch["row"]])
        return {"query": batch["query"], "label": list(labels)}

    dataset.set_transform(with_labels)
    return dataset


class QueryBatchSampler(DefaultBatchSampler):
    """Batches in an order that depends on seed and epoch alone, so that a resumed run has it too.

    Args:
        in_order: keep the order of the dataset instead.
    """

    def __init__(self, dataset: Dataset, in_order: bool = False, **kwargs) -> None:
        super().__init__(dataset, **kwargs)
        self.size = len(dataset)
        self.in_order = in_order

    def __iter__(self):
        order = torch.arange(self.size)
        if not self.in_order:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.size, generator=generator)
        end = self.size // self.batch_size * self.batch_size if self.drop_last else self.size
        for batch in order[:end].split(self.batch_size):
            yield batch.tolist()

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        return whole + bool(rest and not self.drop_last)


class QueryMSEEvaluator(MSEEvaluator):
    """MSE between the model's query embeddings and the teacher's, which are given.

    Args:
        queries: the validation queries.
        embeddings: the teacher's, float32 [n_queries, dimension].
    """

    def __init__(self, queries: list[str], embeddings: np.ndarray, batch_size: int) -> None:
        self.teacher_embeddings = embeddings
        super().__init__(queries, queries, batch_size=batch_size, write_csv=False)

    def embed_inputs(self, model: "SentenceTransformer | None", sentences: list[str]) -> np.ndarray:
        if model is None:
            return self.teacher_embeddings
        return model.encode_query(
            sentences, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
        )

    def mse(self, model: "SentenceTransformer") -> float:
        """The mean squared error per coordinate."""
        return mse_from(self(model))


def mse_from(metrics: dict[str, float]) -> float:
    """The mean squared error in an evaluator's metrics, which give it times -100."""
    return next(-value / 100 for key, value in metrics.items() if key.endswith("negative_mse"))


class DistillationTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer with a batch order that survives a resume.

    Args:
        keep_order: feed the queries in the dataset's order.
    """

    def __init__(self, *args, keep_order: bool = False, **kwargs) -> None:
        self.keep_order = keep_order
        self.sampler: QueryBatchSampler | None = None
        super().__init__(*args, **kwargs)
        self.add_callback(_EpochOrder(self))
        self.add_callback(StopOnNaN())
        self.remove_callback(ProgressCallback)
        self.add_callback(_Progress())

    def get_batch_sampler(self, dataset: Dataset, **kwargs) -> QueryBatchSampler:
        self.sampler = QueryBatchSampler(dataset, in_order=self.keep_order, **kwargs)
        return self.sampler

    def add_model_card_callback(self, default_args_dict: dict) -> None:
        """Nothing: the student has a card of its own, and theirs samples the whole dataset."""


class _EpochOrder(TrainerCallback):
    """Tells the sampler the epoch, through whatever accelerate has wrapped it in."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch))


class _Progress(ProgressCallback):
    """The trainer's bar, with the validation MSE and without the rest of the log."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if state.is_world_process_zero and "eval_negative_mse" in (logs or {}):
            line = f"step {state.global_step}: validation MSE {mse_from(logs):.4g}"
            self.training_bar.write(line)


class StopOnNaN(TrainerCallback):
    """End training when the loss or the validation MSE is no longer a number."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        for name in ("loss", "train_loss", "eval_negative_mse"):
            if not math.isfinite((logs or {}).get(name, 0.0)):
                raise UserError(
                    f"training diverged: {name} is {logs[name]} at step {state.global_step}; "
                    "lower --adamw-lr or leave out --mixed-precision, and start with --overwrite."
                )
