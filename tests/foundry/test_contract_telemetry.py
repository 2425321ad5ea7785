"""What a hosted agent tells of its turns: spans, metrics and log records, and where it sends them."""

import gzip
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry import baggage
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent_host import WorkflowBuilder, WorkflowContext, executor, telemetry
from agent_host.cli import exporting
from agent_host.cli.exporting import export
from agent_host.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
TICKING = f"{Path(__file__).parents[1] / 'server' / 'ticking.py'}:workflow"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of the package that have ended."""
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("agent_host"))
    return kept


async def test_a_turn_is_a_span_with_the_attributes_of_its_agent(
    site: Any, post: Any, spans: InMemorySpanExporter
) -> None:
    """Agent, project, tenant, session, conversation and response stand in it, and how the turn has ended."""
    made = (await post(input="x", conversation="c1", agent_session_id="S")).json()
    [span] = spans.get_finished_spans()
    assert span.name == "invoke_agent desk"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "AzureAI Hosted Agents",
        "gen_ai.agent.name": "desk",
        "gen_ai.agent.id": "a-1",
        "gen_ai.agent.version": "3",
        "gen_ai.response.id": made["id"],
        "gen_ai.conversation.id": "c1",
        "microsoft.foundry": "True",
        "microsoft.foundry.project.id": "/project",
        "microsoft.session.id": "S",
        "microsoft.tenant.id": "t-1",
        "agent_host.turn.status": "completed",
    }
    assert span.status.is_unset


@pytest.mark.parametrize("background", [False, True])
async def test_a_turn_belongs_to_the_trace_of_its_caller(
    site: Any, post: Any, spans: InMemorySpanExporter, eventually: Any, background: bool
) -> None:
    """Also one that goes on in the background; the trace is the request's id."""
    answer = await post(input="x", background=background, headers={"traceparent": TRACEPARENT})
    [span] = await eventually(spans.get_finished_spans, "a span")
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE == answer.headers["x-request-id"]
    await post(input="x")
    [other] = [each for each in spans.get_finished_spans() if each is not span]
    assert other.context is not None
    assert f"{other.context.trace_id:032x}" != TRACE


async def test_a_failed_turn_is_a_span_of_an_error(post: Any, spans: InMemorySpanExporter) -> None:
    """Its status says so, and its attribute what became of the response."""
    await post(input="fail")
    [span] = spans.get_finished_spans()
    assert not span.status.is_ok
    assert not span.status.is_unset
    assert (span.attributes or {})["agent_host.turn.status"] == "failed"


async def test_calls_of_a_turn_carry_what_it_is_as_baggage(serve_app: Any, spans: InMemorySpanExporter) -> None:
    """Whoever is called knows the response, the conversation and the request; nothing of it is longer than 256."""

    @executor
    async def carried(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(json.dumps(dict(baggage.get_all())))

    site = await serve_app(WorkflowBuilder(start_executor=carried, name="carried").build())
    headers = {"x-request-id": "r-1", "baggage": "mine=1"}
    body = (await site.http.post("/responses", json={"input": "x"}, headers=headers)).json()
    told = json.loads(body["output"][0]["content"][0]["text"])
    prefix = "azure.ai.agentserver."
    assert told == {
        "mine": "1", f"{prefix}response_id": body["id"], f"{prefix}streaming": "False", f"{prefix}x-request-id": "r-1",
    }  # fmt: skip
    with telemetry.carrying({"long": "x" * 300}):
        assert baggage.get_baggage("long") == "x" * 256


# --- Where it is sent --------------------------------------------------------------------------------------------


@dataclass
class Collector:
    """Takes what is posted to it."""

    url: str
    taken: list[tuple[str, bytes]] = field(default_factory=list)

    def bodies(self, path: str) -> list[bytes]:
        return [body for at, body in self.taken if at.startswith(path)]


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            collected.taken.append((self.path, gzip.decompress(body) if packed else body))
            answer = b'{"itemsReceived": 1, "itemsAccepted": 1, "errors": []}'
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        collected = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collected
        server.shutdown()
        thread.join()


TALKATIVE = f"{Path(__file__).with_name('talkative.py')}:workflow"


def one_turn(serve: Any, target: str = TICKING, **environment: str) -> Any:
    """A host that has taken one turn and has stopped."""
    platform = {"FOUNDRY_HOSTING_ENVIRONMENT": "hosted", "FOUNDRY_AGENT_NAME": "desk", "OTEL_SERVICE_NAME": "other"}
    host = serve(target, env={**platform, **environment})
    call = {"x-agent-foundry-call-id": "secret-call"}
    answer = httpx2.post(f"http://127.0.0.1:{host.port}/responses", json={"input": "x 1 0"}, headers=call)
    assert answer.json()["status"] == "completed"
    assert host.stop() < 10
    return host


def attributes(of: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in of.attributes}


def test_a_collector_is_sent_spans_metrics_and_log_records(serve: Any, collector: Collector) -> None:
    """Under the agent's name, whatever else the environment calls the service; a stop sends what is left."""
    one_turn(serve, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    traces = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies("/v1/traces")]
    [resource] = [each for request in traces for each in request.resource_spans]
    assert attributes(resource.resource)["service.name"] == "desk"
    [span] = resource.scope_spans[0].spans
    assert (span.name, attributes(span)["microsoft.foundry"]) == ("invoke_agent desk", "True")
    metrics = [ExportMetricsServiceRequest.FromString(body) for body in collector.bodies("/v1/metrics")]
    named = {
        metric.name for request in metrics for resource in request.resource_metrics
        for scope in resource.scope_metrics for metric in scope.metrics
    }  # fmt: skip
    assert "agent_host.turn.duration" in named
    logs = [ExportLogsServiceRequest.FromString(body) for body in collector.bodies("/v1/logs")]
    records = [
        record for request in logs for resource in request.resource_logs
        for scope in resource.scope_logs for record in scope.log_records
    ]  # fmt: skip
    assert [record for record in records if record.body.string_value.startswith("POST /responses 200")]
    assert {attributes(record)["microsoft.foundry"] for record in records} == {"True"}
    assert not [body for _, body in collector.taken if b"secret-call" in body]


def test_what_the_users_program_tells_is_sent_too(serve: Any, collector: Collector) -> None:
    """Its spans have the platform's mark, and its records reach the log and the collector; libraries are silent."""
    host = one_turn(serve, TALKATIVE, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    traces = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies("/v1/traces")]
    spans = {
        span.name: attributes(span) for request in traces for resource in request.resource_spans
        for scope in resource.scope_spans for span in scope.spans
    }  # fmt: skip
    assert spans["looking it up"] == {"microsoft.foundry": "True"}
    sent = b"".join(collector.bodies("/v1/logs"))
    for record in ("INFO    heard x 1 0", "WARNING heard it through a library"):
        assert record in host.log
        assert record.partition("heard")[2].encode() in sent
    for silent in (b"a detail", b"a call of a library"):
        assert silent not in sent and silent.decode() not in host.log


def test_a_record_that_does_not_fit_its_text_ends_no_turn(serve: Any, collector: Collector) -> None:
    """The mistake is shown where the log is shown, and the turn completes."""
    host = one_turn(serve, TALKATIVE, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, TALKATIVE_MISTAKE="1")
    assert "not all arguments converted" in host.log


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_one_signal_alone_can_be_sent(serve: Any, collector: Collector, signal: str) -> None:
    """Where only its own variable names a collector."""
    one_turn(serve, **{f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT": f"{collector.url}/of/{signal}"})
    assert {path for path, _ in collector.taken} == {f"/of/{signal}"}


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"])
def test_another_protocol_is_warned_of(serve: Any, collector: Collector, variable: str) -> None:
    """As what takes it would not understand what is sent."""
    host = one_turn(serve, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **{variable: "grpc"})
    [line] = [line for line in host.log.splitlines() if " WARNING " in line]
    assert "asks for grpc, but only http/protobuf is sent" in line


@pytest.mark.parametrize(("mode", "signs_in"), [("Entra", True), ("", False)])
def test_application_insights_is_signed_in_to_if_it_asks(
    monkeypatch: pytest.MonkeyPatch, mode: str, signs_in: bool
) -> None:
    """Where it takes no telemetry from whoever has its connection string, the agent's identity goes with it."""
    from azure.identity import DefaultAzureCredential
    from azure.monitor.opentelemetry import exporter

    made: list[dict[str, Any]] = []
    for name in ("AzureMonitorTraceExporter", "AzureMonitorMetricExporter", "AzureMonitorLogExporter"):
        monkeypatch.setattr(exporter, name, lambda **told: made.append(told))
    monkeypatch.setattr(exporting, "_send", lambda exporters, name, marks: lambda: None)
    told = {"APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=1", "APPLICATIONINSIGHTS_AUTH_MODE": mode}
    export(Settings.from_environment(told), "desk", {})()
    assert len(made) == 3
    assert {isinstance(each.get("credential"), DefaultAzureCredential) for each in made} == {signs_in}


def test_being_ready_is_no_news_on_a_platform(serve: Any) -> None:
    """It asks all the time; elsewhere each request has its line."""
    for platform, lines in (({"FOUNDRY_HOSTING_ENVIRONMENT": "hosted"}, 0), ({}, 1)):
        host = serve(TICKING, env=platform)
        assert httpx2.get(f"http://127.0.0.1:{host.port}/readiness").status_code == 200
        host.stop()
        assert host.log.count("/readiness 200") == lines


def test_application_insights_is_sent_the_same(serve: Any, collector: Collector) -> None:
    """Where the platform has injected its connection string."""
    told = f"InstrumentationKey=00000000-0000-0000-0000-000000000001;IngestionEndpoint={collector.url}/"
    one_turn(
        serve, APPLICATIONINSIGHTS_CONNECTION_STRING=told, APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL="true",
    )  # fmt: skip
    sent = b"".join(collector.bodies("/v2.1/track"))
    assert b"invoke_agent desk" in sent
    assert b"agent_host.turn.duration" in sent
    assert b"POST /responses 200" in sent


def test_a_collector_that_is_away_keeps_no_host_alive(serve: Any) -> None:
    """The host takes its turns and stops in time."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and never answers
        host = one_turn(serve, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{deaf.getsockname()[1]}")
    assert host.log.rstrip().endswith("stopped")


def test_a_connection_string_that_is_none_ends_the_start(run_cli: Any) -> None:
    """With one line that names the variable."""
    done = run_cli("serve", TICKING, "--port", "0", env={"APPLICATIONINSIGHTS_CONNECTION_STRING": "nonsense"})
    assert done.returncode == 1
    assert re.search("^Error: APPLICATIONINSIGHTS_CONNECTION_STRING cannot be used", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_without_the_exporters_a_host_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The platform injects its connection string into every container: one that cannot use it serves all the same."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)
    export(Settings(otlp_signals=("logs",)), "desk", {})()
    [record] = caplog.records
    assert "workflow-agent-host[otel]" in record.getMessage()


def test_nothing_is_loaded_where_nothing_is_to_be_sent() -> None:
    """Neither the SDK nor an exporter."""
    program = (
        "import sys\nfrom agent_host.cli.exporting import export\nfrom agent_host.settings import Settings\n"
        "export(Settings(), 'desk', {})()\nprint(sorted(name for name in sys.modules if 'opentelemetry.' in name))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "sdk" not in done.stdout
    assert "exporter" not in done.stdout
