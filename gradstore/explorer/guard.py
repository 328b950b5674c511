"""Who may ask: only a page that this server gave out itself, under its own name, with its own token.

A page of another site can make a browser send requests to 127.0.0.1, and a name that its owner points there
(DNS rebinding) makes the answers readable. Starlette's TrustedHostMiddleware knows neither ports nor IPv6
nor origins, so the rules are here, in one place, for every request.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
HEADERS = {
    # Trusted types: a text can become markup nowhere on the page, not in Vega either (parts.js).
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types default"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: refuses foreign requests with one line of JSON, and gives every answer its headers.

    ``host`` is the name or address the server was told to listen on, ``port`` the one it listens on,
    ``token`` the secret of this run, which every request to /api/ carries as ``Authorization: Bearer``.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, token: str) -> None:
        self._app, self._port, self._token = app, port, token
        self._names = LOOPBACK | {bracketed(host).lower()}
        self._everywhere = host in ("0.0.0.0", "::")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_ours(host):
            return refuse(421, "this server answers to its own name and port only: open the address it printed")
        origin = headers.get("origin")
        if (origin is not None or method == "POST") and origin != f"http://{host}":
            return refuse(403, "this request comes from another page, which may not ask")
        # `none` is an address that was typed in; pages of other ports of this machine are `same-site`
        site, entering = headers.get("sec-fetch-site"), path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in (None, "none", "same-origin") and not entering:
            return refuse(403, "this request comes from another site, which may not ask")
        given = headers.get("authorization", "").encode()
        if path.startswith("/api/") and not secrets.compare_digest(given, f"Bearer {self._token}".encode()):
            return refuse(401, "the token of this run is missing: open the address that `gradstore explore` printed")
        return None

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.lower().rpartition(":")
        if not colon or port.endswith("]"):  # a browser leaves port 80 out
            name, port = host.lower(), "80"
        if port != str(self._port):
            return False
        return name in self._names or (self._everywhere and _is_this_machine(name))


def refuse(status: int, reason: str) -> JSONResponse:
    """An answer in one line."""
    return JSONResponse({"error": reason}, status_code=status)


def bracketed(host: str) -> str:
    """An address as it stands in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _is_this_machine(name: str) -> bool:
    """An address, which no foreign name server can have given out, or this machine's own name."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == socket.gethostname().lower()
    return True
