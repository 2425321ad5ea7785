"""A client of the soak: it takes turns of all kinds, and checks that what it was told is there afterwards."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import openai
from openai import OpenAI

from tests.crash.cells import last_text
from tests.crash.mortal_host import LOST

T = TypeVar("T")

UNFINISHED = {"queued", "in_progress"}
LONGEST_LINE = 20
REMEMBERED = 300


class Found(Exception):
    """Something that should hold does not."""


class Lost(Exception):
    """The host died, or went down, before the client had its answer."""


@dataclass(frozen=True, slots=True)
class Point:
    """A response that was acknowledged: the turns that led there, and the question it asks."""

    id: str
    names: tuple[str, ...]
    call: str | None = None


@dataclass(slots=True)
class Line:
    """A conversation: the turns that it has for sure, and the one that it may have besides."""

    id: str
    names: tuple[str, ...] = ()
    maybe: str | None = None


@dataclass(slots=True)
class Tally:
    """What has been done, for the summary."""

    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str) -> None:
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1


class SoakClient(threading.Thread):
    """Does one thing after the other until it is told to stop; `found` says what did not hold."""

    def __init__(self, number: int, seed: int, address: Callable[[], str], tally: Tally) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.found: list[str] = []
        self.enough = threading.Event()
        self.last_did = time.monotonic()
        self._address = address
        self._tally = tally
        self._number = number
        self._turns = 0
        self._random = random.Random(f"{seed} {number}")
        self._client = OpenAI(base_url="http://127.0.0.1:1", api_key="none", max_retries=0, timeout=20)
        self._points: list[Point] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._lines: list[Line] = []
        self._pending: list[tuple[str, tuple[str, ...]]] = []
        self._deleted: list[str] = []

    def run(self) -> None:
        deeds: list[tuple[int, Callable[[], None]]] = [
            (6, self.take_turn), (6, self.take_background_turn), (5, self.talk), (4, self.follow), (3, self.answer),
            (2, self.fail), (2, self.cancel), (2, self.delete), (2, self.look_again), (1, self.end_line),
            (2, self.collect), (1, self.add_item),
        ]  # fmt: skip
        while not self.enough.is_set():
            (deed,) = self._random.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])
            self._do(deed)
        self._do(self.see_all)

    def _do(self, deed: Callable[[], None]) -> None:
        try:
            deed()
            self._tally.add(deed.__name__)
        except Lost:
            self._tally.add("lost")
        except Exception as error:  # noqa: BLE001 - the soak goes on and reports it at the end
            self.found.append(f"{self.name} in {deed.__name__}: {type(error).__name__}: {error}")
        self.last_did = time.monotonic()

    # --- Asking, whatever becomes of the host ---

    def _ask(self, call: Callable[[OpenAI], T], *, again: bool = True) -> T:
        """The answer to a request, which is made again until it is answered; else `Lost` if the host goes away."""
        while True:
            self._client.base_url = self._address()
            try:
                return call(self._client)
            except LOST:
                pass
            except openai.APIStatusError as error:
                if error.status_code != 503:
                    raise
            if not again:
                raise Lost
            time.sleep(0.05)

    def _create(self, *, again: bool = True, **request: Any) -> Any:
        """A response that has ended or was accepted. Under a key, so that it is one however often it is asked for."""
        self._turns += 1
        headers = {"idempotency-key": f"{self._number}-{self._turns}"}
        request |= {"stream": self._random.random() < 0.4}

        def ask(client: OpenAI) -> Any:
            answer = client.responses.create(**request, extra_headers=headers)
            if not request["stream"]:
                return answer
            seen = list(answer)
            if [event.sequence_number for event in seen] != list(range(len(seen))):
                raise Found("the events of a stream have a gap")
            if not (seen and hasattr(seen[-1], "response")):
                raise openai.APIConnectionError(message="The host went down.", request=answer.response.request)
            return seen[-1].response

        return self._ask(ask, again=again)

    def _ended(self, response_id: str) -> Any:
        """A background response once it has ended."""
        end = time.monotonic() + 60
        while (response := self._ask(lambda client: client.responses.retrieve(response_id))).status in UNFINISHED:
            if time.monotonic() > end:
                raise Found(f"{response_id} does not end")
            time.sleep(0.02)
        return response

    def _new_name(self) -> str:
        return f"c{self._number}t{self._turns + 1}"

    def _kind(self) -> str:
        return self._random.choice(("work", "work", "nested"))

    # --- What a turn must have been ---

    def _took(self, response: Any, names: tuple[str, ...]) -> Point | None:
        """Check a turn that has ended, and keep it as a point to go on from."""
        if response.status == "failed" and self._is_of_the_host(response):
            self._keep(response, Point(response.id, names[:-1]))
            return None
        if response.status != "completed":
            raise Found(f"{response.id} is {response.status}: {response.error}")
        call = response.output[-1].call_id if response.output[-1].type == "function_call" else None
        if call is None and last_text(response) != " ".join(names):
            raise Found(f"{response.id} is the turns {last_text(response)!r}, not {' '.join(names)!r}")
        return self._keep(response, Point(response.id, names, call))

    def _is_of_the_host(self, response: Any) -> bool:
        """Whether a turn has failed because the host was stopped or has died three times in it."""
        said = response.error.message
        if "shut down" not in said and "3 times" not in said:
            return False
        self._tally.add("failed with the host")
        return True

    def _keep(self, response: Any, point: Point) -> Point:
        self._told[response.id] = response.to_dict(mode="json")
        if point.names:
            self._points.append(point)
        if len(self._points) > REMEMBERED:
            self._forget(self._points[self._random.randrange(len(self._points))])
        return point

    def _forget(self, point: Point) -> None:
        self._points.remove(point)
        self._told.pop(point.id, None)

    def _start(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Where the next turn starts: anew, or from any point that asks nothing."""
        free = [point for point in self._points if point.call is None and len(point.names) < LONGEST_LINE]
        if not free or self._random.random() < 0.1:
            return {}, ()
        point = self._random.choice(free)
        return {"previous_response_id": point.id}, point.names

    # --- Deeds ---

    def take_turn(self) -> None:
        place, names = self._start()
        name, kind = self._new_name(), self._random.choice((self._kind(), "ask"))
        self._took(self._create(input=f"{name} {kind}", **place), (*names, name))

    def take_background_turn(self) -> None:
        place, names = self._start()
        name = self._new_name()
        accepted = self._create(input=f"{name} {self._kind()}", background=True, **place)
        self._pending.append((accepted.id, (*names, name)))

    def collect(self) -> None:
        """An accepted background turn ends."""
        pending, self._pending = self._pending, []
        for response_id, names in pending:
            self._took(self._ended(response_id), names)

    def follow(self) -> None:
        """The events of a background turn are one list, however often its reader has to come back."""
        place, names = self._start()
        name = self._new_name()
        accepted = self._create(input=f"{name} {self._kind()}", background=True, **place)
        events: list[Any] = []
        while not (events and getattr(events[-1], "response", None) and events[-1].response.status not in UNFINISHED):

            def read(client: OpenAI) -> None:
                after = {"starting_after": events[-1].sequence_number} if events else {}
                events.extend(client.responses.retrieve(accepted.id, stream=True, **after))

            self._ask(read)
        if [event.sequence_number for event in events] != list(range(len(events))):
            raise Found(f"the events of {accepted.id} have a gap")
        if self._ended(accepted.id).to_dict(mode="json") != events[-1].response.to_dict(mode="json"):
            raise Found(f"the last event of {accepted.id} is not its response")
        self._took(events[-1].response, (*names, name))

    def answer(self) -> None:
        asked = [point for point in self._points if point.call is not None]
        if not asked:
            return
        point = self._random.choice(asked)
        output = {"type": "function_call_output", "call_id": point.call, "output": "work"}
        background = self._random.random() < 0.5
        response = self._create(input=[output], previous_response_id=point.id, background=background)
        response = self._ended(response.id)
        if response.status == "completed":
            self._took(response, point.names)
        elif not self._is_of_the_host(response):
            raise Found(f"an answer is {response.status}: {response.error}")

    def fail(self) -> None:
        """A failed turn costs one turn: what continues it knows nothing of it."""
        place, names = self._start()
        background = self._random.random() < 0.5
        failed = self._create(input=f"{self._new_name()} fail", background=background, **place)
        failed = self._ended(failed.id)
        if failed.status != "failed":
            raise Found(f"{failed.id} is {failed.status}")
        name = self._new_name()
        after = self._create(input=f"{name} work", previous_response_id=failed.id)
        self._took(after, (*names, name))

    def cancel(self) -> None:
        """A cancelled turn has one end, and what continues it starts where it started."""
        place, names = self._start()
        name = self._new_name()
        accepted = self._create(input=f"{name} work", background=True, **place)
        time.sleep(self._random.random() * 0.2)
        ended = self._ask(lambda client: client.responses.cancel(accepted.id))
        if ended.status == "completed":
            self._took(ended, (*names, name))
            return
        if ended.status != "cancelled":
            raise Found(f"{ended.id} is {ended.status} after it was cancelled")
        name = self._new_name()
        self._took(self._create(input=f"{name} work", previous_response_id=ended.id), (*names, name))

    def delete(self) -> None:
        """A deleted response is gone; what continued it is not."""
        if not self._points:
            return
        point = self._random.choice(self._points)
        self._forget(point)
        with suppress(openai.NotFoundError):  # it was deleted by the request that the host died over
            self._ask(lambda client: client.responses.delete(point.id))
        self._deleted.append(point.id)

    def look_again(self) -> None:
        """What was acknowledged is there as it was told; what was deleted is not."""
        for response_id, told in self._random.sample(sorted(self._told.items()), min(3, len(self._told))):
            found = self._ask(lambda client, wanted=response_id: client.responses.retrieve(wanted))
            if found.to_dict(mode="json") != told:
                raise Found(f"{response_id} is not as it was told")
        if self._deleted:
            gone = self._random.choice(self._deleted)
            try:
                self._ask(lambda client: client.responses.retrieve(gone))
            except openai.NotFoundError:
                return
            raise Found(f"{gone} was deleted and is there")

    # --- Conversations ---

    def _line(self) -> Line:
        lines = [line for line in self._lines if len(line.names) < LONGEST_LINE]
        if not lines or self._random.random() < 0.2:
            self._lines.append(Line(self._ask(lambda client: client.conversations.create()).id))
            return self._lines[-1]
        return self._random.choice(lines)

    def talk(self) -> None:
        """A turn in a conversation; one that nobody has acknowledged is in it whole, or not at all."""
        line = self._line()
        name, background = self._new_name(), self._random.random() < 0.4
        request = {"input": f"{name} {self._kind()}", "conversation": line.id, "background": background}
        patient = background or self._random.random() < 0.5
        try:
            response = self._create(**request, again=patient)
        except Lost:
            if line.maybe is None:
                line.maybe = name
            else:  # two that nobody knows of: the line is given up
                self._lines.remove(line)
            raise
        response = self._ended(response.id) if background else response
        if response.status == "failed" and self._is_of_the_host(response):
            return
        names = line.names
        if line.maybe is not None and last_text(response).split()[-2:-1] == [line.maybe]:
            names = (*names, line.maybe)
        line.maybe = None
        line.names = (*names, name)
        self._took(response, line.names)
        self._look_at(line)

    def _look_at(self, line: Line) -> None:
        items = self._ask(lambda client: client.conversations.items.list(line.id, order="asc", limit=100).data)
        said = [item.content[0].text.split()[0] for item in items if item.role == "user"]
        said = [name for name in said if name != "added"]
        if said != list(line.names):
            raise Found(f"{line.id} has the turns {said}, not {list(line.names)}")
        answers = [item for item in items if item.role == "assistant"]
        if len(answers) != 3 * len(line.names):
            raise Found(f"{line.id} has {len(answers)} answers to {len(said)} turns")

    def add_item(self) -> None:
        if self._lines:
            item: Any = {"type": "message", "role": "user", "content": "added"}
            line = self._random.choice(self._lines)
            self._ask(lambda client: client.conversations.items.create(line.id, items=[item]), again=False)

    def end_line(self) -> None:
        """A conversation that is deleted is gone, and the responses made in it are not."""
        if len(self._lines) < 3:
            return
        line = self._lines.pop(self._random.randrange(len(self._lines)))
        with suppress(openai.NotFoundError):
            self._ask(lambda client: client.conversations.delete(line.id))

    def see_all(self) -> None:
        """At the end: every turn has ended, everything told is there, and every conversation goes on."""
        self.collect()
        for response_id, told in self._told.items():
            found = self._ask(lambda client, wanted=response_id: client.responses.retrieve(wanted))
            if found.to_dict(mode="json") != told:
                self.found.append(f"{self.name}: {response_id} is not as it was told")
        for line in self._lines:
            name = self._new_name()
            response = self._create(input=f"{name} work", conversation=line.id)
            wanted = [(*line.names, name), *([(*line.names, line.maybe, name)] if line.maybe else [])]
            if tuple(last_text(response).split()) not in wanted:
                self.found.append(f"{self.name}: {line.id} has {last_text(response)!r}, not {wanted}")
