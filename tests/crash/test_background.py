"""A background turn outlives its process: killed or stopped wherever it was, the next process ends it, once."""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from openai import OpenAI

STEPPING = f"{Path(__file__).parent / 'stepping.py'}:workflow"
STEP = f"{Path(__file__).parent / 'noting.py'}:workflow"
TERMINAL = {"response.completed", "response.failed", "response.incomplete"}


def wait_for(holds: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 20
    while not (found := holds()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
    return found


class Stage:
    """A host that is started again and again on one file, and the folder where its turns leave their traces."""

    def __init__(self, serve: Any, folder: Path) -> None:
        self._serve = serve
        self._folder = folder
        self.host: Any = None

    def start(self, *options: str) -> Any:
        self.host = self._serve(STEPPING, *options, env={"STEPPING": str(self._folder)})
        return self.host

    def begin(self, text: Any, **more: Any) -> Any:
        """A background turn, which is answered at once."""
        return self.host.client.responses.create(input=text, background=True, **more)

    def ran(self, name: str) -> list[str]:
        """The executors that have run for a turn, once for every time."""
        path = self._folder / f"ran-{name}"
        return path.read_text().split() if path.exists() else []

    def let_go(self, name: str) -> None:
        (self._folder / f"go-{name}").touch()

    def ended(self, response_id: str) -> Any:
        """The response once it has ended."""
        responses = self.host.client.responses

        def look() -> Any:
            response = responses.retrieve(response_id)
            return None if response.status in ("queued", "in_progress") else response

        return wait_for(look, f"{response_id} ends")

    def events(self, response_id: str) -> list[dict[str, Any]]:
        """The event log of a response as it lies in the store."""
        query = "SELECT bodies FROM events WHERE response_id = ? ORDER BY last_sequence"
        with closing(sqlite3.connect(f"file:{self._folder / 'host.db'}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query, (response_id,)).fetchall()
        return [msgspec.json.decode(event) for (bodies,) in rows for event in msgspec.msgpack.decode(bodies)]

    def story(self, response_id: str) -> list[dict[str, Any]]:
        """The events of a response that has ended, which are sound and the same for a client as in the store."""
        events = self.events(response_id)
        told = self.host.client.responses.retrieve(response_id, stream=True)
        assert [event.to_dict(mode="json") for event in told] == events
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
        assert [event["type"] for event in events].count("response.in_progress") == 1
        ended = self.host.client.responses.retrieve(response_id)
        assert ended.to_dict(mode="json") == events[-1]["response"]
        return events


@pytest.fixture
def stage(serve: Any, tmp_path: Path) -> Stage:
    stage = Stage(serve, tmp_path)
    stage.start("--shutdown-grace", "1")
    return stage


def texts(response: Any) -> list[str]:
    return [part.text for item in response.output for part in item.content]


def abandoned(story: list[dict[str, Any]]) -> list[int]:
    """The places of the items that were taken back: each is done at once, without its text or its part being done."""
    places = []
    for event in story:
        if event["type"] == "response.output_item.done" and event["item"]["status"] == "incomplete":
            assert event["item"]["content"] == []
            assert event["item"]["phase"] == "commentary"
            places.append(event["output_index"])
    for place in places:
        kinds = [event["type"] for event in story if event.get("output_index") == place]
        assert kinds[:2] == ["response.output_item.added", "response.content_part.added"]
        assert set(kinds[2:-1]) <= {"response.output_text.delta"}
        assert kinds[-1] == "response.output_item.done"
    return places


def test_a_turn_that_was_queued_is_begun_by_the_next_process(serve: Any, tmp_path: Path) -> None:
    """Killed while it waits for a place, it runs after the start as if nothing had happened."""
    stage = Stage(serve, tmp_path)
    stage.start("--max-concurrent-turns", "1")
    busy, queued = stage.begin("busy first"), stage.begin("queued -")
    wait_for(lambda: stage.ran("busy"), "the first turn runs")
    assert stage.host.client.responses.retrieve(queued.id).status == "queued"
    stage.host.kill()
    assert stage.ran("queued") == []
    stage.let_go("busy")
    stage.start()
    assert texts(stage.ended(queued.id)) == ["begun", "turn 1"]
    assert stage.ran("queued") == ["first", "second", "third"]
    kinds = [event["type"] for event in stage.story(queued.id)]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert stage.ended(busy.id).status == "completed"


@pytest.mark.parametrize(
    ("place", "runs", "deltas", "expected"),
    [
        ("first", ["first", "first", "second", "third"], 1, ["beginning", "begun", "turn 1"]),
        ("second", ["first", "second", "second", "third"], 3, ["begun", "half way there", "turn 1"]),
        ("third", ["first", "second", "third", "third"], 2, ["begun", "ending", "turn 1"]),
    ],
)
def test_a_turn_that_died_in_the_middle_of_a_superstep_begins_it_again(
    stage: Stage, place: str, runs: list[str], deltas: int, expected: list[str]
) -> None:
    """What clients have seen of that superstep is taken back, what was committed before does not run again."""
    response = stage.begin(f"one {place}")
    wait_for(
        lambda: (
            [event["type"] for event in stage.events(response.id)].count("response.output_text.delta") >= deltas
            and stage.ran("one")[-1:] == [place]
        ),
        "the deltas are visible",
    )
    seen = wait_for(lambda: stage.events(response.id), "events")
    stage.host.kill()
    stage.start()
    wait_for(lambda: stage.ran("one").count(place) == 2, "the superstep begins again")
    stage.let_go("one")
    ended = stage.ended(response.id)
    assert ended.status == "completed"
    assert texts(ended) == expected
    assert stage.ran("one") == runs
    story = stage.story(response.id)
    assert story[: len(seen)] == seen
    (taken_back,) = abandoned(story)
    assert [item.status for item in ended.output].index("incomplete") == taken_back
    assert [item.id for item in ended.output] == [
        event["item"]["id"] for event in story if event["type"] == "response.output_item.added"
    ]
    assert texts(stage.host.say("two -", response.id)) == ["begun", "turn 2"]


def test_a_turn_that_died_between_two_supersteps_goes_on_with_the_next(stage: Stage) -> None:
    """What a committed superstep has shown stays as it was, and nothing is taken back."""
    response = stage.begin("one between")
    wait_for(lambda: len(stage.events(response.id)) > 3, "the first superstep is stored")
    seen = stage.events(response.id)
    stage.host.kill()
    stage.let_go("one")
    stage.start()
    ended = stage.ended(response.id)
    assert texts(ended) == ["begun", "turn 1"]
    assert stage.ran("one") == ["first", "second", "third"]
    story = stage.story(response.id)
    assert story[: len(seen)] == seen
    assert abandoned(story) == []
    assert texts(stage.host.say("two -", response.id)) == ["begun", "turn 2"]


def test_a_question_outlives_the_process(stage: Stage) -> None:
    """Killed while it waits for an answer, and again while the answer is worked on, the workflow goes on from there."""
    asked = stage.ended(stage.begin("one ask").id)
    (call,) = [item for item in asked.output if item.type == "function_call"]
    stage.host.kill()
    stage.start()
    assert stage.host.client.responses.retrieve(asked.id) == asked
    answer = [{"type": "function_call_output", "call_id": call.call_id, "output": "third"}]
    response = stage.begin(answer, previous_response_id=asked.id)
    wait_for(lambda: stage.ran("one")[-1:] == ["third"], "the answer is worked on")
    stage.host.kill()
    stage.start()
    stage.let_go("one")
    ended = stage.ended(response.id)
    assert texts(ended) == ["ending", "turn 1"]
    assert stage.ran("one") == ["first", "second", "answered", "third", "third"]
    stage.story(asked.id)
    stage.story(response.id)
    again = stage.host.client.responses.create(input=answer, previous_response_id=asked.id)
    assert texts(again) == ["ending", "turn 1"]


def test_a_turn_whose_process_dies_again_and_again_is_given_up(stage: Stage) -> None:
    """Three times it is begun; then it has failed, and what it started from can be continued."""
    one = stage.host.say("one -")
    response = stage.begin("two second", previous_response_id=one.id)
    for attempt in (1, 2, 3):
        wait_for(lambda attempt=attempt: stage.ran("two").count("second") == attempt, f"attempt {attempt}")
        assert stage.host.client.responses.retrieve(response.id).status == "in_progress"
        stage.host.kill()
        stage.start()
    ended = stage.ended(response.id)
    assert ended.status == "failed"
    assert "3 times" in ended.error.message
    assert stage.ran("two") == ["first", "second", "second", "second"]
    stage.story(response.id)
    assert texts(stage.host.say("three -", response.id)) == ["begun", "turn 2"]


def test_a_turn_that_waits_does_not_pay_for_the_one_that_kills(serve: Any, tmp_path: Path) -> None:
    """It was accepted and never had a place while three processes died over another; then it runs, once."""
    stage = Stage(serve, tmp_path)
    stage.start("--max-concurrent-turns", "1")
    deadly = stage.begin("deadly first")
    time.sleep(1.1)  # the older one has the place after every start
    waiting = [stage.begin(f"waiting{number} -") for number in range(3)]
    for attempt in (1, 2, 3):
        wait_for(lambda attempt=attempt: stage.ran("deadly").count("first") == attempt, f"attempt {attempt}")
        stage.host.kill()
        stage.start("--max-concurrent-turns", "1")
    assert "3 times" in stage.ended(deadly.id).error.message
    for number, response in enumerate(waiting):
        assert texts(stage.ended(response.id)) == ["begun", "turn 1"]
        assert stage.ran(f"waiting{number}") == ["first", "second", "third"]


def test_a_step_whose_note_is_stored_is_not_taken_again(serve: Any, tmp_path: Path) -> None:
    """Killed after a step of a handler has returned, while its sibling runs, the side effect stands there once."""
    noted = tmp_path / "noted"
    noted.mkdir()
    host = serve(STEP, env={"NOTING": str(noted)})
    response = host.client.responses.create(input="x", background=True)
    wait_for((noted / "returned").exists, "the step has returned")
    host.kill()
    (noted / "go").touch()
    host = serve(STEP, env={"NOTING": str(noted)})
    wait_for(lambda: host.client.responses.retrieve(response.id).status == "completed", "it ends")
    assert (noted / "step").read_text() == "charged\n"
    assert (noted / "sibling").read_text() == "begun\n" * 2


def test_a_host_that_is_stopped_leaves_its_background_turns_to_the_next(stage: Stage) -> None:
    """SIGTERM does not wait for them longer than for others, and they end after the next start."""
    response = stage.begin("one second")
    wait_for(lambda: stage.ran("one") == ["first", "second"], "it runs")
    assert stage.host.stop() < 4
    assert "Traceback" not in stage.host.log
    assert "1 background turn is left for the next start" in stage.host.log
    stage.start()
    stage.let_go("one")
    ended = stage.ended(response.id)
    assert texts(ended) == ["begun", "half way there", "turn 1"]
    assert stage.ran("one") == ["first", "second", "second", "third"]
    assert len(abandoned(stage.story(response.id))) == 1


def test_a_host_that_is_stopped_ends_the_superstep_that_runs(stage: Stage) -> None:
    """Within the grace a background turn comes to its next boundary; nothing of it runs again."""
    response = stage.begin("one second")
    wait_for(lambda: stage.ran("one") == ["first", "second"], "it runs")
    stage.host.process.terminate()
    wait_for(lambda: "stopping" in stage.host.log, "the host stops")
    stage.let_go("one")
    assert stage.host.process.wait(10) == 0
    assert stage.events(response.id)[-1]["type"] not in TERMINAL
    stage.start()
    ended = stage.ended(response.id)
    assert texts(ended) == ["begun", "half way there", "turn 1"]
    assert stage.ran("one") == ["first", "second", "third"]
    assert abandoned(stage.story(response.id)) == []


def test_a_client_that_follows_a_response_across_a_crash_reads_all_of_it(stage: Stage) -> None:
    """It comes back behind the last event it has, to another process, and the stream goes on from there."""
    response = stage.begin("one second")
    events: list[Any] = []
    seen_deltas = threading.Event()
    address = [stage.host.base_url]

    def read() -> None:
        while not events or events[-1].type not in TERMINAL:
            with OpenAI(base_url=address[0], api_key="none", max_retries=0, _strict_response_validation=True) as client:
                try:
                    after = events[-1].sequence_number if events else -1
                    place = {"starting_after": after} if events else {}
                    for event in client.responses.retrieve(response.id, stream=True, **place):
                        events.append(event)
                        if event.type == "response.output_text.delta" and event.delta == "way":
                            seen_deltas.set()
                except (httpx2.TransportError, OSError, ConnectionError):
                    pass
                except Exception as error:  # noqa: BLE001 - a connection that is refused is an error of the client's own
                    assert type(error).__name__ == "APIConnectionError", error
            time.sleep(0.01)

    follower = threading.Thread(target=read, daemon=True)
    follower.start()
    assert seen_deltas.wait(10)
    stage.host.kill()
    address[0] = stage.start().base_url
    stage.let_go("one")
    follower.join(20)
    assert not follower.is_alive()
    assert [event.to_dict(mode="json") for event in events] == stage.story(response.id)
    assert events[-1].response == stage.ended(response.id)


def test_a_stream_that_is_followed_while_the_host_stops_ends_in_order(stage: Stage) -> None:
    """Its follower gets no terminal event and no error, and reads the rest from the next process."""
    response = stage.begin("one second")
    wait_for(lambda: stage.ran("one") == ["first", "second"], "it runs")
    stream = stage.host.client.responses.retrieve(response.id, stream=True)
    events = [next(stream)]
    stage.host.process.terminate()
    events += list(stream)
    assert stage.host.process.wait(10) == 0
    assert "Traceback" not in stage.host.log
    assert events[-1].type not in TERMINAL
    stage.let_go("one")
    stage.start()
    events += list(
        stage.host.client.responses.retrieve(response.id, stream=True, starting_after=events[-1].sequence_number)
    )
    assert [event.to_dict(mode="json") for event in events] == stage.story(response.id)


def test_a_host_that_is_stopped_in_order_has_not_died(stage: Stage) -> None:
    """However often it is stopped, a background turn goes on: only deaths are counted against it."""
    response = stage.begin("one second")
    for attempt in range(1, 5):
        wait_for(lambda attempt=attempt: stage.ran("one").count("second") == attempt, f"start {attempt}")
        stage.host.stop()
        stage.start("--shutdown-grace", "0")
    stage.let_go("one")
    assert texts(stage.ended(response.id)) == ["begun", "half way there", "turn 1"]
