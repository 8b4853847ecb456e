"""Two runs compared from the command line."""

from conftest import write_collection

from disret.retrieve.runs import write_run


def test_command(call, tmp_path, collection):
    paths = []
    for name, found in (("a", "d0"), ("b", "d1")):
        paths.append(tmp_path / f"{name}.trec")
        write_run(paths[-1], {"q0": {found: 1.0}}, name)
    outcome = call("beyond/significance", "--dataset", collection, *paths)
    assert outcome.status == 0, outcome.err
    assert "nDCG@10 0.0833 and 0.0000, -0.0833: better on 0, worse on 1 of 12" in outcome.out


def test_a_part_has_to_be_named(call, tmp_path):
    for forum in ("cats", "dogs"):
        write_collection(tmp_path / "forums" / forum)
    outcome = call("beyond/significance", "--dataset", tmp_path / "forums", "a.trec", "b.trec")
    assert outcome.status == 2
    assert "forums has parts; name one, such as" in outcome.err


def test_one_judged_query(call, tmp_path, collection):
    """Both scores, and nothing that one query could not say."""
    (collection / "qrels/test.tsv").write_text("q0\td0\t1\n")
    for name, found in (("a", "d0"), ("b", "d1")):
        write_run(tmp_path / f"{name}.trec", {"q0": {found: 1.0}}, name)
    runs = [tmp_path / f"{name}.trec" for name in "ab"]
    outcome = call("beyond/significance", "--dataset", collection, *runs)
    assert outcome.status == 0, outcome.err
    assert (
        "nDCG@10 1.0000 and 0.0000, -1.0000: better on 0, worse on 1 of 1 queries, p = 1.0000"
        in (outcome.out)
    )
