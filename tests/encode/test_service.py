"""A teacher behind OpenAI's protocol: what is sent, what comes back, and what goes wrong."""

import signal
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from embedding_service import KEY, EmbeddingService, letters

from disret import files, paths
from disret.command_line import UserError
from disret.encode import service as service_module
from disret.encode.encoders import open_encoder, parsed_options
from disret.encode.service import FIXED_TEXTS, REQUEST, Service, address_of

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
    found = np.stack(service.embed(TEXTS, done.append))
    np.testing.assert_allclose(found, letters(TEXTS), atol=1e-6)
    assert found.dtype == np.float32
    assert sum(done) == len(TEXTS)
    assert server.texts == {**dict.fromkeys(TEXTS, 1), **dict.fromkeys(FIXED_TEXTS, 1)}
    assert service.embed([]) == []


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
        ("few", "gives 4 vectors of 5 texts"),
        ("nan", "a vector of values that are not numbers for 'text number 0 of 0'"),
        ("dimension", "vectors of several dimensions: 15, 16"),
        ("ragged", "vectors of several dimensions: 15, 16"),
        ("html", "something else than embeddings: '<html>welcome</html>'"),
        ((200, {"error": {"message": "no endpoints", "code": 404}}), "an error: no endpoints"),
        ((200, {"error": "Unexpected endpoint"}), "an error: Unexpected endpoint"),
    ],
)
def test_answers_that_are_refused(server, fault, says):
    service = Service(server.address, "tiny")
    server.faults = [fault]
    with pytest.raises(UserError, match=says):
        service.embed(TEXTS[:5])
    assert len(service.embed(TEXTS[:5])) == 5


@pytest.mark.parametrize("fault", [429, 500, "cut"])
def test_a_service_that_stays_away(server, impatient, fault):
    service = Service(server.address, "tiny")
    server.faults = [fault] * 9
    with pytest.raises(UserError, match=r"answers (429|500)|cannot reach"):
        service.embed(["a"])


@pytest.mark.parametrize(
    "url", ["https://host", "http://host/", "https:///v1", "http://[/v1", "http://host:port/v1"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(UserError, match=r"no path|no address"):
        Service(url, "tiny")


def test_nobody_answers(impatient):
    with pytest.raises(UserError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
        Service("http://127.0.0.1:9/v1", "tiny")


def test_a_refusal_that_only_sounds_like_one_of_size(server):
    server.faults = [(400, {"error": {"message": "the length of your token is wrong"}})] * 9
    with pytest.raises(UserError, match=r"tiny of 127\.0\.0\.1 answers 400: the length of your t"):
        Service(server.address, "tiny")


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


@pytest.mark.parametrize("cut", [0, 150, 185, 195])
def test_pieces_of_the_key(server, monkeypatch, cut):
    """A service may say it across a cut, broken by spaces, or in part."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = f"{'x' * cut} no {KEY[:12]}\n {KEY[12:]}, nor {KEY[3:15]}… here"
    server.faults = [(400, {"error": {"message": said}})]
    with pytest.raises(UserError) as error:
        Service(server.address, "tiny")
    shown = str(error.value)
    assert not any(KEY[n : n + 8] in "".join(shown.split()) for n in range(len(KEY) - 7))
    assert "no …" in shown


def test_another_address_gets_no_texts(server):
    server.faults = [(307, "")]
    with pytest.raises(UserError, match=r"moved to http://127\.0\.0\.1:9/v1; name that address"):
        Service(server.address, "tiny")
    assert len(server.requests) == 1


def test_a_key_in_the_clear_is_said(server, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    Service(server.address, "tiny")
    assert capsys.readouterr().err == ""  # of this machine
    monkeypatch.setattr(service_module, "HERE", ())
    Service(server.address, "tiny")
    assert "the key goes to 127.0.0.1 as plain text; https would hide it" in capsys.readouterr().err


def test_an_answer_that_is_too_deep(server):
    server.faults = [(200, "[" * 100_000 + "]" * 100_000)]
    with pytest.raises(UserError, match="something else than embeddings"):
        Service(server.address, "tiny")


# --- In all runs ----------------------------------------------------------------------------------


@pytest.fixture
def opened(server):
    return lambda **more: open_encoder(f"{server.address}#tiny", **more)


def sent(server):
    """Texts that were sent beside the fixed ones since the last call."""
    found = {text: n for text, n in server.texts.items() if not text.endswith(FIXED_TEXTS)}
    server.texts.clear()
    return found


def test_a_service_that_changes_its_model_is_noticed(server, opened):
    opened()
    server.embed = lambda texts: letters(texts) * (1 + 1e-4)  # it rounds
    opened()
    other = lambda texts: letters([text[::-1].replace("e", "c") for text in texts])  # noqa: E731
    server.embed = other
    with pytest.raises(UserError, match=r"has changed: its vectors of fixed texts have a cosine"):
        opened()
    (record,) = (paths.DOWNLOADS / "embeddings").glob("*.vectors")
    record.unlink()
    opened()
    server.embed = lambda texts: letters(texts)[:, :8]
    with pytest.raises(
        UserError, match=r"vectors of fixed texts have 8 dimensions, and had others"
    ):
        opened()
    server.embed = other
    opened()


def test_a_service_whose_vectors_are_longer_than_before(server, opened):
    opened()
    opened()
    server.embed = lambda texts: 10 * letters(texts)
    with pytest.raises(UserError, match=r"has changed: .* cosine of 1\.000 .* 10 times as long"):
        opened()


def test_two_runs_at_a_time(server, opened, capsys, monkeypatch):
    """The second starts, says that it waits, and sends what the first has not."""
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    first, answer = opened(), server.embed
    server.embed = lambda texts: time.sleep(0.5 * (len(texts) == REQUEST)) or answer(texts)
    with ThreadPoolExecutor(1) as other:
        running = other.submit(first.embed_once, TEXTS)
        time.sleep(0.1)
        second = opened()
        second.announce(TEXTS)
        second.embed_once([*TEXTS, "one more"])
        np.testing.assert_allclose(running.result()[:], letters(TEXTS), atol=1e-6)
    assert "waiting for another run that embeds with the same service." in capsys.readouterr().err
    assert sent(server) == {**dict.fromkeys(TEXTS, 1), "one more": 1}
    np.testing.assert_allclose(first.embed_once(["one more"])[:], letters(["one more"]), atol=1e-6)
    assert sent(server) == {}


@pytest.fixture
def interruptible():
    """As in a terminal; what a shell starts in the background is deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_keeps_what_was_answered(server, opened, interruptible):
    """Though a part is refused for a while, and asked for again with long pauses."""
    encoder, main = opened(), threading.get_ident()
    server.faults = [0, 0, (503, {}, "application/json", "50")]
    threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        encoder.embed_once(TEXTS)
    assert time.monotonic() - start < 2.5
    answered = sent(server)
    assert len(TEXTS) - len(answered) in (REQUEST, len(TEXTS) % REQUEST)  # the third to arrive
    opened().embed_once(TEXTS)
    assert sent(server).keys() == set(TEXTS) - answered.keys()


def test_a_text_is_sent_once_whatever_is_beside_it(server, opened):
    np.testing.assert_allclose(opened().embed_once(TEXTS)[:], letters(TEXTS), atol=1e-6)
    assert sent(server) == dict.fromkeys(TEXTS, 1)
    more = ["a new one", *TEXTS[50:], TEXTS[0], "a new one"]
    np.testing.assert_allclose(opened().embed_once(more)[:], letters(more), atol=1e-6)
    assert sent(server) == {"a new one": 1}
    assert server.address.startswith("http://127.0.0.1:")
    for spelling in ("http://localhost:", "HTTP://127.0.0.1:"):
        other = spelling + server.address.removeprefix("http://127.0.0.1:")
        for end in ("", "/", "/embeddings"):
            open_encoder(f"{other}{end}#tiny".replace("HTTP", "http")).embed_once(TEXTS)
    assert sent(server) == {}
    for other in ({"prompt": "q "}, {"options": ["dimensions=8"]}):
        opened(**other).embed_once(TEXTS[:3])
        assert len(sent(server)) == 3


def test_a_dry_run_counts_what_is_missing(server, opened, capsys):
    texts = ["a" * 38 + str(n) for n in range(10, 60)]
    opened(prompt="q ").announce([*texts, *texts])
    said = "tiny of 127.0.0.1: 50 texts to send, roughly 525 tokens.\n"
    assert capsys.readouterr().err == said
    opened(prompt="q ").embed_once(texts[:30])
    capsys.readouterr()
    opened(prompt="q ").announce(texts, price=1000.0)
    said = "tiny of 127.0.0.1: 20 texts to send (30 are there), roughly 210 tokens, about $0.21.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("damage", ["cut", "texts cut", "cut while open", "other bytes"])
def test_what_is_kept_is_whole(server, opened, damage):
    """A row that is cut off or damaged is asked for again, and no other."""
    encoder = opened()
    encoder.embed_once(TEXTS)
    sent(server)
    (vectors,) = (paths.DOWNLOADS / "embeddings").glob("*.vectors")
    texts = vectors.with_suffix(".texts")
    if damage == "other bytes":
        whole = vectors.read_bytes()
        vectors.write_bytes(whole[:-64] + bytes(64))
    else:
        file = texts if damage == "texts cut" else vectors
        file.write_bytes(file.read_bytes()[:-3])
    if damage == "cut while open":  # it is noticed with the next that is asked for
        encoder.embed_once(["more"])
    np.testing.assert_allclose(opened().embed_once(TEXTS)[:], letters(TEXTS), atol=1e-6)
    server.texts.pop("more", None)
    assert sent(server) == {TEXTS[-1]: 1}


def test_what_was_paid_is_kept(server, opened, monkeypatch):
    """Of a block in which one text is refused, the others."""
    server.longest = 100
    texts = [*TEXTS[:150], "long " * 30, *TEXTS[150:]]
    with pytest.raises(UserError, match=r"refuses 'long long .*…', of 150 letters: 413: "):
        opened().embed_once(texts)
    answered = sent(server)
    assert len(answered) > 100
    server.longest = None
    opened().embed_once(texts)
    assert sent(server).keys() == set(texts) - answered.keys()


# --- As services are ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "status", "words"),
    [
        (16, 500, "input ({} tokens) is too large to process. increase the physical batch size"),
        (16, 500, "input is larger than the max context size. skipping"),
        (32, 413, "batch size {} > maximum allowed batch size {}"),
        (10, 400, "batch size is invalid, it should not be larger than {1}.: input.contents"),
        (1, 422, "List should have at most {1} item, too long"),
    ],
)
def test_fewer_texts_a_request(server, most, status, words):
    server.most, server.refusal = most, (status, words)
    service = Service(server.address, "tiny")
    np.testing.assert_allclose(service.embed(TEXTS), letters(TEXTS), atol=1e-6)
    assert max(server.texts.values()) == 1
    refused = sum(len(body["input"]) > most for body in server.requests)
    before = len(server.requests)
    service.embed(TEXTS)
    assert sum(len(body["input"]) > most for body in server.requests[before:]) == 0
    assert refused < 40


@pytest.mark.parametrize("status", [413, 500])
@pytest.mark.parametrize("long_texts", ["cut", "skip"])
def test_long_texts(server, opened, long_texts, status):
    server.longest, server.too_long = 100, (status, "input ({} tokens) is too large to process")
    long = "long " * 30
    texts = [*TEXTS, long]
    encoder = opened(long_texts=long_texts)
    if long_texts == "skip":
        assert encoder.skipped(texts) == {long}
        texts.remove(long)
    found = encoder.embed_once(texts)[:]
    wanted = letters([text[:75] if text == long else text for text in texts])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert max(len(body["input"]) for body in server.requests[-1:]) <= REQUEST
    assert encoder.service._size == REQUEST  # which was not at fault
    server.texts.clear()
    np.testing.assert_allclose(opened(long_texts=long_texts).embed_once(texts)[:], found)
    assert sent(server) == {}
    if long_texts == "cut":  # that vector is none of the whole text
        with pytest.raises(UserError, match="refuses 'long long"):
            opened().embed_once(texts)
        server.longest = None
        np.testing.assert_allclose(opened().embed_once([long])[:], letters([long]), atol=1e-6)


def test_a_short_text_is_not_too_long(server, opened):
    encoder = opened(long_texts="skip")
    server.longest = 10
    with pytest.raises(UserError, match="answers 413: `inputs` must have less"):
        encoder.skipped(["as short as the fixed ones"])


def test_floats_where_base64_is_refused(server):
    said = {"error": {"message": "encoding_format 'base64' is not supported, use 'float'"}}
    server.faults = [(400, said)]
    service = Service(server.address, "tiny")
    np.testing.assert_allclose(service.embed(TEXTS), letters(TEXTS), atol=1e-6)
    assert {body["encoding_format"] for body in server.requests[1:]} == {"float"}
    Service(server.address, "tiny", {"encoding_format": "float"})
    assert server.requests[-1]["encoding_format"] == "float"
    server.faults = [(400, said)]
    with pytest.raises(UserError, match="answers 400: encoding_format 'base64' is not supported"):
        Service(server.address, "tiny", {"encoding_format": "base64"})


def without_index(item, text):
    return {name: value for name, value in item.items() if name != "index"}


def without_zero(item, text):
    return item if item["index"] else without_index(item, text)


@pytest.mark.parametrize(
    "item",
    [
        without_index,
        without_zero,
        lambda item, text: {**item, "index": str(item["index"])},
        lambda item, text: {**item, "embedding": [item["embedding"]]},
        lambda item, text: item["embedding"],
    ],
)
def test_other_forms_of_an_answer(server, item):
    server.item, server.as_floats = item, True
    found = Service(server.address, "tiny").embed(TEXTS)
    np.testing.assert_allclose(found, letters(TEXTS), atol=1e-6)
    server.item, server.reorder = without_zero, True
    with pytest.raises(UserError, match=r"numbers 4 vectors \[3, 2, 1, 3\]"):
        Service(server.address, "tiny")


@pytest.mark.parametrize(
    "form",
    [lambda answer: answer["data"], lambda answer: [item["embedding"] for item in answer["data"]]],
)
def test_an_answer_that_is_a_list(server, form):
    server.as_floats, server.form = True, form
    found = Service(server.address, "tiny").embed(TEXTS)
    np.testing.assert_allclose(found, letters(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": 0}, r"numbers 4 vectors \[0, 0, 0, 0\], so that nobody knows whose they are"),
        ({"index": "a"}, "numbers 4 vectors"),
        ({"index": [0]}, "numbers 4 vectors"),
        ({"embedding": [[0.5, 1], [1, 0.5]]}, "gives a vector for each token: it does not pool"),
        ({"embedding": [0.0] * 16}, "gives a vector of zeros alone for 'what is dense retrieval"),
        ({"embedding": [None] * 16}, "gives a vector of values that are not numbers for 'what is"),
        ({"embedding": [0.5] * 16}, "gives different texts the same vector"),
        ({"embedding": "no base64"}, "answers with something else than embeddings"),
        ({"embedding": None}, "gives a vector of values that are not numbers for 'what is"),
    ],
)
def test_what_is_no_embedding(server, change, said):
    server.item = lambda item, text: {**item, **change}
    with pytest.raises(UserError, match=f"tiny of 127.0.0.1 {said}"):
        Service(server.address, "tiny")


def test_the_text_that_a_server_fails_at_is_named(server):
    service = Service(server.address, "tiny")
    server.poison = TEXTS[70]
    for _ in range(2):  # at once, and with patience for what is for a while
        with pytest.raises(UserError, match=f"answers 500 for '{TEXTS[70]}': json: unsupported v"):
            service.embed(TEXTS)
        assert len(server.requests) < 40
        server.faults = [503, (503, {"error": {"message": "down for maintenance"}})]


def test_azures_addresses(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.route = "/openai/deployments/emb/embeddings"
    base = server.url + "/openai/deployments/emb"
    for url in (f"{base}?api-version=2024-02-01", f"{base}/embeddings?api-version=2024-02-01"):
        service = Service(url, "tiny")
        assert service.dimension == 16
        assert server.paths[-1] == "/openai/deployments/emb/embeddings?api-version=2024-02-01"
        assert server.headers[-1]["api-key"] == KEY
        assert address_of(url)[0] == f"{base}?api-version=2024-02-01"


def test_an_address_without_a_scheme(server):
    bare = server.address.removeprefix("http://")
    for secret in ("", "me:a@secret@"):
        with pytest.raises(UserError, match=f"^{bare}#tiny: did you mean http://{bare}#tiny or "):
            open_encoder(f"{secret}{bare}#tiny")


def test_an_address_of_embeddings_at_the_root(server):
    server.route = "/embeddings"
    assert Service(f"{server.url}/embeddings", "tiny").dimension == 16


@pytest.mark.parametrize(
    ("key", "says"),
    [("sk-a\nb", "holds white space"), ("sk-ä", "holds a letter that is not ASCII")],
)
def test_keys_that_are_none(server, monkeypatch, key, says):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=f"the variable OPENAI_API_KEY {says}"):
        Service(server.address, "tiny")
    assert not server.requests


def test_a_key_from_a_file(server, monkeypatch):
    server.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    assert Service(server.address, "tiny").dimension == 16


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HTTP_PROXY", "http://127.0.0.1:9", "asked through the proxy of HTTP_PROXY, ConnectError"),
        ("ALL_PROXY", "http://127.0.0.1:9", "asked through the proxy of ALL_PROXY, ConnectError"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "the proxy of ALL_PROXY cannot be used: .*socksio"),
        ("HTTP_PROXY", "http://me:sec/ret@h", "the proxy of HTTP_PROXY cannot be used: it is no"),
    ],
)
def test_proxies(server, monkeypatch, variable, value, says):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, value)
    start = time.monotonic()
    with pytest.raises(UserError, match=says) as error:
        Service(server.address, "tiny")
    assert "sec" not in str(error.value)
    assert time.monotonic() - start < 20  # 40 seconds of patience would be for nothing
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if "cannot be used" not in says:
        assert Service(server.address, "tiny").dimension == 16


def test_a_certificate_that_nobody_trusts(server, tmp_path):
    files = [tmp_path / name for name in ("key.pem", "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", files[0],
               "-out", files[1], "-days", "2", "-subj", "/CN=localhost"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    with pytest.raises(UserError, match=r"its certificate is not trusted; SSL_CERT_FILE names"):
        Service(server.address.replace("http:", "https:"), "tiny")
