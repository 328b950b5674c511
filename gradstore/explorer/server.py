"""Serve the page of one store on one address until Ctrl-C."""

from __future__ import annotations

import errno
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from types import FrameType

import uvicorn

from gradstore.errors import AddressError, StoreError
from gradstore.explorer.app import Explorer, application
from gradstore.explorer.guard import bracketed
from gradstore.explorer.samples import selections
from gradstore.store import GradientStore


def serve(explorer: Explorer, host: str, port: int, *, tell: Callable[[str], None], open_page: bool = False) -> None:
    """Serve until interrupted. ``tell`` gets the address once the server listens; port 0 takes a free one.

    Raises StoreError where there is no store or no such selection, AddressError where the address is taken or is
    not this machine's.
    """
    names = selections(GradientStore.open(explorer.uri))  # before anything is opened
    if explorer.selection is not None and explorer.selection not in names:
        raise StoreError(
            f"no selection {explorer.selection!r} in {explorer.uri}: there are {', '.join(names) or 'none'}"
        )
    token = secrets.token_urlsafe(24)
    with listening(host, port) as listener:
        port = listener.getsockname()[1]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        # Behind the #, the token is sent to nobody: not to this server's log, nor as a referrer.
        address = f"http://{bracketed(shown)}:{port}/#token={token}"
        config = uvicorn.Config(
            application(explorer, host, port, token),
            lifespan="off",
            ws="none",
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody stands before this server, so nobody may say who asks
            timeout_graceful_shutdown=1,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways to end it end it alike
        try:
            explorer.start()
            tell(address)
            if open_page:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            _Server(config, explorer).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn ends in good order, then raises the signal again
            pass
        finally:
            explorer.close()


class _Server(uvicorn.Server):
    """Ends the children as soon as it is told to end, so that no answer waits for them."""

    def __init__(self, config: uvicorn.Config, explorer: Explorer) -> None:
        super().__init__(config)
        self._explorer = explorer

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._explorer.close()
        super().handle_exit(sig, frame)


def listening(host: str, port: int) -> socket.socket:
    """A listening socket. Raises AddressError with the way out."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            reason = f"port {port} of {host} is in use: give another with --port, or --port 0 for any free one"
        elif number == errno.EACCES:
            reason = f"port {port} of {host} is not for this user: give one above 1023 with --port"
        else:
            reason = f"{host}:{port} is no address of this machine ({error.args[-1]}): give another --host"
        raise AddressError(reason) from None
