"""Uploads to a model repository, and what is said before training where there can be none."""

import os
from collections.abc import Iterator

import pytest
from local_hub import LocalHub


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    server = LocalHub()
    yield server
    server.close()


def at(hub: LocalHub, token: str | None = LocalHub.token) -> dict[str, str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    environment["HF_HUB_DISABLE_XET"] = "1"
    environment.pop("HF_TOKEN", None)
    return {**environment, "HF_TOKEN": token} if token else environment


@pytest.fixture
def arguments(teacher, queries, valid_queries, tmp_path):
    return [
        "--teacher", teacher, "--layers", 0, "--queries", queries, "--valid-queries", valid_queries,
        "--output", tmp_path / "student", "--device", "cpu",
    ]  # fmt: skip


def test_a_student_is_uploaded_whole(script, arguments, hub, tmp_path):
    outcome = script("distill", *arguments, "--push-to-hub", "someone/fast", env=at(hub))
    assert outcome.status == 0, outcome.err
    assert f"uploaded to {hub.url}/someone/fast" in outcome.out
    uploaded = hub.repositories["someone/fast"]
    for path in (tmp_path / "student").rglob("*"):
        if path.is_file():
            assert uploaded[str(path.relative_to(tmp_path / "student"))] == path.read_bytes()


def test_a_finished_student_is_uploaded_later(script, arguments, hub):
    assert script("distill", *arguments).status == 0
    assert hub.repositories == {}
    later = script("distill", *arguments, "--resume", "--push-to-hub", "fast", env=at(hub))
    assert later.status == 0, later.err
    assert "model.safetensors" in hub.repositories["someone/fast"]


def test_a_token_that_may_only_read_is_refused(script, arguments, hub):
    hub.role = "read"
    outcome = script("distill", *arguments, "--push-to-hub", "someone/fast", env=at(hub))
    assert outcome.status == 2
    assert "may only read" in outcome.err


@pytest.mark.parametrize(
    ("name", "token", "reason"),
    [
        ("someone/fast", None, "log in first"),
        ("someone/fast", "hf_wrong", "Invalid user token"),
        ("no name at all", LocalHub.token, "expected USER/NAME"),
    ],
)
def test_refusals_come_before_training(script, arguments, hub, tmp_path, name, token, reason):
    environment = {**at(hub, token), "HF_HOME": str(tmp_path / "empty")}
    outcome = script("distill", *arguments, "--push-to-hub", name, env=environment)
    assert outcome.status == 2
    assert reason in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "student").exists()
    assert hub.repositories == {}


def test_no_hub_is_said_before_training(call, arguments, tmp_path):
    outcome = call("distill", *arguments, "--push-to-hub", "someone/fast")
    assert outcome.status == 2
    assert "HF_HUB_OFFLINE is set" in outcome.err
    assert not (tmp_path / "student").exists()
