"""A teacher behind OpenAI's protocol: what is sent, what comes back, and what goes wrong."""

import numpy as np
import pytest
from embedding_service import KEY, EmbeddingService, letters

from disret import paths
from disret.command_line import UserError
from disret.encode import service as service_module
from disret.encode.service import FIXED_TEXTS, REQUEST, Service, parsed_options

TEXTS = [f"text number {i} of {i % 7}" for i in range(3 * REQUEST + 5)]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = EmbeddingService()
    yield server
    server.close()


@pytest.fixture
def impatient(monkeypatch):
    """Two attempts, without long pauses."""
    monkeypatch.setattr(service_module, "ATTEMPTS", 1)


@pytest.mark.parametrize("reorder", [False, True])
@pytest.mark.parametrize("as_floats", [False, True])
def test_vectors_in_the_order_of_the_texts(server, reorder, as_floats):
    server.reorder, server.as_floats = reorder, as_floats
    service = Service(server.address, "tiny")
    assert service.dimension == 16
    done = []
    found = service.embed(TEXTS, done.append)
    np.testing.assert_allclose(found, letters(TEXTS), atol=1e-6)
    assert found.dtype == np.float32
    assert sum(done) == len(TEXTS)
    assert server.texts == {**dict.fromkeys(TEXTS, 1), **dict.fromkeys(FIXED_TEXTS, 1)}
    assert service.embed([]).shape == (0, 16)


def test_prompt_and_options_are_sent(server):
    options = parsed_options(["dimensions=8", "input_type=query", "truncate=true"])
    service = Service(server.address, "tiny", options, prompt="query: ")
    assert service.dimension == 8
    service.embed(["a"])
    body = server.requests[-1]
    assert body["input"] == ["query: a"]
    assert (body["dimensions"], body["input_type"], body["truncate"]) == (8, "query", True)
    assert service.fingerprint != Service(server.address, "tiny").fingerprint


@pytest.mark.parametrize("pair", ["dimensions", "=8", "input=x", "model=y"])
def test_options_that_are_none(pair):
    with pytest.raises(UserError):
        parsed_options([pair])


def test_refusals_for_a_while_are_waited_for(server):
    """Too many requests, a server that restarts, a line that breaks."""
    service = Service(server.address, "tiny")
    server.faults = [429, 500, "cut", 503, 429]
    np.testing.assert_allclose(service.embed(TEXTS), letters(TEXTS), atol=1e-6)
    assert max(server.texts.values()) == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (400, "answers 400: for a while"),
        (403, "answers 403"),
        ("few", r"vectors of shape \(4, 16\), not \(5, 16\)"),
        ("nan", "values that are not numbers"),
        ("dimension", r"vectors of shape \(5, 15\), not \(5, 16\)"),
        ("ragged", "something else than embeddings"),
        ("html", "something else than embeddings"),
    ],
)
def test_answers_that_are_refused(server, fault, says):
    service = Service(server.address, "tiny")
    server.faults = [fault]
    with pytest.raises(UserError, match=says):
        service.embed(TEXTS[:5])
    assert service.embed(TEXTS[:5]).shape == (5, 16)


@pytest.mark.parametrize("fault", [429, 500, "cut"])
def test_a_service_that_stays_away(server, impatient, fault):
    service = Service(server.address, "tiny")
    server.faults = [fault] * 9
    with pytest.raises(UserError, match=r"answers (429|500)|cannot reach"):
        service.embed(["a"])


@pytest.mark.parametrize("url", ["https://host", "http://host/", "https:///v1", "http://[/v1"])
def test_addresses_that_are_none(url):
    with pytest.raises(UserError, match=r"no path|no address"):
        Service(url, "tiny")


def test_nobody_answers(impatient):
    with pytest.raises(UserError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
        Service("http://127.0.0.1:9/v1", "tiny")


def test_an_unknown_model(server):
    with pytest.raises(UserError, match="answers 404: no model other"):
        Service(server.address, "other")


def test_the_key(server, monkeypatch):
    """It is sent, and is in no message."""
    server.key = KEY
    for wrong in (None, f"{KEY}-wrong"):
        if wrong:
            monkeypatch.setenv("OPENAI_API_KEY", wrong)
        with pytest.raises(
            UserError, match=r"does not accept the key.*set the variable OPENAI_API_KEY"
        ) as error:
            Service(server.address, "tiny")
        assert KEY not in str(error.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Service(server.address, "tiny").dimension == 16
    for path in paths.DOWNLOADS.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_a_service_that_changes_its_model_is_noticed(server):
    Service(server.address, "tiny")
    server.embed = lambda texts: letters(texts) * (1 + 1e-4)  # it rounds
    Service(server.address, "tiny")
    server.embed = lambda texts: letters([text[::-1].replace("e", "c") for text in texts])
    with pytest.raises(UserError, match=r"has changed: its vectors of fixed texts have a cosine"):
        Service(server.address, "tiny")
    (record,) = (paths.DOWNLOADS / "embeddings").glob("*.service.json")
    record.unlink()
    Service(server.address, "tiny")


def test_what_will_be_sent_is_said(server, capsys):
    Service(server.address, "tiny", prompt="q ").announce(["a" * 38] * 1000)
    assert "tiny of 127.0.0.1: 1,000 texts to embed, roughly 10,000 to" in capsys.readouterr().err
