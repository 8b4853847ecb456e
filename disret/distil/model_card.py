"""The student's model card."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from disret.distil.student_folder import read_report
from disret.files import whole_file
from disret.retrieve.scores import newest_scores
from disret.tables import Row, markdown_table

CARD = """---
{front_matter}
---

# {name}

A query encoder distilled from `{teacher}` by embedding alignment
([Wang and Lyu, 2023](https://arxiv.org/abs/2306.11550)). It embeds queries for a
document index that `{teacher}` made; embed documents with the teacher.
{where}
```python
from sentence_transformers import SentenceTransformer

student = SentenceTransformer("{path}")
queries = student.encode_query(["what is dense retrieval?"])
```

## Results

{results}

## Training

| | |
|---|---|
| teacher | `{teacher}` |
| started from | {start} |
| transformer layers | {layers} |
| parameters | {parameters:,} |
| dimensions | {dimension} |
| training queries | {training:,} ({queries}) |
| recipe | {recipe} |
| validation MSE before | {before:.4g} |
| validation MSE after | {after:.4g} |

```sh
{command}
```

`distillation.json` has all arguments, versions, timings and the whole MSE curve.

## Licence

The licences of the teacher, of a model that the student started from and of the training queries
apply to this model as well; look them up before you pass it on.
{licences}"""
IN_THIS_FOLDER = "\nIn this folder; from elsewhere, put its path for the dot:\n"
RETENTION = "Retention is the share of the teacher's own nDCG@10, on the same index, that is kept."
NO_RESULTS = "Not scored yet: run `benchmark.py`, then `beyond/publish.py` on this folder."


def write_model_card(folder: Path, scores: Sequence[Row] = (), hub_name: str | None = None) -> None:
    """Write the card of the student in `folder`, from its `distillation.json`.

    Args:
        scores: rows of `benchmark.py`; those of the student's weights on the teacher's index go
            into the card.
        hub_name: what users load it by; without, the example runs in the student's folder.
    """
    from huggingface_hub import ModelCardData

    report = read_report(folder)
    arguments, counts, size = report["arguments"], report["queries"], report["size"]
    start = {
        "subset": f"layers {', '.join(map(str, arguments['layers'] or []))} of the teacher",
        "static": "the teacher's embedding of each token"
        + (", and of words that it splits" if arguments.get("words") else ""),
    }.get(arguments["init_with"], f"`{arguments['init_with']}`")
    own = [arguments["teacher"]] if report.get("sources") == {} else ["MS MARCO"]  # of vectors
    sources = ", ".join(arguments["queries"] or own)
    if counts["sentences"]:
        sources += f", and {counts['sentences']:,} sentences of {arguments['adapt']}"
    on_hub = report.get("teacher_on_hub")
    is_elsewhere = on_hub or "://" in arguments["teacher"]
    data = ModelCardData(
        library_name="sentence-transformers", pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "query-encoder", "distillation"], base_model=on_hub,
    )  # fmt: skip
    curve = [point["mse"] for point in report["validation_mse"]]
    card = CARD.format(
        front_matter=data.to_yaml(),
        name=hub_name or folder.name,
        path=hub_name or ".",
        where="" if hub_name else IN_THIS_FOLDER,
        teacher=arguments["teacher"] if is_elsewhere else Path(arguments["teacher"]).name,
        results=_results(report, scores),
        start=start,
        **size,
        training=counts["training"],
        queries=sources,
        recipe=arguments["recipe"],
        before=curve[0],
        after=report.get("validation_mse_after", min(curve)),
        command=report["command"],
        licences=_licences(report.get("sources", {}).get("training", [])),
    )
    with whole_file(folder / "README.md") as partial:
        partial.write_text(card, encoding="utf-8")


def _licences(sources: Sequence[Mapping[str, Any]]) -> str:
    """A line for each source of the training queries."""
    lines = [
        f"- `{source['name']}`: {source['count']:,} queries, "
        + (f"shown {source['weight']:g} times a pass, " if source.get("weight", 1) != 1 else "")
        + (f"licence {source['licence']}" if source["licence"] else "licence not stated")
        for source in sources
    ]
    return "\n".join(["", *lines, ""]) if lines else ""


def _results(report: Mapping[str, Any], scores: Sequence[Row]) -> str:
    """The newest score on each data set as a Markdown table."""
    teacher, student = report["inputs"]["teacher_sha256"][:16], report["student_sha256"][:16]
    own = newest_scores(scores, itemgetter("query_weights"), teacher).get(student)
    if not own:
        return NO_RESULTS
    shown = [name for name in next(iter(own.values()))
             if "@" in name and name.startswith(("NDCG", "Recall", "MRR"))]  # fmt: skip
    table = markdown_table([
        {"data set": dataset,
         **{name: f"{row[name]:.4f}" for name in shown if row[name] is not None},
         "retention": None if row["retention"] is None else f"{row['retention']:.1f} %"}
        for dataset, row in own.items()
    ])  # fmt: skip
    return f"{table}\n\n{RETENTION}"
