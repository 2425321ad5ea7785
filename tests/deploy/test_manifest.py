"""The definition of a hosted agent: what it says, and what is refused before the service is asked."""

from typing import Any

import pytest
from azure.ai.projects.models import HostedAgentDefinition

from agent_host.deploy.manifest import Code, Image, Manifest, agent_name
from agent_host.errors import DeployError

IMAGE = Image("registry.azurecr.io/desk:42")


def test_an_image_is_defined_as_the_client_library_reads_it() -> None:
    """Every field of the definition is one that the service's own model knows, under the name it has there."""
    definition = HostedAgentDefinition(Manifest(name="desk", source=IMAGE, environment={"TONE": "calm"}).definition)
    assert definition.kind == "hosted"
    assert (definition.cpu, definition.memory) == ("1", "2Gi")
    assert definition.environment_variables == {"TONE": "calm"}
    assert definition.protocol_versions is not None and definition.session_configuration is not None
    assert [(each.protocol, each.version) for each in definition.protocol_versions] == [("responses", "2.0.0")]
    assert definition.session_configuration.idle_timeout_seconds is not None
    assert definition.session_configuration.idle_timeout_seconds.total_seconds() == 900
    assert definition.container_configuration is not None and definition.code_configuration is None
    assert definition.container_configuration.image == "registry.azurecr.io/desk:42"


def test_an_archive_is_defined_as_the_client_library_reads_it() -> None:
    """Code comes with its runtime and command, and with no image."""
    definition = HostedAgentDefinition(Manifest(name="desk", source=Code(("python", "main.py"))).definition)
    assert definition.container_configuration is None and definition.code_configuration is not None
    assert definition.code_configuration.runtime == "python_3_13"
    assert definition.code_configuration.entry_point == ["python", "main.py"]
    assert definition.code_configuration.dependency_resolution == "remote_build"


def test_a_registry_elsewhere_is_reached_through_a_connection() -> None:
    """The name of the connection, and no secret, stands beside the image."""
    container = Manifest(name="desk", source=Image("ghcr.io/desk:42", "github")).definition["container_configuration"]
    assert container == {"image": "ghcr.io/desk:42", "registry_connection_id": "github"}


def test_only_fields_of_the_model_are_sent() -> None:
    """No definition has a key that the service would not know."""
    known = set(HostedAgentDefinition._attr_to_rest_field)
    for source in (IMAGE, Code(("python", "main.py"))):
        assert set(Manifest(name="desk", source=source).definition) <= known


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "help desk"}, "'help desk' is no name for an agent"),
        ({"name": "-desk"}, "letters and digits"),
        ({"name": "d" * 64}, "at most 63"),
        ({"idle_timeout": 60}, "Take 120 to 14400 seconds"),
        ({"environment": {"PORT": "80"}}, "The platform sets PORT itself"),
        ({"environment": {"FOUNDRY_PROJECT_ENDPOINT": "x"}}, "sets FOUNDRY_PROJECT_ENDPOINT itself"),
        ({"environment": {"AGENT_HOST_API_KEY": "x"}}, "sets AGENT_HOST_API_KEY itself"),
        ({"source": Image("registry.azurecr.io/desk")}, "with a tag of its own"),
        ({"source": Image("localhost:5000/desk:latest")}, "with a tag of its own"),
        ({"source": Code(("python",), "python_3_12")}, "Take python_3_13 or python_3_14"),
    ],
)
def test_what_the_platform_would_refuse_is_refused_here(wrong: dict[str, Any], says: str) -> None:
    """A definition that cannot work is an error that names the remedy, before anything is sent."""
    with pytest.raises(DeployError, match=says):
        Manifest(**{"name": "desk", "source": IMAGE, **wrong}).checked()


def test_all_problems_are_told_at_once() -> None:
    """Whoever has made two mistakes learns of both."""
    with pytest.raises(DeployError, match=r"(?s)no name for an agent.*idle timeout"):
        Manifest(name="a b", source=IMAGE, idle_timeout=1).checked()


def test_a_digest_is_a_tag_of_its_own() -> None:
    """An image that is named by its digest can never be another one."""
    assert Manifest(name="desk", source=Image("localhost:5000/desk@sha256:0a")).checked().source


@pytest.mark.parametrize(
    ("workflow", "agent"), [("help desk", "help-desk"), ("_x_", "x"), ("a" * 62 + " b", "a" * 62), ("Büro", "B-ro")]
)
def test_an_agent_is_named_like_its_workflow(workflow: str, agent: str) -> None:
    """The name of a workflow becomes one that the platform takes."""
    assert agent_name(workflow) == agent
