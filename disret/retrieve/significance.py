"""Whether two query encoders differ, query by query.

    python benchmark.py --query-encoder models/a --save-runs runs …
    python benchmark.py --query-encoder models/b --save-runs runs …
    python -m disret.retrieve.significance --dataset scifact \\
        runs/scifact.test.models--a.torch.….trec runs/scifact.test.models--b.torch.….trec

A data set of 300 queries moves by a point by chance. The test asks how often the mean difference of
nDCG@10 would be as large if each query's two scores changed places at random.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from disret.command_line import UserError, argument_parser, run
from disret.data.collection import Collection, Qrels, default_split, find_collections
from disret.retrieve.metrics import Run
from disret.retrieve.runs import read_run

if TYPE_CHECKING:
    import numpy as np

METRIC = "ndcg_cut.10"
PERMUTATIONS = 9999


def per_query(qrels: Qrels, run: Run) -> dict[str, float]:
    """nDCG@10 of each judged query; 0 where the run lacks it."""
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(qrels, {METRIC}).evaluate(run)
    return {query: found.get(query, {}).get("ndcg_cut_10", 0.0) for query in qrels}


def p_value(differences: "np.ndarray") -> float:
    """How often the mean would be as far from 0 if each difference changed its sign at random."""
    import numpy as np
    from scipy.stats import permutation_test

    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        batch=256,
        rng=0,
    )
    return float(test.pvalue)


def retention_interval(
    students: Sequence["np.ndarray"], teachers: Sequence["np.ndarray"]
) -> tuple[float, float]:
    """95 % interval of mean retention over data sets, by a paired bootstrap over queries.

    Args:
        students, teachers: by data set, a score for each query, of the same queries.

    Returns:
        In percent.
    """
    import numpy as np
    from scipy.stats import bootstrap

    def ratio(student: "np.ndarray", teacher: "np.ndarray", axis: int) -> "np.ndarray":
        return 100 * student.mean(axis) / teacher.mean(axis)

    draws = [
        bootstrap(
            pair, ratio, paired=True, vectorized=True, n_resamples=PERMUTATIONS, batch=256,
            method="percentile", rng=0,
        ).bootstrap_distribution
        for pair in zip(students, teachers, strict=True)
    ]  # fmt: skip
    # The sets are drawn independently: their distributions, each in its own order, are averaged.
    rng = np.random.default_rng(0)
    low, high = np.percentile(np.mean([rng.permutation(d) for d in draws], axis=0), [2.5, 97.5])
    return float(low), float(high)


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Paired randomisation test on the scores of the same queries.

    Returns:
        `first` and `second`, the means; `difference` of the second from the first; `p`, two-sided;
        and on how many queries the second is `better` and `worse`.
    """
    import numpy as np

    differences = np.array([second[query] - first[query] for query in first])
    return {
        "first": float(np.mean(list(first.values()))),
        "second": float(np.mean(list(second.values()))),
        "difference": float(differences.mean()),
        "p": p_value(differences),
        "better": int((differences > 0).sum()),
        "worse": int((differences < 0).sum()),
    }


def judged(dataset: str, split: str | None) -> tuple[Collection, Qrels]:
    """A data set of one part, and its judgments.

    Raises:
        UserError: it has several parts, or no judgments of that split.
    """
    collection, *others = find_collections(dataset)
    if others:
        raise UserError(f"{dataset} has parts; name one, such as {collection.folder}.")
    split = split or default_split(dataset)
    collection.check_split(split)
    return collection, collection.qrels(split, collection.queries())


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.retrieve.significance")
    parser.add_argument("first", type=Path, help="TREC run file")
    parser.add_argument("second", type=Path, help="TREC run file")
    parser.add_argument("--dataset", required=True, metavar="NAME|DIR")
    parser.add_argument("--split", help="default: test; dev for msmarco")
    args = parser.parse_args()
    _, qrels = judged(args.dataset, args.split)
    runs = (read_run(path, qrels) for path in (args.first, args.second))
    found = compare(*(per_query(qrels, run) for run in runs))
    print(
        f"nDCG@10 {found['first']:.4f} and {found['second']:.4f}, {found['difference']:+.4f}: "
        f"better on {found['better']:.0f}, worse on {found['worse']:.0f} of {len(qrels)} queries, "
        f"p = {found['p']:.4f}"
    )


if __name__ == "__main__":
    run(main)
