"""`agent-host invoke`: say something to a served workflow, and answer what it asks."""

import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click

from agent_host.cli.client import Client, ServerUnreachableError
from agent_host.cli.dialogue import Dialogue
from agent_host.cli.screen import Screen, harmless, is_terminal
from agent_host.errors import AgentHostError

DEFAULT_URL = "http://127.0.0.1:8088/v1"

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\xa0-\xff]*)")


_SECRET = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)
"""Names of headers whose values are not shown."""


class _UnreachableServer(click.ClickException):
    exit_code = 4


class _Json:
    """Shows to programs: an event is a line, a response is one object."""

    def event(self, event: Mapping[str, Any]) -> None:
        self._write(json.dumps(event, ensure_ascii=False))

    def whole(self, response: Mapping[str, Any]) -> None:
        self._write(json.dumps(response, ensure_ascii=False, indent=2))

    def end(self) -> None:
        """A line is always whole."""

    def _write(self, text: str) -> None:
        click.echo(text.encode("utf-8", "replace"))


# --- The words of the command line --------------------------------------------------------------------------------


def _headers(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for header in given:
        match = _HEADER.fullmatch(header)
        if match is None:
            raise click.BadParameter(f"{header!r} is no header. Give NAME:VALUE, such as x-agent-user-id:anna.")
        found[match[1].lower()] = match[2]
    return found


def _key(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    if given and _HEADER.fullmatch(f"Authorization:{given}") is None:
        raise click.BadParameter("It has characters that no header can carry. Copy the key again.")
    return given


def _answers(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    if wrong := [answer for answer in given if "=" not in answer]:
        raise click.BadParameter(f"{wrong[0]!r} is no answer. Give the id of a question and its answer, ID=VALUE.")
    return dict(answer.split("=", 1) for answer in given)


@click.command()
@click.argument("text", required=False)
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Base address of the server.")
@click.option("--stream/--no-stream", default=None, help="Show the answer while it is made.  [default: on a terminal]")
@click.option("--previous", metavar="ID", help="Continue this response; without TEXT, show it and answer it.")
@click.option("--conversation", metavar="ID", help="Take the turn in this conversation.")
@click.option("--background", is_flag=True, help="Let the turn go on if this program ends.")
@click.option(
    "--answer", "answers", metavar="ID=VALUE", multiple=True, callback=_answers, help="Answer a question of --previous."
)
@click.option("--header", "headers", metavar="NAME:VALUE", multiple=True, callback=_headers, help="Send a header.")
@click.option(
    "--api-key",
    envvar=["AGENT_HOST_API_KEY", "OPENAI_API_KEY"],
    show_envvar=True,
    callback=_key,
    help="The server's key.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the response as JSON, or with --stream its events.")
def invoke(
    text: str | None,
    url: str,
    stream: bool | None,
    previous: str | None,
    conversation: str | None,
    background: bool,
    answers: dict[str, str],
    headers: dict[str, str],
    api_key: str | None,
    as_json: bool,
) -> None:
    """Say TEXT to a served workflow, for example: agent-host invoke "My printer is on fire"

    The TEXT - is read from standard input. What the workflow asks is asked on the terminal; elsewhere --answer answers.

    Ends with 0 if the response is complete, 1 if it is not, 2 on wrong usage, 3 if it asks something that was not
    answered, and 4 if the server cannot be reached.
    """
    if text is None and previous is None:
        raise click.UsageError("Give a TEXT, - to read it from standard input, or --previous ID to see a response.")
    if previous is not None and conversation is not None:
        raise click.UsageError("Give either --previous or --conversation: a conversation knows its last response.")
    if answers and previous is None:
        raise click.UsageError("Give --previous ID too: the response that has asked.")
    authorization = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        client = Client(url, {**authorization, **headers})
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    said = _read(text)
    if said == "" and previous is None and conversation is None:
        raise click.UsageError("The TEXT is empty. Say something.")
    dialogue = Dialogue(
        client=client,
        view=_Json() if as_json else Screen(),
        command=lambda words: _command(url, headers, words),
        stream=is_terminal(sys.stdout) and not as_json if stream is None else stream,
        background=background,
        asks=is_terminal(sys.stdin) and is_terminal(sys.stderr) and not as_json,
    )
    try:
        sys.exit(_run(dialogue, said, previous, conversation, answers))
    except ServerUnreachableError as error:
        raise _UnreachableServer(harmless(str(error))) from None
    except AgentHostError as error:
        raise click.ClickException(harmless(str(error))) from None
    except OSError as error:
        raise _unwritten(error) from None


def _unwritten(error: OSError) -> Exception:
    """What to raise when the answer cannot be written."""
    if error.errno == errno.EPIPE:  # whoever has read enough need not be told
        return error
    # What is still buffered would fail once more when the program ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return click.ClickException(f"The answer cannot be written: {error.strerror}. Send it elsewhere.")


def _run(
    dialogue: Dialogue, text: str | None, previous: str | None, conversation: str | None, answers: Mapping[str, str]
) -> int:
    if previous is not None and answers:
        return dialogue.answer(previous, answers, text)
    if previous is not None and text is None:
        return dialogue.look(previous)
    return dialogue.say(text or "", previous, conversation)


def _read(text: str | None) -> str | None:
    if text != "-":
        return text
    if sys.stdin is None:
        raise click.UsageError("Standard input is closed, so there is no TEXT to read from it.")
    return sys.stdin.buffer.read().decode("utf-8", "replace").removesuffix("\n")


def _command(url: str, headers: Mapping[str, str], words: str) -> str:
    """The command line that goes on in the same place, without keys."""
    options = [] if url == DEFAULT_URL else ["--url", url]
    for name, value in headers.items():
        if not _SECRET.search(name):
            options += ["--header", f"{name}:{value}"]
    return " ".join(["agent-host invoke", *map(shlex.quote, options), words])
