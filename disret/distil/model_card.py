"""The student's model card."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from disret.command_line import one_line
from disret.distil.student_folder import read_report
from disret.encode.encoders import EXPORTS, PRECISIONS, export_fingerprint
from disret.files import read_record, whole_file
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
| centred cosine to the teacher | {centred_cosine} |

```sh
{command}
```

`distillation.json` has all arguments, versions, timings and the whole MSE curve.

## Licence

The licences of the teacher, of a model that the student started from and of the training queries
apply to this model as well; look them up before you pass it on.
{licences}"""
IN_THIS_FOLDER = "\nIn this folder; from elsewhere, put its path for the dot:\n"
RETENTION = """Retention is the share of the teacher's own nDCG@10, on the same index, that is kept;
overlap@10 that of the teacher's ten best documents that are found; centred cosine that of the two
vectors of a query, less the teacher's mean. In brackets: 95 % intervals."""
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
        results=_results(folder, report, scores),
        start=_start(arguments),
        **size,
        training=counts["training"],
        queries=sources,
        recipe=arguments["recipe"],
        before=curve[0],
        after=report.get("validation_mse_after", min(curve)),
        centred_cosine=f"{report['centred_cosine']:.3f}" if "centred_cosine" in report else "—",
        command=report["command"],
        licences=_licences(report.get("sources", {}).get("training", [])),
    )
    with whole_file(folder / "README.md") as partial:
        partial.write_text(card, encoding="utf-8")


def _licences(sources: Sequence[Mapping[str, Any]]) -> str:
    """A line for each source of the training queries."""
    lines = []
    for source in sources:
        shown = f"shown {source['weight']:g} times a pass, " if source.get("weight", 1) != 1 else ""
        # What a data set says of itself, as it may stand between backticks.
        stated = one_line((source["licence"] or "").replace("`", "'"))[:100]
        licence = f"licence `{stated}`" if stated else "licence not stated"
        lines.append(f"- `{source['name']}`: {source['count']:,} queries, {shown}{licence}")
    return "\n".join(["", *lines, ""]) if lines else ""


def _start(arguments: Mapping[str, Any]) -> str:
    """What the student was before training."""
    kind, layers = arguments["init_with"], arguments["layers"]
    some = f"layers {', '.join(map(str, layers))} of " if layers else ""
    if kind == "static":
        if vocabulary := arguments.get("vocabulary"):
            return f"a vector for each token of `{vocabulary}`, by least squares"
        words = ", and of words that it splits" if arguments.get("words") else ""
        return f"the teacher's embedding of each token{words}"
    if kind == "subset":
        return f"{some}the teacher"
    through = " and a layer by least squares" if arguments.get("projection") == "ridge" else ""
    return f"{some}`{kind}`{through}"


def _results(folder: Path, report: Mapping[str, Any], scores: Sequence[Row]) -> str:
    """The newest scores of the student and its exports on each data set as a Markdown table."""
    weights = {"": report["student_sha256"]}
    exported = read_record(folder / "onnx" / "query_encoder.json", {"files": dict}) or {"files": {}}
    for suffix, kind in EXPORTS.items():
        if PRECISIONS[kind] in exported["files"]:
            weights[f"@{suffix}"] = export_fingerprint(exported, PRECISIONS[kind])
    teacher = report["inputs"]["teacher_sha256"][:16]
    newest = newest_scores(scores, itemgetter("query_weights"), teacher)
    found = [(suffix, dataset, row) for suffix, digest in weights.items()
             for dataset, row in newest.get(digest[:16], {}).items()]  # fmt: skip
    if not found:
        return NO_RESULTS
    kinds = ("NDCG", "Recall", "MRR", "overlap@10", "centred cosine")
    names = dict.fromkeys(name for *_, row in found for name, value in row.items()
                          if value is not None and name.startswith(kinds)
                          and not name.endswith((" low", " high")))  # fmt: skip
    table = markdown_table([
        {"data set": dataset, "encoder": f"student{suffix}",
         **{name: _with_interval(row, name) for name in names},
         "retention": None if row["retention"] is None else f"{row['retention']:.1f} %"}
        for suffix, dataset, row in found
    ])  # fmt: skip
    return f"{table}\n\n{RETENTION}"


def _with_interval(row: Row, name: str) -> str | None:
    """A value, with its 95 % interval where that is known."""
    if row.get(name) is None:
        return None
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    return f"{row[name]:.4f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")
