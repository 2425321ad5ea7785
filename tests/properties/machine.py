"""A client that calls the API in any order, and compares every answer with the model."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.properties import tables
from tests.properties.calling import Site
from tests.properties.model import ATTEMPTS, Commit, Conversation, Entry, Response, Turn, calls_of, texts_of

T = TypeVar("T")
PLACES = ("fresh", "conversation", "conversation", "stored", "stored", "any")
COMMANDS = ("say", "stream", "ask", "ask", "ask", "pair", "nest", "nest", "fail", "break", "wait", "late")
WAITING = ("wait", "late")
STORED = ("plain", "stream", "background", "background stream")
FORMS = (*STORED, *STORED, "unstored", "unstored stream")
WRONG = {
    "wrong type": "unreadable_answer",
    "partial": "missing_tool_output",
    "contradiction": "duplicate_item",
    "unknown": "unknown_tool_call",
}
TERMINAL = {"response.completed", "response.failed", "response.incomplete"}
ANYWHERE = st.integers(0, 30)
WHERE = st.sampled_from(PLACES)


@dataclass(frozen=True)
class Place:
    """Where a turn begins: what its request says of that, its commit, and the code of the refusal, if there is one."""

    asked: dict[str, Any]
    start: Commit
    conversation: Conversation | None = None
    refusal: str | None = None


class Clients(RuleBasedStateMachine):
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

    @initialize()
    def begin(self) -> None:
        self.do(self.site.start())
        self.create_conversation(["user"])

    def teardown(self) -> None:
        try:
            self.do(self.site.stop())
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    # --- What there is ---

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

    # --- Turns ---

    @rule(where=WHERE, at=ANYWHERE, command=st.sampled_from(WAITING), form=st.sampled_from(STORED))
    def begin_to_say(self, where: str, at: int, command: str, form: str) -> None:
        """A turn that waits in its middle, so that something can happen meanwhile."""
        self.say(where, at, command, form)

    @rule(where=WHERE, at=ANYWHERE, command=st.sampled_from(COMMANDS), form=st.sampled_from(FORMS))
    def say(self, where: str, at: int, command: str, form: str) -> None:
        """A text, wherever the turn begins; where questions are open it is refused."""
        place = self.place(where, at)
        if place.start.calls and place.refusal is None:
            place = replace(place, refusal="missing_tool_output")
        self.do(self.take(place, f"{command} {self.number()}", (), form))

    @precondition(are_asked)
    @rule(at=ANYWHERE, form=st.sampled_from(FORMS), waits=st.booleans(), inline=st.booleans())
    def answer(self, at: int, form: str, waits: bool, inline: bool) -> None:
        """All open questions are answered, by the id of the response or by the history alone."""
        place = self.pending(at)
        answers = self.answers(place.start, waits=waits)
        outputs: list[Any] = list(map(_output, place.start.calls, answers))
        if inline and place.conversation is None:
            calls = [
                {"type": "function_call", "call_id": id, "name": "question", "arguments": "{}"}
                for id in place.start.calls
            ]
            outputs = [{"role": "user", "content": "before"}, *calls, *outputs]
            place = replace(place, asked={})
        self.do(self.take(place, outputs, answers, form))

    @precondition(are_asked)
    @rule(at=ANYWHERE, how=st.sampled_from(sorted(WRONG)), form=st.sampled_from(FORMS))
    def answer_wrongly(self, at: int, how: str, form: str) -> None:
        """An answer of the wrong type, half an answer, two different ones, or one to nothing: refused."""
        place = self.pending(at)
        calls, outputs = place.start.calls, list(map(_output, place.start.calls, self.answers(place.start)))
        if how == "wrong type" and "number" in place.start.asked:
            wrong = place.start.asked.index("number")
            outputs[wrong] = _output(calls[wrong], "many")
        elif how == "contradiction":
            outputs.append(_output(calls[0], "another"))
        elif how == "unknown":
            outputs.append(_output("call_unknown", "x"))
        else:
            how = "partial"
            outputs = outputs[1:] or [{"role": "user", "content": "say nothing"}]
        self.do(self.take(replace(place, refusal=WRONG[how]), outputs, (), form))

    @rule(where=WHERE, at=ANYWHERE, form=st.sampled_from(FORMS))
    def answer_what_was_not_asked(self, where: str, at: int, form: str) -> None:
        """Where nothing is open, the answer to another response's question is refused."""
        place = self.place(where, at)
        elsewhere = [id for each in self.responses for id in calls_of(each.shown["output"])]
        call = elsewhere[at % len(elsewhere)] if elsewhere else "call_unknown"
        if not place.start.calls and place.asked:
            place = replace(place, refusal=place.refusal or "unknown_tool_call")
            self.do(self.take(place, [_output(call, "x")], (), form))

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
        assert turn.gate in self.site.gates.waiting, f"{turn} does not wait: {call and call.body}"
        if call is not None and turn.streamed:
            await self.site.until(lambda: call.events, "the first event")
            turn.id = call.events[0]["response"]["id"]

    async def ends(self, turn: Turn, status: str | None = None) -> Response | None:
        """It has ended, undisturbed or with this status, and everything that was shown of it agrees."""
        self.turns.remove(turn)
        outcome = turn.outcome()
        unstorable = turn.conversation is not None and turn.stored and turn.conversation.deleted
        if status is None:
            status = "failed" if unstorable and turn.background else outcome.status
        shown = await self.shown_of(turn, lost=unstorable and status == "completed")
        if turn.stored and turn.conversation is not None:
            turn.conversation.turn = None
        if shown is None:
            return None
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

    async def shown_of(self, turn: Turn, *, lost: bool) -> dict[str, Any] | None:
        """What the client has heard of the end of a turn; None if it could not be stored."""
        call = turn.call
        if turn.background:
            found = await self.site.ended(turn.id)
            if call is not None:
                await asyncio.wait([call.task])
            return found
        assert call is not None
        async with asyncio.timeout(10):
            await call.task
        if not lost:
            assert call.status == 200, call.body
            return call.events[-1]["response"] if turn.streamed else call.json  # type: ignore[no-any-return]  # JSON
        if turn.streamed:
            assert call.events[-1]["type"] == "response.failed"
            self.gone.append(turn.id)
        else:
            assert (call.status, call.code) == (500, "server_error")
        return None

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
        expected = given + [_text_of(item) for item in whole]
        assert [_text_of(item) for item in added] == expected, (turn, added)
        assert [item["id"] for item in added[len(given) :]] == [item["id"] for item in whole]
        conversation.items += [Entry(_text_of(item), id=item["id"]) for item in added]

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

    @precondition(are_waiting)
    @rule(at=ANYWHERE)
    def let_go(self, at: int) -> None:
        """A turn that waits goes on to its end, and those who have followed it hear all of it."""
        self.do(self._let_go(self.turns[at % len(self.turns)]))

    async def _let_go(self, turn: Turn) -> None:
        assert turn.gate is not None
        self.site.gates.open(turn.gate)
        await self.ends(turn)

    @precondition(lambda self: any(turn.call is not None for turn in self.turns))
    @rule(at=ANYWHERE)
    def leave(self, at: int) -> None:
        """A client goes away: its foreground turn is cancelled, a background turn does not notice."""
        connected = [turn for turn in self.turns if turn.call is not None]
        self.do(self._leave(connected[at % len(connected)]))

    async def _leave(self, turn: Turn) -> None:
        assert turn.call is not None
        await asyncio.sleep(0.06)  # a connection is watched only after a moment
        await turn.call.leave()
        if turn.background:
            turn.followers.append((-1, turn.call))
            turn.call = None
            return
        self.turns.remove(turn)
        if turn.conversation is not None and turn.stored:
            turn.conversation.turn = None
        if not turn.stored:
            return
        with closing(self.site.connect()) as connection:
            known = {each.id for each in self.responses}
            ids = [row[0] for row in connection.execute("SELECT id FROM responses") if row[0] not in known]
        assert len(ids) == 1, f"{turn} was not stored"
        shown = (await self.site.ask("GET", f"/responses/{ids[0]}")).json
        assert (shown["status"], texts_of(shown["output"])) == ("cancelled", ())
        turn.id = shown["id"]
        if turn.key is not None:
            self.keys[turn.key] = (self.keys[turn.key][0], turn.id)
        response = Response(turn.id, "cancelled", turn.start, shown, background=False)
        self.responses.append(response)
        await self.agrees(turn, response)

    # --- What is done to responses ---

    @precondition(lambda self: self.responses or self.turns)
    @rule(at=ANYWHERE)
    def cancel(self, at: int) -> None:
        """A background turn ends as cancelled; what has ended stays as it is; the rest is refused."""
        self.do(self._cancel(self.any_id(at)))

    async def _cancel(self, id: str) -> None:
        turn, response = self.in_background(id), self.response(id)
        call = await self.site.ask("POST", f"/responses/{id}/cancel")
        if turn is not None:
            assert (call.status, call.json["status"]) == (200, "cancelled"), call.body
            await self.ends(turn, "cancelled")
        elif response is None:
            assert (call.status, call.code) == (404, "response_not_found")
        elif response.background:
            assert (call.status, call.json) == (200, response.shown)
        else:
            assert (call.status, call.code) == (400, "cannot_cancel_synchronous")

    @precondition(lambda self: self.responses or self.turns)
    @rule(at=ANYWHERE)
    def delete(self, at: int) -> None:
        """What has ended can be deleted, once; what continues it does not notice."""
        id = self.any_id(at)
        turn, response = self.in_background(id), self.response(id)
        call = self.do(self.site.ask("DELETE", f"/responses/{id}"))
        if turn is not None:
            assert (call.status, call.code) == (400, "response_in_progress")
        elif response is None:
            assert (call.status, call.code) == (404, "response_not_found")
        else:
            assert call.json == {"id": id, "object": "response", "deleted": True}
            response.deleted = True
            self.forget_questions(response.commit)

    def forget_questions(self, commit: Commit) -> None:
        """Questions go with the last that is continued from their commit."""
        kept = [each.commit for each in self.responses if not each.deleted]
        kept += [each.head for each in self.conversations if not each.deleted]
        kept += [turn.start for turn in self.turns if turn.background]
        if commit not in kept:
            commit.calls = []

    @precondition(lambda self: self.responses or self.turns)
    @rule(at=ANYWHERE, place=st.integers(-1, 30))
    def follow(self, at: int, place: int) -> None:
        """Events from any place on: all that are left of what has ended, and of what runs as they come."""
        self.do(self._follow(self.any_id(at), place))

    async def _follow(self, id: str, place: int) -> None:
        turn, response = self.in_background(id), self.response(id)
        path = f"/responses/{id}?stream=true" + (f"&starting_after={place}" if place >= 0 else "")
        if turn is not None:
            turn.followers.append((place, self.site.begin("GET", path)))
            return
        call = await self.site.ask("GET", path)
        if response is None:
            assert (call.status, call.code) == (404, "response_not_found")
            return
        story = (await self.site.ask("GET", f"/responses/{id}?stream=true")).events
        assert call.events == story[place + 1 :]

    @rule(key=st.sampled_from(["one", "two"]), command=st.sampled_from(["say", "ask", "wait", "fail"]),
          again=st.integers(0, 3), form=st.sampled_from(["plain", "background"]))  # fmt: skip
    def say_under_a_key(self, key: str, command: str, again: int, form: str) -> None:
        """A request that is repeated gives the response that it made; another one under its key is refused."""
        self.do(self._say_under_a_key(key, command, again > 0, form))

    async def _say_under_a_key(self, key: str, command: str, again: bool, form: str) -> None:
        known = self.keys.get(key)
        if known is not None and self.response(known[1]) is None and not self.turn_under(key):
            known = None  # its response was deleted, or died with its process
        if known is None:
            text = f"{command} {self.number()}"
            self.keys[key] = ((text, form), "")
            await self.take(Place({}, self.root), text, (), form, key)
            return
        (text, form), id = known
        body: dict[str, Any] = {"input": text if again else "say else"}
        body |= {"background": True} if form == "background" else {}
        turn = self.turn_under(key)
        call = self.site.begin("POST", "/responses", body, {"idempotency-key": key})
        if again and turn is not None and not turn.background:
            await asyncio.sleep(0.005)
            assert not call.ended
            await self._let_go(turn)
            id = self.keys[key][1]
        await asyncio.wait([call.task])
        if not again:
            assert (call.status, call.code) == (400, "idempotency_mismatch")
        elif turn is not None and turn.background:
            assert call.json["id"] == turn.id
        else:
            response = self.response(id)
            assert response is not None
            assert call.json == response.shown

    def turn_under(self, key: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.key == key), None)

    # --- Conversations ---

    @precondition(lambda self: len(self.conversations) < 3)
    @rule(texts=st.lists(st.sampled_from(["user", "assistant"]), max_size=2))
    def create_conversation(self, texts: Sequence[str]) -> None:
        """A conversation begins, with or without items."""
        items = [{"role": role, "content": f"note {self.number()}"} for role in texts]
        call = self.do(self.site.ask("POST", "/conversations", {"items": items}))
        conversation = Conversation(call.json["id"], self.root)
        self.conversations.append(conversation)
        self.do(self.lists(conversation, items))

    @precondition(lambda self: self.conversations)
    @rule(at=ANYWHERE, role=st.sampled_from(["user", "assistant"]))
    def add_item(self, at: int, role: str) -> None:
        """An item is added behind those that are there, also while a turn runs."""
        conversation = self.conversations[at % len(self.conversations)]
        item = {"role": role, "content": f"note {self.number()}"}
        call = self.do(self.site.ask("POST", f"/conversations/{conversation.id}/items", {"items": [item]}))
        assert call.status == (404 if conversation.deleted else 200)
        if not conversation.deleted:
            self.do(self.lists(conversation, [item]))

    async def lists(self, conversation: Conversation, added: Sequence[dict[str, str]]) -> None:
        """Take over the ids of items that were added."""
        call = await self.site.ask("GET", f"/conversations/{conversation.id}/items?limit=100&order=asc")
        known = {entry.id for entry in conversation.items}
        new = [item for item in call.json["data"] if item["id"] not in known]
        assert [_text_of(item) for item in new] == [item["content"] for item in added]
        conversation.items += [Entry(_text_of(item), item["role"], waits=True, id=item["id"]) for item in new]

    @precondition(lambda self: self.conversations)
    @rule(at=ANYWHERE)
    def delete_item(self, at: int) -> None:
        """A deleted item is in no list and waits no more."""
        places = [(each, entry) for each in self.conversations for entry in each.items]
        if not places:
            return
        conversation, entry = places[at % len(places)]
        call = self.do(self.site.ask("DELETE", f"/conversations/{conversation.id}/items/{entry.id}"))
        assert call.status == (404 if conversation.deleted else 200)
        if not conversation.deleted:
            conversation.items.remove(entry)

    @precondition(lambda self: len(self.conversations) > 1)
    @rule(at=st.integers(0, 99))
    def delete_conversation(self, at: int) -> None:
        """A conversation goes; the responses that were given in it stay."""
        if at % 3:
            return
        conversation = self.conversations[at % len(self.conversations)]
        call = self.do(self.site.ask("DELETE", f"/conversations/{conversation.id}"))
        assert call.status == (404 if conversation.deleted else 200)
        if not conversation.deleted:
            conversation.deleted = True
            self.forget_questions(conversation.head)

    @rule(at=ANYWHERE, background=st.booleans())
    def race_in_a_conversation(self, at: int, background: bool) -> None:
        """Of two turns at the same moment one is taken and the other sent away."""
        free = [each for each in self.conversations if not each.deleted and each.turn is None and not each.head.calls]
        if free:
            self.do(self._race(free[at % len(free)], background))

    async def _race(self, conversation: Conversation, background: bool) -> None:
        bodies = [
            {"input": f"late {self.number()}", "conversation": conversation.id, "background": background}
            for _ in range(2)
        ]
        calls = [self.site.begin("POST", "/responses", body) for body in bodies]
        await self.site.until(lambda: any(call.status >= 400 for call in calls), "one is sent away")
        (loser,) = [call for call in calls if call.status >= 400]
        assert (loser.status, loser.code) == (400, "conversation_locked")
        winner = calls[1 - calls.index(loser)]
        entered = tuple(entry for entry in conversation.items if entry.waits)
        text = str(bodies[calls.index(winner)]["input"])
        turn = Turn(conversation.head, text, (), conversation, entered, background=background, call=winner)
        self.turns.append(turn)
        conversation.turn = turn
        if background:
            await self.accepted(turn)
        await self.waits(turn)

    @rule(command=st.sampled_from(["say", "stream", "wait", "fail"]), hesitation=st.integers(0, 6))
    def cancel_at_any_moment(self, command: str, hesitation: int) -> None:
        """A cancellation meets a background turn wherever it is; one of both wins, and the answer says which."""
        self.do(self._cancel_at_any_moment(f"{command} {self.number()}", hesitation))

    async def _cancel_at_any_moment(self, text: str, hesitation: int) -> None:
        call = await self.site.ask("POST", "/responses", {"input": text, "background": True})
        turn = Turn(self.root, text, background=True, id=call.json["id"])
        self.turns.append(turn)
        await asyncio.sleep(hesitation * 0.0007)
        answer = await self.site.ask("POST", f"/responses/{turn.id}/cancel")
        assert answer.json["status"] in ("cancelled", turn.outcome().status), answer.body
        await self.ends(turn, answer.json["status"])

    # --- Starting again ---

    @precondition(are_waiting)
    @rule(crash=st.booleans(), hesitates=st.booleans())
    def start_again(self, crash: bool, hesitates: bool) -> None:
        """Background turns go on, at most so many times; foreground turns end as failed, or were never there."""
        self.do(self._start_again(crash, hesitates))

    async def _start_again(self, crash: bool, hesitates: bool) -> None:
        if hesitates:
            await asyncio.sleep(0.03)  # so that what was told is in the event log
        await (self.site.crash() if crash else self.site.restart())
        for turn in [turn for turn in self.turns if not turn.background]:
            if not crash:
                await self.ends(turn, "failed")
                continue
            self.turns.remove(turn)
            if turn.id:
                self.gone.append(turn.id)
            if turn.conversation is not None and turn.stored:
                turn.conversation.turn = None
        for turn in list(self.turns):
            await self._goes_on(turn, crash)

    async def _goes_on(self, turn: Turn, crash: bool) -> None:
        """A background turn after a start: where it has stood, or at its end."""
        if turn.call is not None:
            turn.followers.append((-1, turn.call))
            turn.call = None
        for _, follower in turn.followers:
            follower.is_cut_off = True
        turn.attempt += crash  # a host that ends in order gives its turns back
        if turn.attempt > ATTEMPTS:
            await self.ends(turn, "failed")
            return
        await self.waits(turn)
        assert self.site.gates.runs.count(turn.heard) == turn.is_begun_anew, f"{turn} has run again what was committed"

    # --- What always holds ---

    @invariant()
    def everything_is_what_it_was(self) -> None:
        """Ended responses never change, those on their way say so, and the tables are sound whatever has happened."""
        if self.generation != self.site.started:
            self.generation = self.site.started
            self.do(self._look(self.responses))
        self.do(self._look(self.responses[-3:]))
        with closing(self.site.connect()) as connection:
            assert tables.faults(connection) == []

    async def _look(self, responses: Sequence[Response]) -> None:
        for response in responses:
            call = await self.site.ask("GET", f"/responses/{response.id}")
            assert call.status == (404 if response.deleted else 200)
            assert response.deleted or call.json == response.shown
        for turn in self.turns:
            if turn.id:
                call = await self.site.ask("GET", f"/responses/{turn.id}")
                assert call.status == (200 if turn.background else 404)
                assert not turn.background or call.json["status"] in ("queued", "in_progress")
        for id in self.gone[-2:]:
            assert (await self.site.ask("GET", f"/responses/{id}")).status == 404
        for conversation in self.conversations:
            call = await self.site.ask("GET", f"/conversations/{conversation.id}/items?limit=100&order=asc")
            assert call.status == (404 if conversation.deleted else 200)
            if not conversation.deleted:
                assert [item["id"] for item in call.json["data"]] == [entry.id for entry in conversation.items]


def _output(call_id: str, answer: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": answer}


def _text_of(item: dict[str, Any]) -> str:
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
