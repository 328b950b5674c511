"""The explorer as a user starts it: a process with a port of its own, spoken to over HTTP."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "gradstore.cli.main", "explore"]


class Served:
    """A running explorer: its ``address`` (with the token), ``port`` and ``process``."""

    def __init__(self, process, address: str) -> None:
        self.process, self.address = process, address
        self.port = urlsplit(address).port
        self.token = address.partition("#token=")[2]
        self.host = f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, headers: dict | list = (), body: bytes | None = None):
        """Send exactly these headers: (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items() if isinstance(headers, dict) else headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def ours(self, **more) -> dict:
        """The headers that the page itself sends."""
        return {"Host": self.host, "Authorization": f"Bearer {self.token}", **more}

    def get(self, path: str):
        """What the page gets there: (status, value)."""
        status, _, body = self.ask("GET", path, self.ours())
        return status, json.loads(body)

    def query(self, sql: str, **more):
        """What the page gets for a query: (status, value; text where it is not JSON)."""
        headers = self.ours(Origin=f"http://{self.host}") | {"Content-Type": "application/json"}
        status, given, body = self.ask("POST", "/api/query", headers, json.dumps({"sql": sql, **more}).encode())
        return status, json.loads(body) if given["content-type"] == "application/json" else body.decode()

    def end(self, with_signal=signal.SIGINT) -> tuple[int, str]:
        """Interrupt it as Ctrl-C does, the children too: (exit code, what it said on stderr)."""
        os.killpg(self.process.pid, with_signal)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextlib.contextmanager
def serving(store, *options, command=None):
    """Serve a store on a free port until the block ends."""
    words = command or [*COMMAND, str(store), "--port", "0", "--no-open", *options]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        yield Served(process, address)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
        process.communicate()
