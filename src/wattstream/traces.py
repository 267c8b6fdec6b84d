"""OpenTelemetry spans of requests and flushes, where its standard variables ask for them."""

from collections.abc import Iterable, Mapping
from typing import Any

import wattstream
from wattstream.domain.errors import SettingsError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
_PARENT = (b"traceparent", b"tracestate")


def traces_of(environ: Mapping[str, str]) -> "Traces | None":
    """Return what makes spans, or None where the variables do not ask for them.

    Raises:
        SettingsError: They ask, and the extra is not installed, or for what it has not.
    """
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    is_asked = any(environ.get(name) for name in _ENDPOINTS) or exporter not in ("", "none")
    if not is_asked or exporter == "none" or environ.get("OTEL_SDK_DISABLED") == "true":
        return None
    wrong = [
        f"{name}={value}"
        for name, value, allowed in (
            ("OTEL_TRACES_EXPORTER", exporter, "otlp"),
            *((name, environ.get(name, ""), "http/protobuf") for name in _PROTOCOLS),
        )
        if value not in ("", allowed)
    ]
    if wrong:
        raise SettingsError(
            f"{', '.join(wrong)}: traces go out as OTEL_TRACES_EXPORTER=otlp with "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf only"
        )
    return Traces(None if environ.get("OTEL_SERVICE_NAME") else "wattstream")


class Traces:
    """Makes a span of what is over; it is sent by a thread of its own, now and then."""

    def __init__(self, service: str | None) -> None:
        """Begin; `service` names the engine where no variable does.

        Raises:
            SettingsError: OpenTelemetry is not installed.
        """
        try:
            # An optional extra.
            from opentelemetry import trace  # noqa: PLC0415
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
                TraceContextTextMapPropagator,
            )
        except ImportError as error:
            raise SettingsError(
                "OTEL_… variables ask for traces, which need OpenTelemetry: "
                "pip install 'wattstream[otel]', or set OTEL_SDK_DISABLED=true"
            ) from error
        own = {"service.version": wattstream.__version__}
        resource = Resource.create(own | ({"service.name": service} if service else {}))
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("wattstream", wattstream.__version__)
        self._context = TraceContextTextMapPropagator()
        self._kind = trace.SpanKind
        self._error = trace.Status(trace.StatusCode.ERROR)

    def close(self) -> None:
        """Send what waits, and end."""
        self._provider.shutdown()

    def request(
        self,
        scope: Mapping[str, Any],
        *,
        route: str | None,
        status: int,
        request_id: bytes,
        start_ns: int,
        end_ns: int,
    ) -> None:
        """Make the span of a request, part of the client's trace where it names one.

        Args:
            scope: Of ASGI.
            route: The path with names for what differs; None where nothing is there.
            status: Of the answer; 0 where the client left before it.
            request_id: Its id in the log.
            start_ns: Since 1970.
            end_ns: Since 1970.
        """
        method = scope["method"]
        # A path that is not here may be anything, and is no name.
        where = {} if route is None else {"http.route": route}
        span = self._tracer.start_span(
            method if route is None else f"{method} {route}",
            context=self._context.extract(_parent(scope["headers"])),
            kind=self._kind.SERVER,
            start_time=start_ns,
            attributes={
                "http.request.method": method,
                "url.path": scope["path"],
                "http.response.status_code": status,
                "wattstream.request_id": request_id.decode(),
                **where,
            },
        )
        if status == 0 or status >= 500:
            span.set_status(self._error)
        span.end(end_ns)

    def flush(
        self, facts: Mapping[str, str | int | float], start_ns: int, end_ns: int, *, failed: bool
    ) -> None:
        """Make the span of a flush, which may hold readings of many requests."""
        span = self._tracer.start_span(
            "flush",
            start_time=start_ns,
            attributes={f"wattstream.{name}": value for name, value in facts.items()},
        )
        if failed:
            span.set_status(self._error)
        span.end(end_ns)


def _parent(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers if name in _PARENT}
