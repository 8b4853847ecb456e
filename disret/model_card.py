"""The student's model card."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.encoders import describe

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CARD = """---
{front_matter}
---

# {name}

A query encoder distilled from `{teacher}` by embedding alignment
([Wang and Lyu, 2023](https://arxiv.org/abs/2306.11550)). It embeds queries for a
document index that `{teacher}` made; embed documents with the teacher.

| | |
|---|---|
| teacher | `{teacher}` |
| started from | {start} |
| transformer layers | {layers} |
| parameters | {parameters:,} |
| dimensions | {dimension} |
| training queries | {training:,} ({queries}) |
| validation MSE before | {before:.4g} |
| validation MSE after | {after:.4g} |

```python
from sentence_transformers import SentenceTransformer

queries = SentenceTransformer("{name}").encode_query(["what is dense retrieval?"])
```

`distillation.json` has the arguments, versions, timings and the whole MSE curve. The licence of
the teacher and of the training queries applies to this model as well.
"""


def write_model_card(
    path: Path, name: str, student: "SentenceTransformer", report: dict[str, Any]
) -> None:
    """Write the card of a student from its distillation report (see `distill.py`)."""
    from huggingface_hub import ModelCardData

    arguments = report["arguments"]
    size = describe(student)
    start = arguments["init_with"]
    if start == "subset":
        start = f"layers {', '.join(map(str, arguments['layers']))} of the teacher"
    else:
        start = f"`{start}`"
    is_hub_name = not Path(arguments["teacher"]).exists()
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "query-encoder", "distillation"],
        base_model=arguments["teacher"] if is_hub_name else None,
    )
    before, *after = (point["mse"] for point in report["validation_mse"])
    path.write_text(
        CARD.format(
            front_matter=data.to_yaml(),
            name=name,
            teacher=arguments["teacher"],
            start=start,
            layers=size.layers,
            parameters=size.parameters,
            dimension=size.dimension,
            training=report["queries"]["training"],
            queries=", ".join(arguments["queries"] or ["MS MARCO"]),
            before=before,
            after=min(after),
        ),
        encoding="utf-8",
    )
