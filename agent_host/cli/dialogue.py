"""A dialogue with a served workflow: turns, what is asked in between, and the answers, until nothing is asked any more.

- A turn is asked for once; only reading the events of a background response is tried again.
- The answers to all questions of a response go out in one request, in the place where the response stands.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import click

from agent_host.cli.client import Client, Events, RequestRefusedError, ServerUnreachableError
from agent_host.cli.questions import Question, questions_of
from agent_host.cli.screen import note
from agent_host.errors import AgentHostError
from agent_host.wire.events import TERMINAL

COMPLETED, NOT_COMPLETED, QUESTIONS_OPEN = 0, 1, 3

PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts to reach a background response again."""
POLL = 0.5

_RUNNING = frozenset({"queued", "in_progress"})

Response = Mapping[str, Any]


class View(Protocol):
    """Where a dialogue is shown."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Show what an event adds."""
        ...

    def whole(self, response: Response) -> None:
        """Show a response none of whose events was shown."""
        ...

    def end(self) -> None:
        """No more events come, perhaps in the middle of a message."""
        ...


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How turns are taken and shown.

    `command` gives the command line that goes on, from its last arguments; `asks` says whether somebody is there to be
    asked.
    """

    client: Client
    view: View
    command: Callable[[str], str]
    stream: bool
    background: bool
    asks: bool
    sleep: Callable[[float], None] = time.sleep

    def say(self, text: str, previous: str | None, conversation: str | None) -> int:
        """Take a turn, and answer what it asks; returns the exit code."""
        place = {"previous_response_id": previous, "conversation": conversation}
        return self._go_on(self._turn({"input": text, **place}), {}, None)

    def look(self, response_id: str) -> int:
        """Show a response, waiting for its end, and answer what it asks; returns the exit code."""
        response: Response = self.client.retrieve(response_id)
        if response.get("status") in _RUNNING and self.stream:
            response = self._watch(self.client.follow(response_id, -1))
        else:
            response = self._wait(response)
            self.view.whole(response)
        return self._go_on(response, {}, None)

    def answer(self, response_id: str, given: Mapping[str, str], text: str | None) -> int:
        """Answer what a response has asked, say something more, and go on; returns the exit code."""
        response = self.client.retrieve(response_id)
        known = [question.id for question in questions_of(response)]
        if unknown := [id for id in given if id not in known]:
            asked = f"It asks: {', '.join(known)}." if known else "It asks nothing."
            raise click.UsageError(f"{response_id} does not ask {unknown[0]!r}. {asked}")
        return self._go_on(response, given, text)

    # --- Turns ------------------------------------------------------------------------------------------------------

    def _turn(self, request: Mapping[str, Any]) -> Response:
        body = {name: value for name, value in request.items() if value is not None}
        if self.background:
            body["background"] = True
        if self.stream:
            return self._watch(self.client.create_streamed(body))
        response = self._wait(self.client.create(body))
        self.view.whole(response)
        return response

    def _watch(self, events: Events) -> Response:
        """Show events as they come; returns the response as the last of them shows it."""
        seen: Response = {}
        try:
            for event in self._unbroken(events):
                self.view.event(event)
                if event.get("type") == "error":
                    raise RequestRefusedError(f"The server ended the stream: {event.get('message')}", 200)
                seen = event.get("response") or seen
        except ServerUnreachableError as loss:
            raise self._lost(seen, loss) from None
        except KeyboardInterrupt:
            self._left(seen)
            raise
        finally:
            self.view.end()
        return seen

    def _unbroken(self, events: Events) -> Events:
        """The events up to the one that ends the response; those of a background response go on after a loss."""
        background: Response = {}
        last, pauses = -1, iter(PAUSES)
        while True:
            try:
                with contextlib.closing(events):
                    for event in events:
                        yield event
                        if event.get("type") in TERMINAL:
                            return
                        last, pauses = event.get("sequence_number", last + 1), iter(PAUSES)
                        if event.get("response", {}).get("background"):
                            background = event["response"]
                raise ServerUnreachableError("The stream ended before the response did.")
            except (ServerUnreachableError, RequestRefusedError) as loss:
                pause = next(pauses, None)
                if _says_no(loss) or not background or pause is None:
                    raise
            self.sleep(pause)
            events = self.client.follow(background["id"], last)

    def _lost(self, seen: Response, loss: AgentHostError) -> AgentHostError:
        if "id" not in seen:
            return loss
        return ServerUnreachableError(f"{loss} If the response was finished, this shows it: {self._shown_by(seen)}")

    def _shown_by(self, response: Response) -> str:
        return self.command(f"--previous {response['id']}")

    def _left(self, response: Response) -> None:
        """Somebody does not want to wait any longer."""
        self.view.end()
        if response.get("background"):
            note(f"{response['id']} goes on. See it with: {self._shown_by(response)}")

    def _wait(self, response: Response) -> Response:
        """The response when it has ended. A server that goes away meanwhile may come back."""
        pauses = iter(PAUSES)
        try:
            while response.get("status") in _RUNNING:
                self.sleep(POLL)
                try:
                    response, pauses = self.client.retrieve(response["id"]), iter(PAUSES)
                except (ServerUnreachableError, RequestRefusedError) as loss:
                    pause = next(pauses, None)
                    if _says_no(loss):
                        raise
                    if pause is None:
                        raise self._lost(response, loss) from None
                    self.sleep(pause)
        except KeyboardInterrupt:
            self._left(response)
            raise
        return response

    # --- Questions --------------------------------------------------------------------------------------------------

    def _go_on(self, response: Response, given: Mapping[str, str], text: str | None) -> int:
        """Answer what a response asks, from `given` or from whoever sits at the terminal, and so on to the end."""
        answered: Response | None = None
        while response.get("status") == "completed" and (questions := questions_of(response)):
            missing = [question for question in questions if question.id not in given]
            asked = self._ask(missing) if self.asks else {}
            if len(asked) < len(missing):
                self._tell_how_to_answer(response, questions)
                return QUESTIONS_OPEN
            items = _items(questions, {**given, **asked}, text)
            try:
                answered, response = response, self._turn({"input": items, **_place(response)})
            except RequestRefusedError as error:
                if not asked or error.status != 400:
                    raise
                note(str(error))  # and whoever gave the answer is asked again
            else:
                given, text = {}, None
        return self._told(response, answered)

    def _ask(self, questions: list[Question]) -> dict[str, str]:
        """The answers of whoever sits at the terminal, fewer if there were none."""
        answers: dict[str, str] = {}
        with contextlib.suppress(click.Abort):
            for question in questions:
                note(question.text)
                if question.is_approval:
                    answers[question.id] = "yes" if click.confirm("Approve?", default=None, err=True) else "no"
                else:
                    answers[question.id] = click.prompt("", prompt_suffix="> ", err=True, type=str)
        return answers

    def _tell_how_to_answer(self, response: Response, questions: list[Question]) -> None:
        for question in questions:
            note(question.text)
        answers = " ".join(f"--answer {q.id}={'yes' if q.is_approval else 'TEXT'}" for q in questions)
        command = self.command(f"--previous {response['id']} {answers}")
        note(f"Answer with: {command}")

    def _told(self, response: Response, answered: Response | None) -> int:
        """Tell how the response has ended and how to go on; returns the exit code.

        `answered` is the response whose questions it answers. If it has failed, they are open still.
        """
        completed = response.get("status") == "completed"
        if not completed:
            error, details = response.get("error") or {}, response.get("incomplete_details") or {}
            why = error.get("message") or details.get("reason")
            note(f"The response is {response.get('status')}{f': {why}' if why else ''}.")
        if answered is not None and not completed:
            note(f"{response['id']}  Answer again with: {self._shown_by(answered)}")
        else:
            conversation = response.get("conversation")
            place = f"--conversation {conversation['id']}" if conversation else f"--previous {response['id']}"
            note(f"{response['id']}  Continue with: {self.command(f'{place} TEXT')}")
        return COMPLETED if completed else NOT_COMPLETED


def _says_no(loss: AgentHostError) -> bool:
    """Whether asking again would change nothing."""
    return isinstance(loss, RequestRefusedError) and loss.status < 500


def _items(questions: list[Question], answers: Mapping[str, str], text: str | None) -> list[dict[str, Any]]:
    try:
        items = [question.answer(answers[question.id]) for question in questions]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return items if text is None else [*items, {"type": "message", "role": "user", "content": text}]


def _place(response: Response) -> dict[str, str]:
    """Where the next turn stands: in the conversation of the response, else behind the response itself."""
    conversation = response.get("conversation")
    return {"conversation": conversation["id"]} if conversation else {"previous_response_id": response["id"]}
