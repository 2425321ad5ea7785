"""The programs of this folder give on agent_host what they were seen to give on agent_framework."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agent_host
from tests.ported import __main__ as command
from tests.ported.programs import PLAIN, STORED, run

RECORDED = command.RECORDED
STORAGES = pytest.mark.parametrize(
    "storage",
    [lambda folder: agent_host.InMemoryCheckpointStorage(), lambda folder: agent_host.FileCheckpointStorage(folder)],
    ids=["in memory", "in files"],
)


def recorded() -> dict[str, Any]:
    """What the programs gave on agent_framework."""
    results: dict[str, Any] = json.loads(RECORDED.read_text())
    return results


@pytest.mark.parametrize("name", PLAIN)
async def test_a_program_gives_the_recorded_result(name: str) -> None:
    """Outputs, questions, states and events are those that agent_framework gives for the same program."""
    assert await run(name) == recorded()[name]


@STORAGES
@pytest.mark.parametrize("name", STORED)
async def test_a_program_with_checkpoints_gives_the_recorded_result(
    name: str, storage: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Stopped and resumed, from memory or from files, a program comes to the end it has on agent_framework."""
    assert await run(name, storage(tmp_path)) == recorded()[name]


def test_every_program_is_run_and_recorded() -> None:
    """No program and no record is left out of the tests above."""
    there = {path.stem for path in Path(__file__).parent.glob("programs/[a-z]*.py")}
    assert there == {*PLAIN, *STORED} == recorded().keys()
    assert len(there) == len(PLAIN) + len(STORED)


def test_the_command_shows_what_another_interpreter_gives_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends well where the results are those recorded; otherwise it shows them and fails, until they are recorded."""
    record = tmp_path / "recorded.json"
    monkeypatch.setattr(command, "RECORDED", record)
    record.write_text(json.dumps({"loop": recorded()["loop"] | {"rounds": 99}, "fan_in": {}}))
    ask = [sys.executable, "loop", "--package", "agent_host"]
    assert command.main(ask) == 1
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown[2:] if line[0] in "+-"] == ['-    "rounds": 99,', '+    "rounds": 5,']
    assert command.main([*ask, "--record"]) == 0
    assert json.loads(record.read_text()) == {"loop": recorded()["loop"], "fan_in": {}}
    capsys.readouterr()
    assert command.main(ask) == 0
    assert capsys.readouterr().out == "programs that give what is recorded: 1\n"
