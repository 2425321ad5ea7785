"""Sending traces, metrics and logs to where the settings say: Application Insights, an OTLP collector, or both.

The SDK and the exporters are the extra `otel`; they are loaded where something is to be sent, and only then.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_host.errors import SettingsError
from agent_host.settings import Settings

log = logging.getLogger("agent_host")

_SEVERITIES = ((logging.CRITICAL, 21), (logging.ERROR, 17), (logging.WARNING, 13), (logging.INFO, 9))


@dataclass(frozen=True, slots=True)
class _Exporters:
    spans: Sequence[Any]
    metrics: Sequence[Any]
    logs: Sequence[Any]


def export(settings: Settings, name: str, marks: Mapping[str, str]) -> Callable[[], None]:
    """Begin to send what the host tells of itself under a service's name, each log record with the `marks`.

    What is returned sends what is left, which takes its time where nobody listens. Raises `SettingsError` for a
    connection string that is none.
    """
    if not (settings.otlp_endpoint or settings.application_insights):
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
    if settings.otlp_endpoint:
        # They read the endpoint, the headers and the rest of their variables themselves.
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        spans.append(OTLPSpanExporter())
        metrics.append(OTLPMetricExporter())
        logs.append(OTLPLogExporter())
    if settings.application_insights:
        from azure.monitor.opentelemetry import exporter as azure

        told = {"connection_string": settings.application_insights}
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
    for each in exporters.spans:
        spans.add_span_processor(BatchSpanProcessor(each))
    for each in exporters.logs:
        records.add_log_record_processor(BatchLogRecordProcessor(each))
    trace.set_tracer_provider(spans)
    metrics.set_meter_provider(measures)
    log.addHandler(_Records(records.get_logger("agent_host"), marks))

    def send_the_rest() -> None:
        for provider in (spans, measures, records):
            provider.force_flush()

    return send_the_rest


class _Records(logging.Handler):
    """Gives the package's log to an OpenTelemetry logger."""

    def __init__(self, logger: Any, marks: Mapping[str, str]) -> None:
        super().__init__()
        self._logger = logger
        self._marks = marks

    def emit(self, record: logging.LogRecord) -> None:
        from opentelemetry._logs import LogRecord, SeverityNumber

        severity = next((number for level, number in _SEVERITIES if record.levelno >= level), 5)
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_text=record.levelname,
                severity_number=SeverityNumber(severity),
                body=record.getMessage(),
                attributes={**self._marks, "logger.name": record.name},
                exception=record.exc_info[1] if record.exc_info else None,
            )
        )
