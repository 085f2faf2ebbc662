"""A web server for tests that serves bytes, by range too, and can cut connections."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Site:
    """What is served, what was asked, and how often an answer is cut off half-way."""

    def __init__(self, files: dict[str, bytes], cuts: int = 0, headers: dict[str, str] | None = None) -> None:
        self.files = files
        self.cuts = cuts
        self.headers = headers or {}
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve a site on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            name, asked = self.path.split("?")[0].lstrip("/"), self.headers.get("Range")
            site.asked.append((name, asked))
            content = site.files.get(name)
            if content is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-.*", asked).group(1)) if asked else 0
            if asked and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            for header, value in site.headers.items():
                self.send_header(header, value)
            self.end_headers()
            if not with_body:
                return
            if site.cuts > 0:
                site.cuts -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
