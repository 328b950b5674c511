"""The routes: one page with its scripts, what it reads of the store, and one POST that runs a query."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from threading import Thread
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gradstore.errors import GradstoreError
from gradstore.explorer import asking, samples
from gradstore.explorer.children import MB, Child
from gradstore.explorer.guard import Guard, refuse
from gradstore.explorer.reading import finite, read
from gradstore.pipelines.cookbook import cookbook

QUERY_BYTES = 100_000
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/parts.js": ("parts.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/sample.js": ("sample.js", "text/javascript"),
    "/ask.js": ("ask.js", "text/javascript"),
}


@dataclass(frozen=True)
class Limits:
    """What one question may take: seconds of a query and of a chart or explanation, bytes of a query."""

    query_seconds: float = 20
    kernel_seconds: float = 600
    query_memory: int = 2048 * MB


@dataclass
class Explorer:
    """One store, and the two children that are asked about it."""

    uri: str
    selection: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        preload = "gradstore.explorer.asking"
        self.queries = Child(self.limits.query_seconds, self.limits.query_memory, preload)
        self.kernels = Child(self.limits.kernel_seconds, None, preload)
        self._vega = b""

    def start(self) -> None:
        """Start the children, which takes seconds, while the page is on its way."""
        for child in (self.queries, self.kernels):
            Thread(target=child.start, daemon=True).start()

    def close(self) -> None:
        """End the children."""
        self.queries.close()
        self.kernels.close()

    # -- what is read ------------------------------------------------------------------------------------

    def store(self, request: Request) -> Response:
        """What is in the store, the selection to begin with, and the limits of a query."""
        limits = {
            "rows": asking.ROWS,
            "seconds": self.limits.query_seconds,
            "megabytes": self.limits.query_memory // MB,
        }
        found = read(self.uri, samples.overview)
        chosen = self.selection or (found["selections"][0] if len(found["selections"]) == 1 else None)
        return answer({"store": self.uri, "selection": chosen, "limits": limits, **found})

    def cookbook(self, request: Request) -> Response:
        """The cookbook, asked of the chosen selection and another."""
        names = read(self.uri, samples.selections)
        chosen = request.query_params.get("selection") or next(iter(names), "grait")
        other = next((name for name in names if name != chosen), chosen)
        return answer([asdict(entry) for entry in cookbook(chosen, other)])

    def figures(self, request: Request) -> Response:
        """The charts of a selection, or of the store, and their themes."""
        return answer(self.kernels.ask(asking.figures, self.uri, request.query_params.get("selection")))

    def vega(self, request: Request) -> Response:
        """Vega's script, bundled once a run."""
        self._vega = self._vega or self.kernels.ask(asking.vega).encode()
        return Response(self._vega, media_type="text/javascript")

    def sample(self, request: Request) -> Response:
        """One sample with its probes and its rows in selections."""
        return answer(read(self.uri, samples.sample, request.path_params["sample_id"]))

    def explain(self, request: Request) -> Response:
        """Who pushes one sample towards refusing, and who against."""
        selection = request.query_params.get("selection")
        return answer(self.kernels.ask(asking.explain, self.uri, request.path_params["sample_id"], selection))

    def search(self, request: Request) -> Response:
        """Samples by words of their question, or the start of their id."""
        return answer(read(self.uri, samples.search, request.query_params.get("text", "")))

    # -- what is asked -----------------------------------------------------------------------------------

    def query(self, asked: dict[str, Any]) -> Response:
        """Run one query in its child: rows as JSON, or as CSV."""
        if asked.get("format") == "csv":
            return Response(self.queries.ask(asking.csv, self.uri, asked["sql"]), media_type="text/csv")
        started = time.perf_counter()
        found = self.queries.ask(asking.table, self.uri, asked["sql"])
        return answer(found | {"seconds": round(time.perf_counter() - started, 3)})


def application(explorer: Explorer, host: str, port: int, token: str) -> Starlette:
    """The ASGI application for a server at ``host``:``port``. Nothing in it writes."""
    reading = {
        "/vega.js": explorer.vega,
        "/api/store": explorer.store,
        "/api/cookbook": explorer.cookbook,
        "/api/figures": explorer.figures,
        "/api/sample/{sample_id}": explorer.sample,
        "/api/explain/{sample_id}": explorer.explain,
        "/api/search": explorer.search,
    }
    routes = [
        *(Route(path, functools.partial(_file, name, kind)) for path, (name, kind) in FILES.items()),
        *(Route(path, _plainly(endpoint)) for path, endpoint in reading.items()),
        Route("/favicon.ico", lambda request: Response(status_code=204)),
        Route("/api/query", functools.partial(_posted, explorer), methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, host=host, port=port, token=token)])


def answer(value: Any) -> JSONResponse:
    """JSON, with NaN and infinity as null: JavaScript's parser knows neither."""
    return JSONResponse(finite(value))


def _plainly(endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """An endpoint whose failures become one line with a status: 400 for what a user can mend, 500 otherwise."""

    @functools.wraps(endpoint)
    def guarded(request: Request) -> Response:
        return _answered(endpoint, request)

    return guarded


def _answered(function: Callable[..., Response], *arguments: Any) -> Response:
    try:
        return function(*arguments)
    except GradstoreError as error:
        return refuse(400, str(error))
    except Exception as error:  # of a library: the page says so, and the server goes on
        return refuse(500, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


async def _posted(explorer: Explorer, request: Request) -> Response:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return refuse(415, "a query comes as application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > QUERY_BYTES:
            return refuse(413, f"a query has at most {QUERY_BYTES} bytes")
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get("sql"), str):
        return refuse(400, 'expected {"sql": "SELECT …"}')
    return await run_in_threadpool(_answered, explorer.query, asked)


def _file(name: str, kind: str, request: Request) -> Response:
    return Response(files("gradstore.explorer").joinpath(name).read_bytes(), media_type=kind)
