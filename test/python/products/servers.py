"""Local HTTP servers for the tests: files with every way of behaving badly, a Zenodo record, a STAC catalogue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Site:
    """What a server has and how it behaves; `asked` are the requests so far: (method, path, Range)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.etag = '"1"'
        self.drop_after: list[int] = []
        """Bytes after which the next answers break off."""
        self.statuses: list[int] = []
        """Statuses of the next answers."""
        self.asked: list[tuple[str, str, str | None]] = []
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        """By path: a function of (address asked, body) to an object for JSON."""
        self.url = ""
        self.headers: list[dict[str, str]] = []


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve a site on a free port of this machine; `site.url` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer(json.loads(body or b"{}"))

        def do_GET(self) -> None:
            self.answer({})

        def answer(self, body: dict[str, Any]) -> None:
            path = self.path.partition("?")[0]
            site.asked.append((self.command, self.path, self.headers.get("Range")))
            site.headers.append(dict(self.headers))
            if site.statuses:
                status = site.statuses.pop(0)
                if status != 200:
                    self.send_error(status)
                    return
            if path in site.handlers:
                content = json.dumps(site.handlers[path](self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/geo+json" if "search" in path else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            if path not in site.files:
                self.send_error(404)
                return
            self.send_file(site.files[path])

        def send_file(self, content: bytes) -> None:
            begin = 0
            asked, unless = self.headers.get("Range"), self.headers.get("If-Range")
            if asked and site.ranges and unless in (None, site.etag):
                begin = int(asked.removeprefix("bytes=").partition("-")[0])
                if begin >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            part = content[begin:]
            self.wfile.write(part[: site.drop_after.pop(0)] if site.drop_after else part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
