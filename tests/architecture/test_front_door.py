"""The public names: few, on purpose, and all of them there."""

import pytest

import agent_host

PUBLIC = [
    "Case",
    "CustomEvent",
    "Default",
    "Executor",
    "FileCheckpointStorage",
    "InMemoryCheckpointStorage",
    "Message",
    "ResponseStream",
    "RetryPolicy",
    "TextDelta",
    "Workflow",
    "WorkflowBuilder",
    "WorkflowContext",
    "WorkflowEvent",
    "WorkflowExecutor",
    "WorkflowRunResult",
    "WorkflowRunState",
    "config",
    "create_app",
    "executor",
    "handler",
    "open_store",
    "register_checkpoint_type",
    "response_handler",
    "state",
]


def test_the_public_names_are_these() -> None:
    """A public name comes or goes on purpose: here, too."""
    assert agent_host.__all__ == PUBLIC


@pytest.mark.parametrize("name", sorted(agent_host._HOMES))
def test_every_name_of_the_front_door_resolves(name: str) -> None:
    """A name that is loaded when it is used is there when it is used."""
    value = getattr(agent_host, name)
    assert value is getattr(agent_host, name)


def test_every_public_name_has_a_home() -> None:
    """What `from agent_host import *` promises, the lazy table can load."""
    assert set(agent_host.__all__) <= set(agent_host._HOMES)


def test_the_front_door_shows_what_is_behind_it() -> None:
    """`dir()` lists the names that are not loaded yet."""
    assert set(PUBLIC) <= set(dir(agent_host))


def test_an_unknown_name_is_an_error_that_names_it() -> None:
    """A misspelt name fails at the import, not later."""
    with pytest.raises(AttributeError, match="'WorkflowBilder'"):
        _ = agent_host.WorkflowBilder
