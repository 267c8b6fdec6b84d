"""Files of the pages, each under a path that names its version, so browsers keep them for good."""

import gzip
import hashlib
import re
from functools import cache
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from wattstream.domain.errors import NotFoundError

_FOLDER = resources.files("wattstream.web.pages") / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_GOOD = "public, max-age=31536000, immutable"
_CHARTS = "plotly.min.js"


@cache
def _files() -> dict[str, bytes]:
    """Return our own files by name."""
    return {
        file.name: file.read_bytes()
        for file in _FOLDER.iterdir()
        if Path(file.name).suffix in _TYPES
    }


@cache
def static_path() -> str:
    """Return where our own files and the charts' script are, without a slash at the end."""
    mark = hashlib.sha256(version("plotly").encode())
    for name, content in sorted(_files().items()):
        mark.update(name.encode() + content)
    return f"/static/{mark.hexdigest()[:16]}"


@cache
def _charts() -> bytes:
    """Return the script out of the installed package; the package itself is not imported."""
    found = find_spec("plotly")
    if found is None or found.origin is None:  # the wheel names it as a dependency
        raise NotFoundError("the package plotly is not installed", code="not_found")
    return (Path(found.origin).parent / "package_data" / _CHARTS).read_bytes()


@cache
def style_marks() -> list[str]:
    """Return the ids of elements that keep the script from adding styles, which the policy forbids.

    A library inside it looks for its own style element by an id, and adds it where there is none.
    """
    marks = re.findall(rb'getElementById\("([0-9a-f]{64})"\)', _charts())
    return sorted({mark.decode() for mark in marks})


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(_charts() if name == _CHARTS else _files()[name], 6)


def add_static(app: FastAPI) -> None:
    """Add the files; one of another version is answered too, but not kept."""

    @app.get("/static/{mark}/{name}", include_in_schema=False)
    def static(mark: str, name: str, request: Request) -> Response:  # in a thread: it packs
        if name != _CHARTS and name not in _files():
            raise NotFoundError(f"{request.url.path} is not here", code="not_found")
        is_current = static_path() == f"/static/{mark}"
        headers = {
            "Cache-Control": _FOR_GOOD if is_current else "no-store",
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        media_type = f"{_TYPES[Path(name).suffix]}; charset=utf-8"
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(_packed(name), headers=headers, media_type=media_type)
        content = _charts() if name == _CHARTS else _files()[name]
        return Response(content, headers=headers, media_type=media_type)
