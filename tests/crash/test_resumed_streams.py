"""A background response whose process was killed in the middle of a message is read by the stock clients' helpers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_host.testing.crash_points import CrashPoint, Trap
from tests.clients.test_node import FOLDER, installed, run_node  # noqa: F401 - `installed` is a fixture used by name
from tests.crash.mortal_host import LOST, PATIENCE, MortalHost


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MortalHost, str]]:
    """A host and the response: its first message was begun, shown, and begun again by the next process."""
    host = MortalHost(tmp_path_factory.mktemp("resumed"))
    host.start()
    host.set(Trap(CrashPoint.APPENDED))
    response = host.client.responses.create(input="one nested", background=True)
    assert host.has_died(within=PATIENCE)
    host.start()
    assert host.ended(response.id).status == "completed"
    yield host, response.id
    host.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[MortalHost]:
    host = MortalHost(tmp_path)
    host.start()
    yield host
    host.close()


def texts(response: Any) -> list[str]:
    return [part.text for item in response.output for part in item.content]


def test_openai_reads_it_with_the_helper(resumed: tuple[MortalHost, str]) -> None:
    """From the first event on, and from any place: no error, and the response in the end."""
    host, response_id = resumed
    story = list(host.client.responses.retrieve(response_id, stream=True))
    taken_back = [item for item in story[-1].response.output if item.status == "incomplete"]
    assert len(taken_back) == 1
    assert texts(story[-1].response) == ["to be or not", "joined", "one"]
    for after in (None, *range(len(story) - 1)):
        place = {} if after is None else {"starting_after": after}
        with host.client.responses.stream(response_id=response_id, **place) as stream:
            seen = [event.sequence_number for event in stream]
            assert seen == [event.sequence_number for event in story[0 if after is None else after + 1 :]]
            assert stream.get_final_response().output_text == story[-1].response.output_text


def test_openai_reads_it_with_the_helper_across_the_death(host: MortalHost) -> None:
    """A client that was following when the process died comes back behind its last event and misses nothing."""
    host.set(Trap(CrashPoint.APPENDED, passage=2))
    seen: list[Any] = []
    with pytest.raises(LOST):
        for event in host.client.responses.create(input="one work", background=True, stream=True):
            seen.append(event)
    host.start()
    with host.client.responses.stream(
        response_id=seen[0].response.id, starting_after=seen[-1].sequence_number
    ) as stream:
        numbers = [event.sequence_number for event in (*seen, *stream)]
        assert texts(stream.get_final_response()) == ["to be or not", "joined", "one"]
    assert numbers == list(range(len(numbers)))


@pytest.mark.usefixtures("installed")
def test_the_clients_for_node_read_it(
    resumed: tuple[MortalHost, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """openai-node by its helper and from any place, the AI SDK with both providers."""
    host, response_id = resumed
    monkeypatch.setenv("RESPONSE_ID", response_id)
    address = str(host.client.base_url).rstrip("/")
    said = run_node((FOLDER / "resumed").glob("*.test.js"), address, tmp_path / "node.xml")
    assert len(said) == 6
    if faults := [f"{title}: {fault}" for title, fault in said.items() if fault]:
        pytest.fail("\n".join(faults), pytrace=False)
