"""Serves the viewer's page and its tiles to this machine only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from otbsr import __version__
from otbsr.errors import OtbsrError, UsageError
from otbsr.view.layers import COMPOSITES, Layer, Scene
from otbsr.view.tiles import SIDE, Pyramid, colour_table, render, value_at

ADDRESS = "127.0.0.1"
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/ol.js": ("ol.js", "text/javascript; charset=utf-8"),
    "/ol.css": ("ol.css", "text/css; charset=utf-8"),
}
"""The only files that are served, with their types."""
TILE = re.compile(r"^/tile/(\d{1,4})/(\d{1,4})/(\d{1,2})/(-?\d{1,7})/(-?\d{1,7})\.png$")
VALUE = re.compile(r"^/value/(\d{1,4})$")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def describe_layer(layer: Layer) -> dict[str, Any]:
    """What the page needs to know of a layer."""
    found: dict[str, Any] = {"title": layer.title, "kind": layer.kind, "spacing": layer.grid.dx, "size": [layer.grid.width, layer.grid.height]}
    if layer.kind == "score":
        table = colour_table(layer)
        found |= {"span": layer.span, "unit": layer.unit, "colours": ["rgb({}, {}, {})".format(*table[value][:3]) for value in (0, 64, 128, 191, 255)]}
    if layer.kind == "classes":
        found["classes"] = [{"code": code, "name": name, "colour": colour} for code, name, colour in layer.classes]
    return found


class Viewer(ThreadingHTTPServer):
    """The server; `url` is the page's address. Raises `UsageError` when the port is taken. Close it, or use it in a `with` statement."""

    daemon_threads = True

    def __init__(self, scenes: Sequence[Scene], port: int = 0) -> None:
        self.scenes = list(scenes)
        self.pyramids = [Pyramid.over([layer.grid for layer in scene.layers]) for scene in scenes]
        self.tile = lru_cache(maxsize=512)(self.make_tile)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise UsageError(f"port {port} of {ADDRESS} cannot be used ({error.strerror}); give another --port, or none for a free one") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def about(self) -> dict[str, Any]:
        """What the page needs to know: scenes with their layers and tile pyramids."""
        scenes = []
        for scene, pyramid in zip(self.scenes, self.pyramids, strict=True):
            scenes.append({
                "name": scene.name, "left": scene.left, "right": scene.right, "remarks": list(scene.remarks), "units": scene.units,
                "layers": [describe_layer(layer) for layer in scene.layers],
                "origin": [pyramid.left, pyramid.top], "extent": list(pyramid.extent), "resolutions": list(pyramid.resolutions), "side": SIDE,
            })  # fmt: skip
        return {"version": __version__, "scenes": scenes, "composites": list(COMPOSITES)}

    def make_tile(self, scene: int, layer: int, zoom: int, column: int, row: int, composite: str) -> bytes:
        """A tile as PNG; raises `IndexError` for what is not there, `OtbsrError` for files that cannot be read."""
        one = self.scenes[scene]
        return render(one, one.layers[layer], self.pyramids[scene].tile(zoom, column, row), composite)


class Handler(BaseHTTPRequestHandler):
    """Answers GET for the page, /scenes.json, /tile/SCENE/LAYER/Z/X/Y.png?composite= and /value/SCENE?x=&y=; nothing else."""

    server: Viewer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """One request."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in (ADDRESS, "localhost"):  # a foreign page whose name was made to lead here
            self.answer(HTTPStatus.FORBIDDEN, b"only for this machine", "text/plain")
            return
        address = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        try:
            if address.path in PAGE:
                name, kind = PAGE[address.path]
                self.answer(HTTPStatus.OK, (files("otbsr.view") / "page" / name).read_bytes(), kind)
            elif address.path == "/scenes.json":
                self.answer(HTTPStatus.OK, json.dumps(self.server.about()).encode(), "application/json")
            elif match := TILE.match(address.path):
                scene, layer, zoom, column, row = map(int, match.groups())
                composite = query.get("composite", "true")
                self.answer(HTTPStatus.OK, self.server.tile(scene, layer, zoom, column, row, composite), "image/png")
            elif match := VALUE.match(address.path):
                x, y = float(query["x"]), float(query["y"])
                if not (math.isfinite(x) and math.isfinite(y)):
                    raise ValueError(query)
                values = [value_at(layer, x, y) for layer in self.server.scenes[int(match[1])].layers]
                self.answer(HTTPStatus.OK, json.dumps(values).encode(), "application/json")
            else:
                self.answer(HTTPStatus.NOT_FOUND, b"not here", "text/plain")
        except (IndexError, KeyError, ValueError):
            self.answer(HTTPStatus.NOT_FOUND, b"not here", "text/plain")
        except OtbsrError as error:
            self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), "text/plain; charset=utf-8")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for key, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of requests."""
