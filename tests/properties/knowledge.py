"""What a test client knows: every answer it was given, and what the model makes of it."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from tests.properties.calling import Site
from tests.properties.model import Commit, Conversation, Entry, Response, Turn, calls_of, texts_of

T = TypeVar("T")
TERMINAL = {"response.completed", "response.failed", "response.incomplete"}


@dataclass(frozen=True)
class Place:
    """Where a turn begins: what its request says of that, its commit, and the code of the refusal, if there is one."""

    asked: dict[str, Any]
    start: Commit
    conversation: Conversation | None = None
    refusal: str | None = None


class Knowledge(RuleBasedStateMachine):
    """One host, all that was ever asked of it, and what must have become of that."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.Runner()
        self.site = Site(self.folder)
        self.generation = 0
        self.root = Commit()
        self.count = 0
        self.responses: list[Response] = []
        self.conversations: list[Conversation] = []
        self.turns: list[Turn] = []
        self.keys: dict[str, tuple[Any, str]] = {}
        self.gone: list[str] = ["resp_unknown"]
        """Ids that name no response: unstored ones, and those of turns that died with their process."""

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    def teardown(self) -> None:
        try:
            self.do(self.site.stop())
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    def number(self) -> int:
        self.count += 1
        return self.count

    def any_id(self, at: int) -> str:
        """Any id that ever was a response's, or never was."""
        ids = [*self.gone, *(each.id for each in self.responses), *(turn.id for turn in self.turns if turn.id)]
        return ids[at % len(ids)]

    def response(self, id: str) -> Response | None:
        return next((each for each in self.responses if each.id == id and not each.deleted), None)

    def in_background(self, id: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.id == id and turn.background), None)

    def place(self, where: str, at: int) -> Place:
        """Somewhere to begin."""
        if where == "conversation" and self.conversations:
            return self.in_conversation(self.conversations[at % len(self.conversations)])
        stored = [each for each in self.responses if not each.deleted]
        if where == "stored" and stored:
            return self.behind(stored[-1 - at % len(stored)].id)
        return self.behind(self.any_id(at)) if where == "any" else Place({}, self.root)

    def in_conversation(self, conversation: Conversation) -> Place:
        refusal = "conversation_not_found" if conversation.deleted else None
        return Place({"conversation": conversation.id}, conversation.head, conversation, refusal)

    def behind(self, id: str) -> Place:
        asked, found = {"previous_response_id": id}, self.response(id)
        if found is not None:
            return Place(asked, found.commit)
        return Place(
            asked,
            self.root,
            refusal="previous_response_not_ready" if self.in_background(id) else "previous_response_not_found",
        )

    def pending(self, at: int) -> Place:
        """Somewhere where questions are open."""
        places = [self.behind(each.id) for each in self.responses if not each.deleted and each.commit.calls]
        places += [self.in_conversation(each) for each in self.conversations if not each.deleted and each.head.calls]
        return places[-1 - at % len(places)]

    def are_asked(self) -> bool:
        commits = [each.commit for each in self.responses if not each.deleted]
        commits += [each.head for each in self.conversations if not each.deleted]
        return any(commit.calls for commit in commits)

    def are_waiting(self) -> bool:
        return bool(self.turns)

    def answers(self, start: Commit, *, waits: bool = False) -> tuple[str, ...]:
        """One answer to each open question; the first, if it is a text, may make the turn wait."""
        word = {"text": "yes {}", "inner": "inside {}", "number": "{}"}
        answers = [word[kind].format(self.number()) for kind in start.asked]
        if waits and start.asked[0] == "text":
            answers[0] = f"late {self.number()}"
        return tuple(answers)

    async def take(self, place: Place, given: Any, answers: tuple[str, ...], form: str, key: str | None = None) -> None:
        """Ask for a turn, and see that it is refused, begins and waits, or ends as the model says."""
        body = {**place.asked, "input": given}
        body |= {"stream": True} if "stream" in form else {}
        body |= {"background": True} if "background" in form else {}
        body |= {"store": False} if "unstored" in form else {}
        headers = {} if key is None else {"idempotency-key": key}
        stored, conversation, refusal = "unstored" not in form, place.conversation, place.refusal
        if refusal is None and stored and conversation is not None and conversation.turn is not None:
            refusal = "conversation_locked"
        if refusal is not None:
            call = await self.site.ask("POST", "/responses", body, headers)
            assert (call.code, call.status) == (refusal, 404 if "conversation_not" in refusal else 400), call.body
            return
        turn = Turn(
            place.start, given if isinstance(given, str) else "", answers, conversation,
            tuple(entry for entry in conversation.items if entry.waits) if conversation is not None else (),
            stored, "background" in form, "stream" in form, key,
        )  # fmt: skip
        self.turns.append(turn)
        if stored and conversation is not None:
            conversation.turn = turn
        turn.call = self.site.begin("POST", "/responses", body, headers)
        if turn.background:
            await self.accepted(turn)
        if turn.gate is not None:
            await self.waits(turn)
        else:
            await self.ends(turn)

    async def accepted(self, turn: Turn) -> None:
        """A background turn is answered at once, before it has done anything."""
        call = turn.call
        assert call is not None
        if turn.streamed:
            await self.site.until(lambda: call.events, "the first event")
            first = call.events[0]["response"]
        else:
            await asyncio.wait([call.task])
            first, turn.call = call.json, None
        assert call.status == 200, call.body
        assert first["output"] == []
        turn.id = first["id"]
        assert turn.streamed or first["status"] == "queued"

    async def waits(self, turn: Turn) -> None:
        """Its executor is at the gate."""
        call = turn.call
        await self.site.until(
            lambda: turn.gate in self.site.gates.waiting or (call is not None and call.ended), f"{turn} waits"
        )
        assert turn.gate in self.site.gates.waiting, f"{turn} does not wait: {call and call.body!r}"
        if call is not None and turn.streamed:
            await self.site.until(lambda: call.events, "the first event")
            turn.id = call.events[0]["response"]["id"]

    async def ends(self, turn: Turn, status: str | None = None) -> Response | None:
        """It has ended, undisturbed or with this status, and everything that was shown of it agrees."""
        self.turns.remove(turn)
        outcome = turn.outcome()
        is_homeless = turn.conversation is not None and turn.stored and turn.conversation.deleted
        if status is None:
            status = "failed" if is_homeless else outcome.status
        shown = await self.shown_of(turn)
        if turn.stored and turn.conversation is not None:
            turn.conversation.turn = None
        turn.id = shown["id"]
        assert shown["status"] == status, (turn, shown)
        assert (shown["error"] is not None) == (status == "failed")
        completed = status == "completed"
        commit = outcome.commit if completed else turn.start
        if completed:
            assert texts_of(shown["output"]) == outcome.texts, (turn, shown)
            assert len(calls_of(shown["output"])) == len(commit.asked), (turn, shown)
            commit.calls = calls_of(shown["output"])
        else:
            assert calls_of(shown["output"]) == []
        if not turn.stored:
            self.gone.append(turn.id)
            return None
        if turn.key is not None:
            self.keys[turn.key] = (self.keys[turn.key][0], turn.id)
        if completed and turn.conversation is not None:
            await self.moves(turn, turn.conversation, commit, shown)
        response = Response(turn.id, status, commit, shown, turn.background)
        self.responses.append(response)
        await self.agrees(turn, response)
        return response

    async def shown_of(self, turn: Turn) -> dict[str, Any]:
        """What the client has heard of the end of a turn."""
        call = turn.call
        if turn.background:
            found = await self.site.ended(turn.id)
            if call is not None:
                await asyncio.wait([call.task])
            return found
        assert call is not None
        async with asyncio.timeout(10):
            await call.task
        assert call.status == 200, call.body
        return call.events[-1]["response"] if turn.streamed else call.json  # type: ignore[no-any-return]  # JSON

    async def moves(self, turn: Turn, conversation: Conversation, commit: Commit, shown: dict[str, Any]) -> None:
        """A completed turn has moved its conversation: the head, what it took in, and its own items."""
        conversation.head = commit
        for entry in turn.entered:
            entry.waits = False
        listed = await self.site.ask("GET", f"/conversations/{conversation.id}/items?limit=100&order=asc")
        known = {entry.id for entry in conversation.items}
        added = [item for item in listed.json["data"] if item["id"] not in known]
        given = [turn.text] if turn.text else list(turn.answers)
        whole = [item for item in shown["output"] if item["status"] != "incomplete"]
        expected = given + [text_of(item) for item in whole]
        assert [text_of(item) for item in added] == expected, (turn, added)
        assert [item["id"] for item in added[len(given) :]] == [item["id"] for item in whole]
        conversation.items += [Entry(text_of(item), id=item["id"]) for item in added]

    async def agrees(self, turn: Turn, response: Response) -> None:
        """The replay tells the whole story, and everybody who has followed it has heard the same."""
        story = (await self.site.ask("GET", f"/responses/{response.id}?stream=true")).events
        assert [event["sequence_number"] for event in story] == list(range(len(story)))
        assert story[0]["type"] == "response.created"
        assert [event for event in story if event["type"] in TERMINAL] == story[-1:]
        assert story[-1]["response"] == response.shown
        assert sum(event["type"] == "response.in_progress" for event in story) == 1
        if turn.call is not None and turn.streamed:
            heard = turn.call.events
            assert len(heard) <= len(story)
            assert list(map(_stable, heard)) == list(map(_stable, story[: len(heard)]))
        for place, follower in turn.followers:
            async with asyncio.timeout(10):
                await follower.task
            whole = not follower.left.is_set() and not follower.is_cut_off
            until = None if whole else place + 1 + len(follower.events)
            assert follower.events == story[place + 1 : until]


def text_of(item: dict[str, Any]) -> str:
    """What an item says: a message its text, an answer itself, a question the id it answers to."""
    match item["type"]:
        case "message":
            return "".join(part["text"] for part in item["content"])
        case "function_call_output":
            output = item["output"]
            return output if isinstance(output, str) else "".join(part["text"] for part in output)
    return str(item["call_id"])


def _stable(event: dict[str, Any]) -> str:
    """An event without the texts that a replay does not keep: those of an item that was taken back."""
    kept = {name: value for name, value in event.items() if name not in ("delta", "text", "part", "item")}
    return json.dumps(kept, sort_keys=True)
