"""Names of data sets of the hub, and whether it answers."""

import pytest

from disret.command_line import UserError
from disret.data.hub import hub_obstacle, parse_name


def test_names():
    assert parse_name("hub:set#q") == ("set", None, "train", "q")
    assert parse_name("hub:a/b.c-d/x/y:dev#q:/#r") == ("a/b.c-d", "x/y", "dev", "q:/#r")
    for name in ("hub:", "hub:a//b#q", "hub://a/b#q", "hub:a/b#", "hub:a/b:#q", "hub:a/b/:x#q"):
        with pytest.raises(
            UserError, match=rf"^{name} names no data set of the hub; write hub:NAME"
        ):
            parse_name(name)


def test_what_keeps_from_the_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    assert hub_obstacle() == "HF_HUB_OFFLINE is set"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_obstacle() == "no answer from http://127.0.0.1:9"
