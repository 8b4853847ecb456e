#!/usr/bin/env python
"""What was tried beside the flags of distill.py, for one epoch of `--recipe best` on two layers.

    python evaluations/recipes/variants.py directions models/recipes/directions

- `directions`: an error counts by how much the teacher's embeddings vary in its direction.
- `tokens`: each token's vector is pulled onto the teacher's as well, not only their mean.
- `average`: the student is the exponential moving average of the weights.
- `typos`: three queries in ten have two letters swapped or one missing, for the teacher as well.
"""

import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from disret.command_line import argument_parser, run
from disret.data.download import mirror_from
from disret.data.queries import training_queries
from disret.devices import mixed_precision, resolve_dtype
from disret.distil.recipes import settled
from disret.distil.training_data import TrainingData, tokenised_queries
from disret.encode.encoders import open_encoder
from disret.files import write_json
from distill import init_from_layers

TEACHER = "models/all-MiniLM-L6-v2"
LAYERS = [0, 5]
KINDS = ("directions", "tokens", "average", "typos")
POWER = 0.5  # of a direction's variance, as its weight
TOKEN_WEIGHT = 0.002  # brings both terms to one size
DECAY = 0.998
TYPOS = 0.3


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    queries, valid_queries, _ = training_queries([], [], None, mirror_from(None))
    if args.kind == "typos":
        chance = random.Random(0)
        queries = [mistyped(q, chance) if chance.random() < TYPOS else q for q in queries]

    import torch
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
    from transformers import TrainerCallback

    from disret.distil.training import (
        DistillationTrainer,
        QueryMSEEvaluator,
        for_short_texts,
        trainer_settings,
    )

    teacher = open_encoder(TEACHER, dtype=resolve_dtype("auto", "cpu"), max_seq_length=256)
    student = init_from_layers(teacher.model, LAYERS)
    targets, valid_targets = (teacher.embed_once(texts) for texts in (queries, valid_queries))

    class Directions(EmbedDistillLoss):
        """The MSE after a change of basis that stretches the directions of large variance."""

        def __init__(self) -> None:
            super().__init__(student, distance_metric="mse")
            values, vectors = torch.linalg.eigh(torch.from_numpy(targets[:]).T.cov())
            stretch = values.clamp(min=0) ** (POWER / 2)
            stretch /= stretch.square().mean().sqrt()
            self.register_buffer("basis", vectors * stretch)

        def compute_loss_from_embeddings(self, embeddings, teacher_embeddings):
            return torch.nn.functional.mse_loss(
                embeddings[0] @ self.basis, teacher_embeddings[0] @ self.basis
            )

    class TokenVectors(EmbedDistillLoss):
        """The MSE of embeddings, and of the tokens' vectors before pooling."""

        def __init__(self) -> None:
            super().__init__(student, distance_metric="mse")
            self.teachers = [teacher.model[0]]  # in a list: not a part of this module

        def forward(self, sentence_features, labels):
            features = dict(next(iter(sentence_features)))
            with torch.no_grad():
                wanted = self.teachers[0](dict(features))["token_embeddings"].float()
            found = student(features)
            mask = features["attention_mask"].bool()
            tokens = torch.nn.functional.mse_loss(
                found["token_embeddings"][mask].float(), wanted[mask]
            )
            mse = torch.nn.functional.mse_loss(found["sentence_embedding"].float(), labels)
            return mse + TOKEN_WEIGHT * tokens

    average = AveragedModel(student, avg_fn=get_ema_avg_fn(DECAY))

    class Average(TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            average.update_parameters(student)

    loss = {"directions": Directions, "tokens": TokenVectors}.get(
        args.kind, lambda: EmbedDistillLoss(student, distance_metric="mse")
    )()
    recipe = settled({"recipe": "best", "init_with": "subset", "words": None, "feed_forward": None})
    checkpoints = args.output.with_name(f"{args.output.name}.checkpoints")
    evaluator = QueryMSEEvaluator(valid_queries, valid_targets)
    settings = trainer_settings(
        checkpoints,
        "cpu",
        mixed_precision("cpu"),
        num_train_epochs=1,
        per_device_train_batch_size=recipe["train_batch_size"],
        learning_rate=recipe["adamw_lr"],
        adam_epsilon=recipe["adamw_eps"],
        weight_decay=0.01,
        warmup_steps=100,
        lr_scheduler_type=recipe["lr_schedule"],
        eval_steps=2000,
        seed=42,
    )
    trainer = DistillationTrainer(
        model=student,
        args=settings,
        data=TrainingData(tokenised_queries(student, queries), targets),
        evaluator=evaluator,
        loss=loss,
        callbacks=[Average()] if args.kind == "average" else None,
    )
    with for_short_texts(student, dropout=False):
        trainer.train()
    if args.kind == "average":
        student.load_state_dict(average.module.state_dict())
    student.save_pretrained(str(args.output), create_model_card=False)
    steps = trainer.state.global_step
    report = {"validation_mse": [{"step": steps, "mse": evaluator.mse(student)}]}
    write_json(args.output / "distillation.json", report)
    shutil.rmtree(checkpoints)


def mistyped(query: str, chance: random.Random) -> str:
    """The query with two neighbouring letters swapped, or with one missing."""
    if len(query) < 4:
        return query
    place = chance.randrange(len(query) - 1)
    swapped = query[place + 1] + query[place] if chance.random() < 0.5 else query[place]
    return query[:place] + swapped + query[place + 2 :]


if __name__ == "__main__":
    run(main)
