"""A client that calls the API in any order, and compares every answer with the model."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.properties import tables
from tests.properties.knowledge import Knowledge, Place, text_of
from tests.properties.model import ATTEMPTS, Commit, Conversation, Entry, Response, Turn, calls_of, texts_of

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
ANYWHERE = st.integers(0, 30)
WHERE = st.sampled_from(PLACES)


class Clients(Knowledge):
    """Clients that do anything at any time."""

    @initialize()
    def begin(self) -> None:
        self.do(self.site.start())
        self.create_conversation(["user"])

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

    @precondition(Knowledge.are_asked)
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

    @precondition(Knowledge.are_asked)
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

    @precondition(Knowledge.are_waiting)
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
        assert [text_of(item) for item in new] == [item["content"] for item in added]
        conversation.items += [Entry(text_of(item), item["role"], waits=True, id=item["id"]) for item in new]

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

    @precondition(Knowledge.are_waiting)
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
