"""The log: one line for each request, and what went wrong once."""

import logging
import re
from typing import Any, Never

import pytest

from agent_host import WorkflowBuilder, WorkflowContext, executor


@executor
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    if text == "fail":
        raise KeyError("no such thing")
    await ctx.yield_output(text)


@pytest.fixture
async def site(serve_app: Any) -> Any:
    return await serve_app(WorkflowBuilder(start_executor=echo, name="echo").build(), api_key="none")


REQUESTS = [
    ("POST", "/responses", {"input": "x"}, 200, r"resp_\w+ completed"),
    ("POST", "/v1/responses", {"input": "x", "stream": True}, 200, r"resp_\w+ completed"),
    ("POST", "/responses", {"input": "fail"}, 200, r"resp_\w+ failed"),
    ("POST", "/responses", {"input": 1}, 400, "invalid_type"),
    ("GET", "/responses/resp_1", None, 404, "response_not_found"),
    ("GET", "/nowhere", None, 404, "not_found"),
    ("GET", "/responses", None, 405, "method_not_allowed"),
    ("GET", "/readiness", None, 200, ""),
    ("GET", "/v1/x%0A00:00:00%20INFO%20forged", None, 404, "not_found"),
    ("GET", "/v1/models/%1Bforged%C2%9B", None, 404, "model_not_found"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "about"), REQUESTS)
async def test_a_request_is_one_line_of_the_log(
    site: Any, caplog: pytest.LogCaptureFixture, method: str, path: str, body: Any, status: int, about: str
) -> None:
    """It tells method, path, status, time, and which response or which error it was."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    answer = await site.http.request(method, path, json=body, headers={"authorization": "Bearer none"})
    assert answer.status_code == status
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO and of_host(record)]
    assert len(lines) == 1
    assert re.fullmatch(rf"{method} {path} {status} [0-9.]+ ms ?{about}", lines[0]), lines[0]
    others = [record for record in caplog.records if record.levelno > logging.INFO]
    assert len(others) == (1 if "failed" in about else 0)


async def test_a_refused_key_is_one_line_of_the_log(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also who is turned away is seen."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    await site.http.post("/responses%0Aforged", json={"input": "x"})
    [line] = [record.getMessage() for record in caplog.records if of_host(record)]
    assert re.fullmatch(r"POST /responses%0Aforged 401 [0-9.]+ ms invalid_api_key", line)


def of_host(record: logging.LogRecord) -> bool:
    return record.name.startswith("agent_host")


def test_the_log_of_a_process_is_readable(serve: Any, tmp_path: Any) -> None:
    """Start, one line per request, the traceback of a user's error once with the user's line, and the end."""
    app = tmp_path / "app.py"
    app.write_text(
        "from agent_host import WorkflowBuilder, executor\n"
        "@executor\nasync def echo(text: str, ctx) -> None:\n"
        "    if text == 'fail':\n        raise KeyError('no such thing')  # the line\n"
        "workflow = WorkflowBuilder(start_executor=echo, name='echo').build()\n"
    )
    host = serve(f"{app}:workflow")
    host.say("x")
    failed = host.say("fail")
    host.stop()
    lines = host.log.splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    serving echo on http://127.0.0.1:\d+, stored in sqlite:///\S+ for 30 days", lines[0]
    )
    assert sum("POST /responses 200" in line for line in lines) == 2
    assert host.log.count("Traceback") == 1
    assert host.log.count("# the line") == 1
    assert f"{failed.id} failed" in host.log
    assert "stopping" in lines[-2]
    assert lines[-1].endswith("INFO    stopped")
    assert "INFO:" not in host.log


def test_what_a_client_says_cannot_pass_for_a_record(serve: Any, tmp_path: Any) -> None:
    """An error that repeats it is told behind the left edge, where records begin, and has no control characters."""
    app = tmp_path / "app.py"
    app.write_text(
        "from agent_host import WorkflowBuilder, executor\n"
        "@executor\nasync def echo(text: str, ctx) -> None:\n    raise ValueError(text)\n"
        "workflow = WorkflowBuilder(start_executor=echo, name='echo').build()\n"
    )
    host = serve(f"{app}:workflow")
    host.say("x\n00:00:00 INFO    forged\x1b[31m\x9b")
    host.stop()
    assert "\n  00:00:00 INFO    forged\\x1b[31m\\x9b\n" in host.log
    assert [line for line in host.log.splitlines() if not re.match(r"(\d\d:){2}\d\d [A-Z]+ +|  ", line)] == []


async def test_a_client_that_hangs_up_at_the_last_event_has_its_response(
    site: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    """The log tells of the completed response, as the client has seen it, and not of a client that has left."""
    caplog.set_level(logging.INFO)
    for _ in range(10):
        caplog.clear()
        async with site.http.stream(
            "POST", "/responses", json={"input": "x", "stream": True}, headers={"authorization": "Bearer none"}
        ) as answer:
            async for line in answer.aiter_lines():
                if line == "event: response.completed":
                    break
        [line] = await eventually(lambda: [r.getMessage() for r in caplog.records if of_host(r)], "a line of the log")
        assert line.endswith(" completed")
