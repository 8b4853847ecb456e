#!/usr/bin/env python
"""Write every table and figure of the README files from the CSV files beside them.

    python evaluations/tables.py            # make figures
    python evaluations/tables.py --check    # status 1 if a table is not what its files say

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. `facts` are the figures that the
README's prose may state.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from agreeing import agreement, correlations, pairs
from figures import plot_agreement, plot_effort, plot_speed
from found import HERE, NAMES, STUDENTS, TEACHER, compared, newest_searches, percent, timed
from mixing import committed, decisions, few, mix, sources
from retaining import (
    FIRST,
    FIRST_NAMES,
    SWEEPS,
    adapt,
    doses,
    example,
    first,
    more,
    other_model,
    paper_recipe,
    peers,
    prompts,
    recipes,
    students,
    sweep,
    texts,
    twelve,
    twelve_speed,
)
from services import black_box, dimensions, endpoint, language, orphan, orphans, owner, vectors
from serving import compressed, effort, exports, hybrid, online

from disret.command_line import argument_parser, run
from disret.files import whole_file
from disret.retrieve.scores import mean_retention, newest_scores
from disret.sweep import report
from disret.sweep.plots import plot_tradeoff, timed_on
from disret.tables import Row, markdown_table, read_rows

ROOT = HERE.parent
CARD = ROOT / "models" / "all-MiniLM-L6-v2-static" / "README.md"
DOCUMENTS = (ROOT / "README.md", HERE / "README.md", ROOT / "docs" / "texts.md", CARD)

TABLES: dict[str, Callable[[], list[Row]]] = {
    "first": first,
    "example": example,
    "more": more,
    "students": students,
    "online": online,
    "exports": exports,
    "recipes": recipes,
    "texts": texts,
    "effort": effort,
    "compressed": compressed,
    "hybrid": hybrid,
    "adapt": adapt,
    "sweep-six": lambda: sweep(SWEEPS["six"]),
    "sweep-twelve": lambda: sweep(SWEEPS["twelve"]),
    "paper-recipe": paper_recipe,
    "other-model": other_model,
    "black-box": black_box,
    "endpoint": endpoint,
    "owner": owner,
    "orphan": orphan,
    "orphans": orphans,
    "language": language,
    "vectors": vectors,
    "dimensions": dimensions,
    "twelve": twelve,
    "twelve-speed": twelve_speed,
    "dose": doses,
    "mix": mix,
    "committed": committed,
    "sources": sources,
    "few": few,
    "decisions": decisions,
    "peers": peers,
    "prompt": prompts,
    "agreement": agreement,
    "correlations": correlations,
}


def facts() -> set[str]:
    """Figures that prose may state: those of the tables, the paper's among them."""
    cells = {str(cell) for make in TABLES.values() for row in make() for cell in row.values()}
    found = {figure for cell in cells for figure in FIGURE.findall(cell)}
    found.add("95 %")  # of intervals
    rows = read_rows(HERE / "all-MiniLM-L6-v2" / "scores.csv")
    low = newest_scores(r for r in rows if r["dtype"] == "bfloat16")
    found.add(percent(mean_retention(low[f"{TEACHER}-layers-0-5"].values())))
    return {figure.replace(" times", "x") for figure in found}


# A share, or how many times as fast.
FIGURE = re.compile(r"\d[\d,.]*(?: %|x| times)")


# --- Writing ------------------------------------------------------------------------------------


def with_tables(text: str) -> str:
    """A document with its tables made anew."""

    def table(match: re.Match) -> str:
        return f"{match[1]}\n{markdown_table(TABLES[match[2]]())}\n{match[3]}"

    return re.sub(r"(<!-- table: ([\w-]+) -->).*?(<!-- end -->)", table, text, flags=re.DOTALL)


def draw_figures() -> None:
    for folder in SWEEPS.values():
        report.draw(HERE / folder)
    plot_agreement(pairs(), HERE / "agreement.png")
    searches = newest_searches(HERE / "ann" / "hnsw.sweep.csv")
    plot_effort(searches, HERE / "ann" / "effort.png")
    alone = timed(STUDENTS / "speed-nq.csv", 1)
    batch = timed(STUDENTS / "speed.csv", 64, "nfcorpus")
    shown = [*alone.values(), *batch.values()]  # as in the table of the same runs
    plot_speed([{**r, "encoder": NAMES[r["encoder"]]} for r in shown], STUDENTS / "speed.png")
    slowest = alone[TEACHER, "torch"]["p50_ms"]
    points = [
        (
            FIRST_NAMES.get(key, NAMES[key[0]]),
            slowest / alone[key]["p50_ms"],
            compared(STUDENTS, key)["mean"],
        )
        for key in sorted(FIRST, key=lambda key: key[1] != "torch" and key[0] == TEACHER)
    ]  # the teacher's export last, so that the others have their colours of other figures
    sets = [name.removesuffix(" retention") for name in compared(STUDENTS, FIRST[0])
            if name.endswith(" retention")]  # fmt: skip
    source = f"retention on {', '.join(sets)}; {timed_on(list(alone.values()))}"
    plot_tradeoff(
        points, STUDENTS / "tradeoff.png", source, "one query, times as fast as the teacher"
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    changed = [path for path in DOCUMENTS
               if with_tables(text := path.read_text(encoding="utf-8")) != text]  # fmt: skip
    if args.check:
        sys.exit(f"not what the files say: {', '.join(map(str, changed))}" if changed else 0)
    for path in changed:
        with whole_file(path) as partial:
            partial.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    draw_figures()


if __name__ == "__main__":
    run(main)
