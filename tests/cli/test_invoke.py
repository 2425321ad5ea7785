"""`agent-host invoke`: what it shows and sends, and what it asks."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_host.cli.questions import Question, questions_of
from tests.cli.invoking import continuation, invoke
from tests.cli.scripted import Telling, answer, asking, final, refusal, scripted, spoken, stream
from tests.cli.terminal import Terminal
from tests.clients.test_conversations import REMEMBERING

CLIENTS = Path(__file__).parent.parent / "clients" / "node"
ASKING = f"{CLIENTS / 'served.py'}:workflow"
APPROVING = f"{CLIENTS / 'approvals' / 'approving.py'}:workflow"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


# --- What is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_the_answer_alone_is_standard_output(streamed: bool) -> None:
    """What is said on the way and how to continue go to standard error, whether the answer was streamed or not."""
    told = spoken("[looking it up]", "It is\nfour.", "Bye.")
    with scripted(stream(told.events) if streamed else answer(final(told))) as server:
        done = invoke("2 + 2?", "--stream" if streamed else "--no-stream", url=server.url)
    assert done.exit_code == 0
    assert done.stdout == "It is\nfour.\nBye.\n"
    assert (
        done.stderr == f"[looking it up]\nresp_1  Continue with: {continuation(server.url, '--previous resp_1 TEXT')}"
    )
    (asked,) = server.asked
    assert asked.line == "POST /v1/responses"
    assert asked.body == {"input": "2 + 2?", **({"stream": True} if streamed else {})}


def test_without_a_terminal_nothing_is_streamed_unless_asked_for() -> None:
    """A program gets the answer in one piece."""
    with scripted(answer(final(spoken("hi")))) as server:
        assert invoke("x", url=server.url).stdout == "hi\n"
    assert "stream" not in server.asked[0].body


def test_on_a_terminal_the_answer_grows(tmp_path: Path) -> None:
    """Text is shown as it comes, what is said on the way dim, and control characters are not obeyed."""
    told = spoken("[looking]", "gr\x1b[31mün")
    with (
        scripted(stream(told.events, comments=1, pause=0.02)) as server,
        Terminal("invoke", "x", "--url", server.url, cwd=tmp_path) as terminal,
    ):
        terminal.until("[looking]\ngr\ufffd[31mün\nresp_1  Continue with: ")
        assert terminal.ended() == 0
    assert "\x1b[2m[looking]" in terminal.raw
    assert server.asked[0].body["stream"] is True


def test_messages_that_are_made_at_once_do_not_share_a_line() -> None:
    """A piece of another message begins a new line."""
    told = Telling()
    (left, opened), (right, also) = told.transcript.open_message(), told.transcript.open_message()
    told.events += opened + also
    for index, text in ((left, "a"), (right, "b"), (left, "c"), (left, "d")):
        told.events += told.transcript.text_delta(index, text)
    told.events += told.transcript.close_message(left) + told.transcript.close_message(right)
    told.completed()
    with scripted(stream(told.events)) as server:
        assert invoke("x", "--stream", url=server.url).stdout == "a\nb\ncd\n"


def test_a_text_that_is_taken_back_is_said_to_be() -> None:
    """What a failed attempt has shown is marked, and the next attempt begins anew."""
    told = Telling()
    index, opened = told.transcript.open_message()
    told.events += opened + told.transcript.text_delta(index, "wro") + told.transcript.abandon(index)
    told.events += told.transcript.message("right")
    told.completed()
    with scripted(stream(told.events), answer(final(told))) as server:
        done = invoke("x", "--stream", url=server.url)
        assert (done.stdout, done.stderr.partition("\n")[0]) == ("wro\nright\n", "(taken back)")
        assert invoke("x", url=server.url).stdout == "right\n"


def test_json_is_the_response_or_its_events() -> None:
    """Programs get the response as one object, or each event on a line of its own."""
    told = spoken("[on the way]", "grün")
    with scripted(answer(final(told)), stream(told.events)) as server:
        whole = invoke("x", "--json", url=server.url)
        lines = invoke("x", "--json", "--stream", url=server.url)
    assert (whole.exit_code, lines.exit_code) == (0, 0)
    assert json.loads(whole.stdout) == final(told)
    assert "grün" in whole.stdout
    assert [json.loads(line) for line in lines.stdout.splitlines()] == told.events


# --- What is sent ------------------------------------------------------------------------------------------------


def test_options_become_fields_and_headers() -> None:
    """Ids, background and headers are sent as given, and the key as bearer token; without a key there is none."""
    done = answer(final(spoken("hi", conversation="conv_1")))
    with scripted(done, done, done) as server:
        shown = invoke("x", "--conversation", "conv_1", "--background", url=server.url, env={"OPENAI_API_KEY": "sk-2"})
        keys = {"AGENT_HOST_API_KEY": "sk-1", "OPENAI_API_KEY": "sk-2"}
        more = invoke("x", "--previous", "resp_0", "--header", "x-agent-user-id: anna", url=server.url, env=keys)
        invoke("x", url=server.url)
    first, second, third = server.asked
    assert first.body == {"input": "x", "conversation": "conv_1", "background": True}
    assert second.body == {"input": "x", "previous_response_id": "resp_0"}
    assert second.headers["x-agent-user-id"] == "anna"
    assert [each.headers.get("authorization") for each in server.asked] == ["Bearer sk-2", "Bearer sk-1", None]
    assert third.headers["content-type"] == "application/json"
    assert shown.stderr.endswith(continuation(server.url, "--conversation conv_1 TEXT"))
    assert more.stderr.endswith(f"--url {server.url} --header x-agent-user-id:anna --conversation conv_1 TEXT\n")


def test_a_header_that_is_given_counts_instead_of_the_key() -> None:
    """Names of headers have no case, so one of them goes out."""
    with scripted(answer(final(spoken("hi")))) as server:
        invoke("x", "--header", "Authorization: Basic abc", "--api-key", "sk-1", url=server.url)
    assert server.asked[0].all_headers.count("authorization") == 1
    assert server.asked[0].headers["authorization"] == "Basic abc"


@pytest.mark.parametrize("name", ["authorization", "Cookie", "X-Api-Key", "x-auth-token"])
def test_the_command_that_goes_on_keeps_secrets(name: str) -> None:
    """Whoever looks over the shoulder reads neither keys nor tokens; other headers are part of the command."""
    with scripted(answer(final(spoken("hi")))) as server:
        done = invoke("x", "--header", f"{name}: s3cret", "--header", "X-Tenant: a b", url=server.url)
    assert "s3cret" not in done.stderr
    assert f"--url {server.url} --header 'x-tenant:a b' --previous resp_1 TEXT" in done.stderr


def test_an_address_may_have_any_path() -> None:
    """What a request line cannot carry is encoded, what is encoded stays."""
    with scripted(answer(final(spoken("hi")))) as server:
        assert invoke("x", url=f"{server.url}/vé/a%20b/").exit_code == 0
    assert server.asked[0].line == "POST /v1/v%C3%A9/a%20b/responses"


def test_a_name_that_no_host_can_have_ends_with_4() -> None:
    """It is answered like a host that is not there."""
    done = invoke("x", url="http://a..b/v1")
    assert done.exit_code == 4
    assert done.stderr.startswith("Error: Nothing answers at http://a..b/v1: ")


def test_a_dash_reads_standard_input() -> None:
    """All of standard input is the text, without the line feed that ends it."""
    with scripted(answer(final(spoken("hi")))) as server:
        assert invoke("-", url=server.url, typed="two\nlines\n").exit_code == 0
    assert server.asked[0].body == {"input": "two\nlines"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give a TEXT, - to read it from standard input, or --previous ID"),
        (["x", "--previous", "resp_1", "--conversation", "conv_1"], "either --previous or --conversation"),
        (["--answer", "call_1=x", "x"], "Give --previous ID too"),
        (["--previous", "resp_1", "--answer", "x"], "'x' is no answer"),
        (["x", "--header", "a b:c"], "'a b:c' is no header"),
        (["x", "--api-key", "sk\n"], "characters that no header can carry"),
        (["x", "--url", "localhost:8088"], "'localhost:8088' is no address of a server"),
        (["x", "--url", "http://localhost:port"], "'http://localhost:port' is no address of a server: Port could not"),
        (["x", "--url", "http://localhost:99999"], "'http://localhost:99999' is no address of a server: Port out of"),
        (["x", "--url", "http://ex ample/v1"], "'http://ex ample/v1' is no address of a server. It looks like http"),
        (["x", "--url", "http://[::1/v1"], "'http://[::1/v1' is no address of a server: Invalid IPv6 URL. It looks"),
        (["x", "--url", "http://anna:pw@localhost/v1"], "names a user, which is not sent. Leave it out"),
        ([""], "The TEXT is empty. Say something."),
        (["-"], "The TEXT is empty. Say something."),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], message: str) -> None:
    """What cannot be meant is an error that says what to give, and nothing is sent."""
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


# --- Questions ---------------------------------------------------------------------------------------------------


def test_questions_are_asked_and_answered_on_the_terminal(tmp_path: Path) -> None:
    """All questions of a response are put, the answers go out in one request, and so on until nothing is asked."""
    first = asking("Which city?", '{"day": "Monday", "seats": [1, 2]}')
    second = asking('{"text": "Sure?"}', id="resp_2")
    with (
        scripted(stream(first.events), stream(second.events), stream(spoken("Booked.", id="resp_3").events)) as server,
        Terminal("invoke", "book", "--url", server.url, cwd=tmp_path) as terminal,
    ):
        terminal.until("Which city?\n> ")
        terminal.type("Oslo\n")
        terminal.until("question\n  day: Monday\n  seats: [1, 2]\n> ")
        terminal.type("fine\n")
        terminal.until("Sure?\n> ")
        terminal.type("yes\n")
        terminal.until("Booked.\nresp_3  Continue with: ")
        assert terminal.ended() == 0
    assert [asked.body for asked in server.asked[1:]] == [
        {
            "input": [
                {"type": "function_call_output", "call_id": "call_0", "output": "Oslo"},
                {"type": "function_call_output", "call_id": "call_1", "output": "fine"},
            ],
            "previous_response_id": "resp_1",
            "stream": True,
        },
        {
            "input": [{"type": "function_call_output", "call_id": "call_0", "output": "yes"}],
            "previous_response_id": "resp_2",
            "stream": True,
        },
    ]


def test_an_answer_that_is_refused_is_asked_for_again(tmp_path: Path) -> None:
    """The server's reason is shown, then the question once more."""
    replies = stream(asking("How many?").events), refusal(400, "It must be an int."), stream(spoken("ok").events)
    with scripted(*replies) as server, Terminal("invoke", "x", "--url", server.url, cwd=tmp_path) as terminal:
        terminal.until("How many?\n> ")
        terminal.type("many\n")
        terminal.until("It must be an int.\nHow many?\n> ")
        terminal.type("3\n")
        terminal.until("ok\n")
        assert terminal.ended() == 0
    assert server.asked[2].body["input"][0]["output"] == "3"


def test_questions_stay_open_if_the_turn_that_answers_them_fails() -> None:
    """The message says how to answer them again."""
    told = Telling("resp_2")
    told.events += told.transcript.failed({"code": "server_error", "message": "no paper"}, None, 2)
    with scripted(answer(final(asking("Which city?"))), answer(final(told))) as server:
        done = invoke("--previous", "resp_1", "--answer", "call_0=Oslo", url=server.url)
    assert done.exit_code == 1
    again = continuation(server.url, "--previous resp_1")
    assert done.stderr == f"The response is failed: no paper.\nresp_2  Answer again with: {again}"


def test_prompts_do_not_stand_in_the_answer(tmp_path: Path) -> None:
    """With standard output sent to a file, questions are put on the terminal and the file has the answer alone."""
    path = tmp_path / "answer.txt"
    replies = answer(final(asking("Which city?"))), answer(final(spoken("Booked.")))
    with (
        scripted(*replies) as server,
        path.open("wb") as output,
        Terminal("invoke", "x", "--url", server.url, cwd=tmp_path, output=output) as terminal,
    ):
        terminal.until("Which city?\n> ")
        terminal.type("Oslo\n")
        assert terminal.ended() == 0
    assert path.read_text() == "Booked.\n"


def test_whoever_leaves_a_question_is_told_how_to_answer_it_later(tmp_path: Path) -> None:
    """The end of input at a prompt leaves the question open, which ends with 3."""
    with (
        scripted(stream(asking("Which city?").events)) as server,
        Terminal("invoke", "x", "--url", server.url, cwd=tmp_path) as terminal,
    ):
        terminal.until("Which city?\n> ")
        terminal.type("\x04")
        terminal.until(f"Answer with: {continuation(server.url, '--previous resp_1 --answer call_0=TEXT')}")
        assert terminal.ended() == 3


APPROVAL = {
    "id": "mcpr_1",
    "type": "mcp_approval_request",
    "name": "refund",
    "server_label": "shop",
    "arguments": '{"amount": 5}',
}


def approval() -> dict[str, Any]:
    return {**final(spoken("Wait.")), "output": [APPROVAL]}


@pytest.mark.parametrize(("typed", "approve"), [("y\n", True), ("what?\nn\n", False)])
def test_an_approval_is_a_yes_or_a_no(tmp_path: Path, typed: str, approve: bool) -> None:
    """An approval is shown with its name and arguments, and nothing but yes or no is taken."""
    with (
        scripted(answer(approval()), answer(final(spoken("ok")))) as server,
        Terminal("invoke", "--no-stream", "x", "--url", server.url, cwd=tmp_path) as terminal,
    ):
        terminal.until("refund\n  amount: 5\nApprove? [y/n]: ")
        terminal.type(typed)
        terminal.until("ok\n")
        assert terminal.ended() == 0
    answered = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": approve}
    assert server.asked[1].body["input"] == [answered]


def test_without_a_terminal_questions_end_with_3_and_the_command_that_answers() -> None:
    """The questions are shown with the exact command, which answers them and goes on."""
    told = asking("Which city?", "When?")
    with scripted(answer(final(told)), answer(final(told)), answer(final(spoken("Booked.", id="resp_2")))) as server:
        asked = invoke("book", url=server.url)
        command = "--previous resp_1 --answer call_0=TEXT --answer call_1=TEXT"
        assert (asked.exit_code, asked.stdout) == (3, "")
        assert asked.stderr == f"Which city?\nWhen?\nAnswer with: {continuation(server.url, command)}"
        given = ["--answer", "call_1=on = Monday", "--answer", "call_0=Oslo"]
        done = invoke("and hurry", "--previous", "resp_1", *given, url=server.url)
    assert (done.exit_code, done.stdout) == (0, "Booked.\n")
    assert [each.line for each in server.asked[1:]] == ["GET /v1/responses/resp_1", "POST /v1/responses"]
    assert server.asked[2].body == {
        "input": [
            {"type": "function_call_output", "call_id": "call_0", "output": "Oslo"},
            {"type": "function_call_output", "call_id": "call_1", "output": "on = Monday"},
            {"type": "message", "role": "user", "content": "and hurry"},
        ],
        "previous_response_id": "resp_1",
    }


def test_answers_are_checked_before_anything_is_sent() -> None:
    """An unknown id and an approval that is neither yes nor no are wrong usage; a missing answer ends with 3."""
    two = answer(final(asking("a", "b")))
    with scripted(two, two, answer(approval()), answer(final(spoken("x")))) as server:
        unknown = invoke("--previous", "resp_1", "--answer", "call_7=x", url=server.url)
        missing = invoke("--previous", "resp_1", "--answer", "call_1=x", url=server.url)
        neither = invoke("--previous", "resp_1", "--answer", "mcpr_1=maybe", url=server.url)
        nothing = invoke("--previous", "resp_1", "--answer", "call_0=x", url=server.url)
    assert [done.exit_code for done in (unknown, missing, neither, nothing)] == [2, 3, 2, 2]
    assert "resp_1 does not ask 'call_7'. It asks: call_0, call_1." in unknown.stderr
    assert "'mcpr_1' is to be approved or not: say yes or no, not 'maybe'." in neither.stderr
    assert "It asks nothing." in nothing.stderr
    assert {asked.line for asked in server.asked} == {"GET /v1/responses/resp_1"}


def test_an_answer_is_given_once() -> None:
    """If the workflow goes on asking, that is another question, whatever its id is."""
    told = answer(final(asking("Which city?")))
    with scripted(told, told) as server:
        done = invoke("--previous", "resp_1", "--answer", "call_0=Oslo", url=server.url)
    assert done.exit_code == 3
    assert len(server.asked) == 2


def test_answers_go_where_the_response_stands() -> None:
    """A response of a conversation is answered in its conversation, so that the conversation moves on."""
    told = asking("Which city?", conversation="conv_1")
    with scripted(answer(final(told)), answer(final(spoken("ok", conversation="conv_1")))) as server:
        assert invoke("--previous", "resp_1", "--answer", "call_0=Oslo", url=server.url).exit_code == 0
    assert {name: server.asked[1].body.get(name) for name in ("conversation", "previous_response_id")} == {
        "conversation": "conv_1",
        "previous_response_id": None,
    }


def test_a_response_can_be_looked_at_again() -> None:
    """`--previous` alone shows a response, waits for one that still runs, and puts its questions."""
    told = spoken("Hello", background=True)
    running = told.events[2]["response"]
    with scripted(
        answer(final(asking("Which?"))), answer(running), answer(final(told)), answer(running), stream(told.events)
    ) as server:
        assert invoke("--previous", "resp_1", url=server.url).exit_code == 3
        assert invoke("--previous", "resp_1", url=server.url).stdout == "Hello\n"
        assert invoke("--previous", "resp_1", "--stream", url=server.url).stdout == "Hello\n"
    assert server.asked[-1].line == "GET /v1/responses/resp_1?stream=true"


def test_a_program_sees_in_the_exit_code_that_something_is_asked() -> None:
    """With `--json` the response is the whole of standard output, and the code is 3."""
    told = asking("Which city?")
    with scripted(answer(final(told))) as server:
        done = invoke("x", "--json", url=server.url)
    assert (done.exit_code, json.loads(done.stdout)) == (3, final(told))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"question": "Which city?"}', "Which city?"),
        ('"Which city?"', "Which city?"),
        ('{"amount": 5}', "ask\n  amount: 5"),
        ('{"to": "Anna", "amount": {"value": 5}}', 'ask\n  to: Anna\n  amount: {"value": 5}'),
        ("[1]", "ask\n  [1]"),
        ("", "ask"),
        ("no JSON", "no JSON"),
    ],
)
def test_a_question_is_readable_whatever_its_arguments_are(arguments: str, text: str) -> None:
    """A single text is the question; other values stand below the name."""
    assert Question("call_1", "ask", arguments).text == text


def test_an_approval_is_shown_with_what_is_to_be_done() -> None:
    """Its name is always shown, also above a single text."""
    assert Question("mcpr_1", "delete", '{"path": "a.txt"}', is_approval=True).text == "delete\n  path: a.txt"


def test_a_call_that_was_answered_in_the_same_response_is_no_question() -> None:
    """What the server has carried out itself is not asked of anybody."""
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    assert [question.id for question in questions_of({"output": [call]})] == ["call_1"]
    assert questions_of({"output": [call, output]}) == []


# --- With the real server ----------------------------------------------------------------------------------------


def test_a_conversation_with_the_real_server(serve: Any, run_cli: Run) -> None:
    """The command that is shown continues the response, streamed or not."""
    host = serve(REMEMBERING)
    first = run_cli("invoke", "a", "--stream", "--url", host.base_url)
    assert (first.returncode, first.stdout) == (0, "1: a\n"), first.stderr
    continued = first.stderr.rpartition("agent-host ")[2].replace("TEXT", "b").split()
    assert run_cli(*continued).stdout == "2: a b\n"
    unknown = run_cli("invoke", "a", "--previous", "resp_0", "--url", host.base_url)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "Previous response with id 'resp_0' not found." in unknown.stderr


def test_the_key_lets_in(serve: Any, run_cli: Run) -> None:
    """The variable that gives the server its key gives it to the command."""
    host = serve(REMEMBERING, env={"AGENT_HOST_API_KEY": "sk-1"})
    assert run_cli("invoke", "a", "--url", host.base_url).returncode == 1
    assert run_cli("invoke", "a", "--url", host.base_url, env={"AGENT_HOST_API_KEY": "sk-1"}).stdout == "1: a\n"


def test_a_question_of_the_real_server_is_answered(serve: Any, run_cli: Run, tmp_path: Path) -> None:
    """What a workflow asks is asked on the terminal, and elsewhere the command that is shown answers it."""
    host = serve(ASKING)
    with Terminal("invoke", "ask Which city?", "--url", host.base_url, cwd=tmp_path) as terminal:
        terminal.until("Which city?\n> ")
        terminal.type("Oslo\n")
        terminal.until("Which city? Oslo, turn 1\n")
        assert terminal.ended() == 0
    asked = run_cli("invoke", "ask Where?|When?", "--url", host.base_url)
    assert (asked.returncode, asked.stdout) == (3, "")
    command = asked.stderr.rpartition("agent-host ")[2].replace("TEXT", "here", 1).replace("TEXT", "now", 1).split()
    answered = run_cli(*command)
    assert (answered.returncode, answered.stdout) == (0, "Where? here, turn 1\nWhen? now, turn 1\n"), answered.stderr


def test_an_approval_of_the_real_server_is_given(serve: Any, run_cli: Run) -> None:
    """In either form of an approval, the command that is shown gives it."""
    for form in ("function_call", "mcp"):
        host = serve(APPROVING, "--approvals", form, store=None)
        asked = run_cli("invoke", "refund", "--url", host.base_url)
        assert asked.returncode == 3
        assert "amount" in asked.stderr
        command = asked.stderr.rpartition("agent-host ")[2].replace("TEXT", "yes").split()
        assert run_cli(*command).stdout == "refunded\n"
        host.stop()


def test_a_background_response_of_the_real_server_is_waited_for(serve: Any, run_cli: Run) -> None:
    """Streamed or polled, the whole answer is shown."""
    host = serve(ASKING)
    for streamed in ("--stream", "--no-stream"):
        done = run_cli("invoke", "count 5", "--background", streamed, "--url", host.base_url)
        assert (done.returncode, done.stdout) == (0, "0 1 2 3 4 \n"), done.stderr
