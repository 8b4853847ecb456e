#!/usr/bin/env python
"""What the exports of some models take, and how close to the models they are.

    python evaluations/exports.py evaluations/students models/best/layers-0-5 …

Writes exports.csv: a row for each model, from what its export noted about itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from disret.command_line import argument_parser, run
from disret.query_encoder import QueryEncoder
from disret.tables import write_rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path, help="where exports.csv goes")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    rows = []
    for model in args.models:
        encoder = QueryEncoder.from_pretrained(model)
        row = {"encoder": model}
        for precision in ("float32", "int8"):
            files = encoder.settings["files"][precision]
            size = sum((encoder.folder / name).stat().st_size for name in files)
            row[f"{precision}_mb"] = round(size / 1e6, 1)
        rows.append({**row, **encoder.settings["checks"]})
    write_rows(args.folder / "exports.csv", rows)


if __name__ == "__main__":
    run(main)
