"""OpenTelemetry: spans go out where its variables ask for them, else nothing is loaded."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from test_log import Logged
from wattstream.domain.errors import SettingsError
from wattstream.traces import traces_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Provide a collector's URL, and what it was sent."""
    sent: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()


def values(span: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes
    }


def test_requests_and_flushes_are_spans_of_the_clients_trace(
    make_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime.now(UTC).isoformat()
    batch = [{"meterId": f"T{n}", "kwhConsumedAc": 1, "timestamp": at} for n in range(3)]
    with collector() as (url, sent):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        engine = Logged(make_database(), tmp_path / "log")
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "r-1"}
        with httpx.Client(base_url=engine.url, headers=headers) as client:
            assert client.post("/v1/ingest/batch", json=batch).status_code == 201
            assert client.get("/v1/ingest/status/meter/T1").status_code == 200
            assert client.get("/nowhere").status_code == 404
        engine.stop()  # what waits goes out first
    parts = [part for request in sent for part in request.resource_spans]
    assert {
        pair.value.string_value
        for part in parts
        for pair in part.resource.attributes
        if pair.key == "service.name"
    } == {"wattstream"}
    spans = [span for part in parts for scope in part.scope_spans for span in scope.spans]
    named = {span.name: span for span in spans}
    ingest, flush = named["POST /v1/ingest/batch"], named["flush"]
    assert (ingest.trace_id.hex(), ingest.parent_span_id.hex()) == (TRACE, PARENT)
    assert values(ingest)["http.response.status_code"] == 201
    assert values(ingest)["wattstream.request_id"] == "r-1"
    assert values(flush)["wattstream.stream"] == "meter"
    assert values(flush)["wattstream.readings"] == 3
    assert {"wattstream.pack_s", "wattstream.wait_s", "wattstream.write_s"} <= values(flush).keys()
    assert ingest.start_time_unix_nano <= flush.start_time_unix_nano
    assert flush.start_time_unix_nano < flush.end_time_unix_nano <= ingest.end_time_unix_nano
    assert "GET /v1/ingest/status/{type}/{id:path}" in named  # one name for all devices
    assert values(named["GET"])["url.path"] == "/nowhere"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_without_a_wish_for_them_there_are_no_traces(environ: dict[str, str]) -> None:
    assert traces_of(environ) is None


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_cannot_be_had_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=list(environ.values())[-1]):
        traces_of(environ)


def test_without_the_extra_the_start_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not installed')")
    code = "from wattstream.traces import traces_of; traces_of({'OTEL_TRACES_EXPORTER': 'otlp'})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert "SettingsError" in done.stderr
    assert "pip install 'wattstream[otel]'" in done.stderr
