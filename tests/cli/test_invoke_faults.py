"""`agent-host invoke` when something goes wrong: what it says, how it ends, and what it tries again."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent_host.cli.client import Client, Patience, ServerUnreachableError
from agent_host.cli.dialogue import PAUSES, POLL, Dialogue
from agent_host.cli.screen import Screen
from tests.cli.invoking import continuation, invoke
from tests.cli.scripted import Telling, answer, asking, dropped, final, refusal, scripted, spoken, stream
from tests.cli.terminal import Terminal


@pytest.mark.parametrize("streamed", ["--stream", "--no-stream"])
def test_a_failed_response_ends_with_1(streamed: str) -> None:
    """What it said is shown, then why it failed; it can be continued all the same."""
    told = Telling()
    told.events += told.transcript.message("so far")
    error = {"code": "server_error", "message": "The printer exploded", "type": "server_error", "param": None}
    told.events += told.transcript.failed(error, None, 2)
    with scripted(stream(told.events) if streamed == "--stream" else answer(final(told))) as server:
        done = invoke("x", streamed, url=server.url)
    assert (done.exit_code, done.stdout) == (1, "so far\n")
    assert done.stderr.startswith("The response is failed: The printer exploded.\nresp_1  Continue with: ")


@pytest.mark.parametrize("streamed", ["--stream", "--no-stream"])
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            refusal(400, "Previous response with id 'resp_9' not found."),
            "(400): Previous response with id 'resp_9' not",
        ),
        (answer("<h1>Bad gateway</h1>", 502), "(502): <h1>Bad gateway</h1>"),
        (answer("", 401), "(401): no reason given"),
        (answer({"hello": 1}), 'is not the Responses API. Check the address; it answered: {"hello": 1}'),
        (answer("<h1>Welcome</h1>"), "is not the Responses API. Check the address; it answered: <h1>Welcome</h1>"),
    ],
)
def test_a_refused_request_ends_with_1(streamed: str, reply: Any, message: str) -> None:
    """The server's message is shown, whatever its form, and no traceback."""
    with scripted(reply) as server:
        done = invoke("x", streamed, url=server.url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_an_error_in_a_stream_ends_with_1() -> None:
    """An `error` event is shown and ends the command."""
    told = Telling()
    with scripted(
        stream([*told.events, {"type": "error", "sequence_number": 2, "message": "the log is lost"}])
    ) as server:
        done = invoke("x", "--stream", url=server.url)
    assert done.exit_code == 1
    assert "The server ended the stream: the log is lost" in done.stderr


def test_nothing_at_the_address_ends_with_4() -> None:
    """The message has the address and the command that starts a server."""
    with scripted() as server:
        url = server.url
    done = invoke("x", url=url)
    assert done.exit_code == 4
    assert done.stderr.startswith(f"Error: Nothing answers at {url}: Connection refused.\nStart a server with ")
    assert "`agent-host serve FILE:workflow`" in done.stderr


@pytest.mark.parametrize("whole", [True, False])
def test_a_stream_that_ends_too_early_ends_with_4(whole: bool) -> None:
    """A turn is not asked for again: what was shown stays, and the message has the command that shows the rest."""
    told = spoken("Hello")
    with scripted(stream(told.events[:5], whole=whole)) as server:
        done = invoke("x", "--stream", url=server.url)
    assert (done.exit_code, done.stdout) == (4, "Hello\n")
    assert f"this shows it: agent-host invoke --url {server.url} --previous resp_1\n" in done.stderr
    assert len(server.asked) == 1


@pytest.mark.parametrize("seen", [0, 3, 6])
def test_the_stream_of_a_background_response_goes_on_after_a_loss(seen: int) -> None:
    """The events behind the last one are asked for, until the response ends; each is shown once."""
    told = spoken("Hello", background=True)
    begun, middle = 2 + seen, 3 + seen
    broken = [stream(told.events[:begun], whole=False), stream(told.events[begun:middle], whole=False)]
    replies = [*broken, refusal(503, "The host is starting."), stream(told.events[middle:])]
    with scripted(*replies) as server:
        done = invoke("x", "--background", "--stream", url=server.url)
    assert (done.exit_code, done.stdout) == (0, "Hello\n")
    assert [asked.line for asked in server.asked[1:]] == [
        f"GET /v1/responses/resp_1?stream=true&starting_after={begun - 1}",
        *[f"GET /v1/responses/resp_1?stream=true&starting_after={middle - 1}"] * 2,
    ]


def test_a_background_response_that_is_gone_is_not_asked_for_again() -> None:
    """An answer that says no ends the command at once."""
    told = spoken("Hello", background=True)
    gone = refusal(404, "Response with id 'resp_1' not found.")
    with scripted(stream(told.events[:3], whole=False), gone) as server:
        done = invoke("x", "--background", "--stream", url=server.url)
    assert done.exit_code == 1
    assert "Response with id 'resp_1' not found." in done.stderr


@pytest.mark.parametrize("streamed", ["--stream", "--no-stream"])
def test_whoever_does_not_want_to_wait_is_told_how_to_see_a_background_response(tmp_path: Path, streamed: str) -> None:
    """An interrupt leaves the response to the server and shows the command that shows it."""
    told = Telling(background=True)
    index, opened = told.transcript.open_message()
    told.events += opened + told.transcript.text_delta(index, "so far")
    running = told.events[2]["response"]
    replies = [stream(told.events, then=2.0)] if streamed == "--stream" else [answer(running), answer(running)]
    with (
        scripted(*replies) as server,
        Terminal("invoke", "x", "--background", streamed, "--url", server.url, cwd=tmp_path) as terminal,
    ):
        if streamed == "--stream":
            terminal.until("so far")
        else:
            server.until_asked(2)  # so the first answer has arrived
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(f"resp_1 goes on. See it with: {continuation(server.url, '--previous resp_1')}")
        assert terminal.ended() == 1


def test_a_background_response_is_waited_for() -> None:
    """Without a stream it is asked for until it has ended."""
    told = spoken("done", background=True)
    queued, running = told.events[0]["response"], told.events[2]["response"]
    with scripted(answer(queued), answer(running), answer(final(told))) as server:
        assert invoke("x", "--background", url=server.url).stdout == "done\n"
    assert [asked.line for asked in server.asked[1:]] == ["GET /v1/responses/resp_1"] * 2


def test_a_background_response_outlives_its_server() -> None:
    """While nothing answers, or the host starts, it is asked for again, each time from the first pause on."""
    told, slept = spoken("done", background=True), list[float]()
    running = told.events[2]["response"]
    gone, starting = dropped(), refusal(503, "The host is starting.")
    with scripted(answer(running), gone, starting, answer(running), gone, answer(final(told))) as server:
        waiting = dialogue(server.url, slept)
        assert waiting.say("x", None, None) == 0
    assert slept == [POLL, PAUSES[0], POLL, PAUSES[1], POLL, POLL, PAUSES[0], POLL]


@pytest.mark.parametrize("last", ["lost", "refused"])
def test_a_background_response_that_cannot_be_reached_is_named(last: str) -> None:
    """After all pauses the message has the command that shows it."""
    running = spoken("done", background=True).events[2]["response"]
    losses = [dropped() if last == "lost" else refusal(503, "starting") for _ in range(len(PAUSES) + 1)]
    with scripted(answer(running), *losses) as server, pytest.raises(ServerUnreachableError) as caught:
        dialogue(server.url, []).say("x", None, None)
    assert "this shows it: agent-host invoke --previous resp_1" in str(caught.value)


def test_a_background_response_that_was_deleted_is_not_waited_for() -> None:
    """An answer that says no ends the command at once."""
    running = spoken("done", background=True).events[2]["response"]
    with scripted(answer(running), refusal(404, "Response with id 'resp_1' not found.")) as server:
        done = invoke("x", "--background", url=server.url)
    assert done.exit_code == 1
    assert "Response with id 'resp_1' not found." in done.stderr


def dialogue(url: str, slept: list[float]) -> Dialogue:
    return Dialogue(
        client=Client(url, {}), view=Screen(), command=lambda words: f"agent-host invoke {words}",
        stream=False, background=True, asks=False, sleep=slept.append,
    )  # fmt: skip


def test_a_terminal_obeys_nothing_that_a_server_says(tmp_path: Path) -> None:
    """Control characters of a question, of a refusal and of an error are shown as what they are."""
    beep, shown = "a\x1b]0;title\x07b\x9b", "a\ufffd]0;title\ufffdb\ufffd"
    asked = stream(asking(beep).events)
    with (
        scripted(asked, refusal(400, f"{beep}1"), refusal(500, f"{beep}2")) as server,
        Terminal("invoke", "x", "--url", server.url, cwd=tmp_path) as terminal,
    ):
        terminal.until(f"{shown}\n> ")
        terminal.type("x\n")
        terminal.until(f"{shown}1\n{shown}\n> ")
        terminal.type("x\n")
        terminal.until(f"{shown}2\n")
        assert terminal.ended() == 1


@pytest.mark.parametrize("streamed", ["--stream", "--no-stream"])
def test_an_answer_that_cannot_be_written_is_told(tmp_path: Path, streamed: str) -> None:
    """A full disk behind standard output is one message, not a traceback; a closed one takes nothing, and is obeyed."""
    told = spoken("Hello")
    reply = stream(told.events) if streamed == "--stream" else answer(final(told))
    with scripted(reply, reply) as server:
        command = [sys.executable, "-m", "agent_host", "invoke", "x", streamed, "--url", server.url]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
        closed = subprocess.run(
            ["sh", "-c", f"{shlex.join(command)} >&-"], stderr=subprocess.PIPE, text=True, timeout=20, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "Error: The answer cannot be written: No space left on device. Send it elsewhere.\n",
    )
    assert closed.returncode == 0
    assert closed.stderr.startswith("resp_1  Continue with: ")


def test_a_closed_standard_input_has_no_text() -> None:
    """The message says so; with a text as argument it is not needed."""
    with scripted(answer(final(spoken("hi")))) as server:
        command = [sys.executable, "-m", "agent_host", "invoke", "--url", server.url]
        for text, code, told in (("-", 2, "Standard input is closed"), ("x", 0, "Continue with")):
            line = f"{shlex.join([*command, text])} <&-"
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=False)
            assert (done.returncode, told in done.stderr) == (code, True), done.stderr


def test_a_stream_is_lost_when_it_is_silent_not_when_it_is_slow() -> None:
    """Comments keep a stream alive for as long as they come; without them it is given up after a while."""
    told = spoken("slow")
    patience = Patience(silence=0.3)
    with scripted(stream(told.events, comments=2, pause=0.05), stream([], then=1.0, whole=False)) as server:
        client = Client(server.url, {}, patience)
        began = time.monotonic()
        assert list(client.create_streamed({"input": "x"})) == told.events
        assert time.monotonic() - began > patience.silence
        with pytest.raises(ServerUnreachableError, match=r"connection was lost to http.*timed out"):
            list(client.create_streamed({"input": "x"}))
