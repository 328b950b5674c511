"""The explorer's server, over real HTTP: whom it answers, what it never does, and what a query may cost."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from gradstore.errors import AddressError, QueryError, StoreError
from gradstore.explorer import asking
from gradstore.explorer.children import MB, Child
from gradstore.explorer.guard import HEADERS
from gradstore.explorer.server import listening
from gradstore.schemas import TABLES
from gradstore.store import GradientStore
from tests.serving import ROOT, serving

HOSTILE = "<img src=x onerror=alert(1)></script><b>Who?</b>"
FILES = ["/", "/page.js", "/page.css"]
READ = ["/api/store", "/api/cookbook", "/api/sample/s0001", "/api/search?text=who"]
ENDLESS = "SELECT count(*) AS n FROM samples a CROSS JOIN samples b CROSS JOIN samples c CROSS JOIN samples d " + (
    "WHERE a.question < b.question AND b.question <> c.answer AND c.question > d.question"
)
HUGE = (
    "SELECT a.question || b.question || c.question AS text "
    "FROM samples a CROSS JOIN samples b CROSS JOIN samples c ORDER BY text"
)
LIMITED = """
from gradstore.explorer.app import Explorer, Limits
from gradstore.explorer.server import serve
if __name__ == "__main__":  # children import this file too
    import sys
    explorer = Explorer(sys.argv[1], limits=Limits(query_seconds=2))
    serve(explorer, "127.0.0.1", 0, tell=lambda address: print(address, flush=True))
"""


def row(number, question):
    base = {"source": "qa", "role": "train", "task": "oeqa", "answer": "x", "aliases": ["x", "y"]}
    return base | {"sample_id": f"s{number:04}", "question": question, "ordinal": number, "subject": "art"}


def table(rows):
    return pa.Table.from_pylist(rows, schema=TABLES["samples"].schema)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """300 samples, the first with HTML for a question; nothing was probed."""
    folder = tmp_path_factory.mktemp("explorer") / "store"
    store = GradientStore.create(folder)
    store.write("samples", table([row(0, HOSTILE), *(row(i, f"Who is number {i}?") for i in range(1, 300))]))
    return folder


@pytest.fixture(scope="module")
def served(store):
    with serving(store) as served:
        yield served


@pytest.fixture(scope="module")
def limited(store, tmp_path_factory):
    """The same with two seconds for a query."""
    script = tmp_path_factory.mktemp("script") / "limited.py"
    script.write_text(LIMITED)
    with serving(store, command=[sys.executable, str(script), str(store)]) as limited:
        yield limited


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# -- whom it answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*FILES, *READ, "/vega.js", "/nowhere"])
@pytest.mark.parametrize(
    "host",
    ["evil.example:PORT", "evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:PORT", "127.0.0.1.:PORT",
     "evil.example@127.0.0.1:PORT", "169.254.169.254:PORT", "[::2]:PORT", ":PORT", ""],
)  # fmt: skip
def test_a_foreign_host_is_refused(served, path, host):
    """DNS rebinding: the browser connects here, and names the host of the page that it came from."""
    headers = served.ours() | {"Host": host.replace("PORT", str(served.port))}
    status, _, body = served.ask("GET", path, headers)
    assert status == 421
    assert b"own name" in body
    assert b"Who" not in body


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_names_are_answered(served, name):
    host = f"{name}:{served.port}"
    assert served.ask("GET", "/api/store", served.ours() | {"Host": host})[0] == 200


def test_two_hosts_or_none_are_refused(served):
    twice = [("Host", served.host), ("Host", "evil.example"), ("Authorization", f"Bearer {served.token}")]
    assert served.ask("GET", "/api/store", twice)[0] in (400, 421)
    assert served.ask("GET", "/api/store", {"Authorization": f"Bearer {served.token}"})[0] in (400, 421)


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:PORT",
     "http://localhost:PORT", "http://127.0.0.1:PORT.evil.example"],
)  # fmt: skip
def test_a_query_of_another_origin_is_refused(served, origin):
    headers = served.ours() | {"Content-Type": "application/json"}
    if origin:
        headers["Origin"] = origin.replace("PORT", str(served.port))
    body = b'{"sql": "SELECT question FROM samples"}'
    assert served.ask("POST", "/api/query", headers, body)[0] == 403
    if origin:
        assert served.ask("GET", "/api/store", headers)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "else"])
def test_what_another_site_makes_a_browser_send_is_refused(served, site):
    fetched = served.ours() | {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert [served.ask("GET", path, fetched)[0] for path in [*FILES, *READ]] == [403] * 7
    followed = {"Host": served.host, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert served.ask("GET", "/", followed)[0] == 200, "a link from elsewhere leads to the empty page"
    assert served.ask("GET", "/api/store", followed | served.ours())[0] == 403


@pytest.mark.parametrize(
    "token", [None, "", "Bearer ", "Bearer x", "Basic TOKEN", "bearer TOKEN", "Bearer TOKENx", "ü"]
)
def test_without_the_token_nothing_of_the_store_is_told(served, token):
    given = {} if token is None else {"Authorization": token.replace("TOKEN", served.token)}
    for path in READ:
        status, _, body = served.ask("GET", path, {"Host": served.host} | given)
        assert status == 401
        assert b"address that `gradstore explore` printed" in body
    posted = {"Host": served.host, "Origin": f"http://{served.host}"} | given
    assert served.ask("POST", "/api/query", posted, b"{}")[0] == 401


def test_it_listens_on_loopback_alone(served):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port), timeout=5)


@pytest.mark.slow
def test_another_host_is_answered_when_it_was_asked_for(store):
    with serving(store, "--host", "0.0.0.0") as everywhere:
        named = [f"{name}:{everywhere.port}" for name in ("10.1.2.3", socket.gethostname(), "evil.example")]
        found = [everywhere.ask("GET", "/api/store", everywhere.ours() | {"Host": host})[0] for host in named]
        code, said = everywhere.end()
    assert found == [200, 200, 421], "an address cannot be rebound, a name can"
    assert code == 0
    assert "warning: 0.0.0.0 is reached from other machines" in said


# -- what it sends -----------------------------------------------------------------------------------------


def test_every_answer_carries_the_same_headers_and_none_for_other_origins(served):
    foreign = served.ours() | {"Host": "evil.example"}
    answers = [served.ask("GET", path, served.ours()) for path in [*FILES, *READ, "/nowhere", "/api/sample/none"]]
    answers += [served.ask("GET", "/", foreign), served.ask("OPTIONS", "/api/query", served.ours())]
    for status, headers, _ in answers:
        assert {name: headers.get(name.lower()) for name in HEADERS} == HEADERS, status
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert "server" not in headers
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy, "neither eval nor inline scripts or styles"


def test_a_text_of_the_store_is_never_sent_as_a_page(served):
    for path in READ:
        assert served.ask("GET", path, served.ours())[1]["content-type"] == "application/json"
    status, csv = served.query("SELECT question, aliases FROM samples WHERE sample_id = 's0000'", format="csv")
    assert (status, csv) == (200, f'question,aliases\n{HOSTILE},"[""x"", ""y""]"\n')


# -- what it never does ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "OPTIONS", "TRACE"])
def test_no_other_method_is_known(served, method):
    headers = served.ours(Origin=f"http://{served.host}")
    found = {path: served.ask(method, path, headers, b"{}")[0] for path in [*FILES, *READ]}
    assert set(found.values()) == {405}, found
    if method != "POST":
        assert served.ask(method, "/api/query", headers, b"{}")[0] == 405


def test_nothing_is_written(served, store):
    before = digest(store)
    for path in READ:
        assert served.get(path)[0] == 200
    for sql in [
        "DROP TABLE samples",
        "DELETE FROM samples",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
    ]:
        status, said = served.query(sql)
        assert status == 400
        assert "SELECT" in said["error"]
    assert served.query("SELECT * FROM samples")[0] == 200
    assert digest(store) == before


def test_a_body_that_is_no_query_is_refused_in_one_line(served):
    headers = served.ours(Origin=f"http://{served.host}")
    asked = headers | {"Content-Type": "application/json"}
    bodies = [b"", b"[]", b"{}", b'{"sql": 1}', b"\xff", b'{"sql": "' + b"x" * 200_000 + b'"}']
    assert [served.ask("POST", "/api/query", asked, b)[0] for b in bodies] == [400, 400, 400, 400, 400, 413]
    plain = headers | {"Content-Type": "text/plain"}
    assert served.ask("POST", "/api/query", plain, b'{"sql": "SELECT 1"}')[0] == 415, (
        "a form of another page sends this"
    )


# -- what is asked -----------------------------------------------------------------------------------------


def test_rows_come_with_their_types_and_no_more_than_the_limit(served):
    status, found = served.query("SELECT sample_id, ordinal, aliases, split FROM samples ORDER BY sample_id LIMIT 1")
    assert status == 200
    assert found["rows"] == [["s0000", 0, "[x, y]", None]]
    assert [c["type"] for c in found["columns"]] == ["text", "number", "list", "text"]
    assert not found["more"]
    status, found = served.query("SELECT a.sample_id FROM samples a CROSS JOIN samples b")
    assert (len(found["rows"]), found["more"]) == (asking.ROWS, True)


def test_a_wrong_query_says_which_columns_there_are(served):
    status, said = served.query("SELECT nope FROM samples")
    assert status == 400
    assert "nope" in said["error"]
    assert "question" in said["error"]
    assert "\n" not in said["error"]


def test_a_sample_is_found_by_id_and_text(served):
    status, found = served.get("/api/sample/s0000")
    assert (status, found["sample"]["question"], found["probes"]) == (200, HOSTILE, [])
    status, said = served.get("/api/sample/s9")
    assert status == 400
    assert "near ones" in said["error"] or "list some" in said["error"]
    for text in ("NUMBER+17%3F", "17%3F+number"):  # words in any order, and any case
        found = served.get(f"/api/search?text={text}")[1]["samples"]
        assert [s["sample_id"] for s in found] == ["s0017", "s0117", "s0217"]
    found = served.get("/api/search?text=who")[1]
    assert (len(found["samples"]), found["more"]) == (50, True)
    assert served.get("/api/search?text=%20")[0] == 400


def test_a_store_without_probes_has_no_neighbours_and_says_so(served):
    status, said = served.get("/api/explain/s0001")
    assert status == 400
    assert "probe" in said["error"]
    status, found = served.get("/api/figures")
    assert (status, found["figures"]) == (200, {})


@pytest.mark.slow
def test_a_query_that_takes_too_long_is_stopped_and_the_next_one_runs(limited):
    status, said = limited.query(ENDLESS)
    assert (status, said["error"][:15]) == (400, "stopped after 2")
    assert limited.query("SELECT count(*) AS n FROM samples")[1]["rows"] == [[300]]


def test_a_second_query_waits_its_turn(limited):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(limited.query("SELECT count(*) AS n FROM samples"))) for _ in "123"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [value["rows"] for _, value in found] == [[[300]]] * 3


@pytest.mark.slow
def test_a_query_that_needs_too_much_memory_is_stopped_and_the_next_one_runs(store):
    child = Child(60, 256 * MB, "gradstore.explorer.asking")
    try:
        with pytest.raises(QueryError, match="more than 256 MB of memory"):
            child.ask(asking.table, str(store), HUGE)
        assert child.ask(asking.table, str(store), "SELECT 1 AS n FROM samples LIMIT 1")["rows"] == [[1]]
    finally:
        child.close()


@pytest.mark.parametrize(("crash", "said"), [(os._exit, "code 3"), (os.abort, "code -6")])
def test_a_child_that_dies_is_an_error_and_the_next_call_gets_a_new_one(crash, said):
    child = Child(60)
    try:
        with pytest.raises(QueryError, match=said):
            child.ask(crash, *([3] if crash is os._exit else []))
        assert child.ask(abs, -2) == 2
        with pytest.raises(QueryError, match="ZeroDivisionError"):
            child.ask(divmod, 1, 0)
    finally:
        child.close()


@pytest.mark.slow
def test_pages_open_while_the_store_is_written(store, tmp_path):
    writing = tmp_path / "store"
    GradientStore.create(writing)
    stop = threading.Event()

    def write():
        for n in range(10_000):
            if stop.is_set():
                return
            GradientStore.open(writing).write("samples", table([row(n, f"Who is number {n}?")]))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with serving(writing) as served:
            for _ in range(4):
                assert [served.get(path)[0] for path in ("/api/store", "/api/search?text=who")] == [200, 200]
                assert served.query("SELECT count(*) AS n FROM samples")[0] == 200
    finally:
        stop.set()
        writer.join()


# -- how it begins and ends --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_quietly_in_the_middle_of_a_query(store, kind):
    with serving(store) as served:
        served.query("SELECT 1 AS n FROM samples LIMIT 1")
        asked = threading.Thread(target=lambda: _ignore(served.query, ENDLESS))
        asked.start()
        time.sleep(0.5)
        code, said = served.end(kind)
        asked.join()
    assert code == 0
    assert said.splitlines() == ["this address is the key to the page; Ctrl-C ends it"]


def _ignore(function, *arguments):
    with contextlib.suppress(OSError):  # the server went away, as it should
        function(*arguments)


def test_a_port_in_use_is_one_line_with_the_way_out(gradstore, store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, said = gradstore("explore", store, "--port", port, "--no-open")
    assert (code, out) == (1, "")
    assert (
        said == f"error: port {port} of 127.0.0.1 is in use: give another with --port, or --port 0 for any free one\n"
    )


def test_what_cannot_be_served_is_said_in_one_line(gradstore, store, tmp_path):
    assert gradstore("explore", tmp_path / "none", "--no-open")[0] == 1
    code, _, said = gradstore("explore", store, "--selection", "nope", "--no-open")
    assert (code, said) == (1, f"error: no selection 'nope' in {store}: there are none\n")
    with pytest.raises(AddressError, match="give another --host"):
        listening("no.such.name.invalid", 0)
    assert issubclass(AddressError, StoreError.__base__)


def test_its_help_needs_no_web_library():
    code = (
        "import sys; [sys.modules.__setitem__(m, None) for m in ('starlette', 'uvicorn', 'polars', 'lance')]\n"
        "from gradstore.cli.main import main; main(['explore', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing is written" in done.stdout
