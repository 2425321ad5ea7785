"""Sending traces, metrics and logs to where the settings say: Application Insights, an OTLP collector, or both.

The SDK and the exporters are the extra `otel`; they are loaded where something is to be sent, and only then.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_host.errors import SettingsError
from agent_host.settings import OTLP_PROTOCOL, Settings

log = logging.getLogger("agent_host")

_SENDERS = ("opentelemetry", "azure", "urllib3")
"""Loggers of the exporters and what they call: what they say of sending would have to be sent again."""
_SEVERITIES = ((logging.CRITICAL, 21), (logging.ERROR, 17), (logging.WARNING, 13), (logging.INFO, 9))


@dataclass(frozen=True, slots=True)
class _Exporters:
    spans: Sequence[Any]
    metrics: Sequence[Any]
    logs: Sequence[Any]


def export(settings: Settings, name: str, marks: Mapping[str, str]) -> Callable[[], None]:
    """Begin to send what the process tells of itself under a service's name, each span and record with the `marks`.

    What is returned sends what is left, which takes its time where nobody listens. Raises `SettingsError` for a
    connection string that is none.
    """
    if not (settings.otlp_signals or settings.application_insights):
        return lambda: None
    try:
        exporters = _exporters(settings)
    except ImportError as error:
        log.warning("nothing is exported: %s; install workflow-agent-host[otel]", error)
        return lambda: None
    return _send(exporters, name, marks)


def _exporters(settings: Settings) -> _Exporters:
    spans: list[Any] = []
    metrics: list[Any] = []
    logs: list[Any] = []
    # They read addresses, headers and the rest of their variables themselves.
    if "traces" in settings.otlp_signals:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        spans.append(OTLPSpanExporter())
    if "metrics" in settings.otlp_signals:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        metrics.append(OTLPMetricExporter())
    if "logs" in settings.otlp_signals:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        logs.append(OTLPLogExporter())
    if settings.otlp_signals and settings.otlp_protocol != OTLP_PROTOCOL:
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL asks for %s, but only %s is sent; name an address that takes it, mostly on "
            "port 4318", settings.otlp_protocol, OTLP_PROTOCOL,
        )  # fmt: skip
    if settings.application_insights:
        from azure.monitor.opentelemetry import exporter as azure

        told: dict[str, Any] = {"connection_string": settings.application_insights}
        if settings.application_insights_entra:
            from azure.identity import DefaultAzureCredential

            told["credential"] = DefaultAzureCredential()
        try:
            spans.append(azure.AzureMonitorTraceExporter(**told))
            metrics.append(azure.AzureMonitorMetricExporter(**told))
            logs.append(azure.AzureMonitorLogExporter(**told))
        except ValueError as error:
            raise SettingsError(f"APPLICATIONINSIGHTS_CONNECTION_STRING cannot be used: {error}") from None
    return _Exporters(spans, metrics, logs)


def _send(exporters: _Exporters, name: str, marks: Mapping[str, str]) -> Callable[[], None]:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": name})
    readers = [PeriodicExportingMetricReader(each) for each in exporters.metrics]
    # None ends with the process by itself: where nobody listens, that would keep it alive.
    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    measures = MeterProvider(readers, resource, shutdown_on_exit=False)
    records = LoggerProvider(resource=resource, shutdown_on_exit=False)
    spans.add_span_processor(_marking(marks))
    for each in exporters.spans:
        spans.add_span_processor(BatchSpanProcessor(each))
    for each in exporters.logs:
        records.add_log_record_processor(BatchLogRecordProcessor(each))
    trace.set_tracer_provider(spans)
    metrics.set_meter_provider(measures)
    logging.getLogger().addHandler(_Records(records.get_logger("agent_host"), marks))

    def send_the_rest() -> None:
        for provider in (spans, measures, records):
            provider.force_flush()

    return send_the_rest


def _marking(marks: Mapping[str, str]) -> Any:
    """A span processor that puts the marks on every span, whoever begins it."""
    from opentelemetry.sdk.trace import Span, SpanProcessor

    class Marking(SpanProcessor):
        def on_start(self, span: Span, parent_context: Any = None) -> None:
            span.set_attributes(marks)

    return Marking()


class _Records(logging.Handler):
    """Gives the log of the process to an OpenTelemetry logger."""

    def __init__(self, logger: Any, marks: Mapping[str, str]) -> None:
        super().__init__()
        self._logger = logger
        self._marks = marks

    def emit(self, record: logging.LogRecord) -> None:
        from opentelemetry._logs import LogRecord, SeverityNumber

        if record.name.partition(".")[0] in _SENDERS:
            return
        severity = next((number for level, number in _SEVERITIES if record.levelno >= level), 5)
        try:
            body = record.getMessage()
        except Exception:  # noqa: BLE001  # what a user's program logs may not fit its text, which must not end a turn
            self.handleError(record)
            return
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_text=record.levelname,
                severity_number=SeverityNumber(severity),
                body=body,
                attributes={**self._marks, "logger.name": record.name},
                exception=record.exc_info[1] if record.exc_info else None,
            )
        )
