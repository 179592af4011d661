"""A local web server for the files of a test."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files; `broken` ends before its Content-Length, `endless` never ends.

    `redirect?TARGET` redirects to the target.
    """

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.endswith("broken"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        elif self.path.endswith("endless"):
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
        elif "redirect?" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
        else:
            super().do_GET()


@contextmanager
def serving(folder: Path, handler: type[BaseHTTPRequestHandler] | None = None) -> Iterator[str]:
    """Serve `folder`, or what another handler sends, and yield the URL."""
    serve = handler or partial(QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), serve)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_address() -> str:
    """Return a URL on which no server listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        return f"http://127.0.0.1:{server.server_port}"
