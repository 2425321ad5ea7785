"""The files of infra/ fit each other, the package, and what their page says of them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pycep import BicepParser

from agent_host.cli import main
from agent_host.cli.serve import serve
from agent_host.deploy.manifest import PLATFORM, PROTOCOL, Image, Manifest, reserved
from tests.docs.pages import ROOT, blocks

INFRA = ROOT / "infra"
PAGE = (INFRA / "README.md").read_text()
BICEP = (INFRA / "main.bicep").read_text()
TEMPLATE: dict[str, Any] = BicepParser().parse(text=BICEP)
AZD: dict[str, Any] = yaml.safe_load((INFRA / "azure.yaml").read_text())
DOCKERFILE = (INFRA / "Dockerfile").read_text()
IMAGE = Image("registry.azurecr.io/help-desk:1")

ROLES = {
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    "8311e382-0749-4cb8-b61a-304f252e45ec": "AcrPush",
    "fb382eab-e894-4461-af04-94435c366c3f": "Container Registry Tasks Contributor",
    "53ca6127-db72-4b80-b1b0-d745d6d5456d": "Foundry User",
    "eadc314b-1a2d-4efa-be10-5d325db5065e": "Foundry Project Manager",
    "eed3b665-ab3a-47b6-8f48-c9382fb1dad6": "Foundry Agent Consumer",
    "3b03c2da-16b3-4a49-8834-0f8130efdd3b": "Log Analytics Data Reader",
}
RETIRED = re.compile(
    r"agent\.yaml|agent\.manifest|capabilityHost|python_3_12|Azure AI User|isolation-key|container_protocol_versions"
    r"|starter-basic|version: .?(?:v1|1\.0\.0)\b"
)
PROJECT_KEYS = {"host", "deployments", "endpoint", "network"}
AGENT_KEYS = {
    "host", "project", "language", "docker", "image", "uses", "kind", "name", "displayName", "description", "metadata",
    "protocols", "env", "startupCommand", "container", "codeConfiguration", "sessionConfiguration", "policies",
    "toolboxes", "memoryStores", "agentEndpoint", "agentCard", "activity",
}  # fmt: skip


def table(title: str) -> list[list[str]]:
    """The rows of the table behind a line of the page."""
    rows = PAGE.partition(f"\n{title}\n")[2].partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def named(cells: list[str]) -> set[str]:
    """What stands in backquotes in some cells."""
    return {name for cell in cells for name in re.findall(r"`([A-Za-z_]+)`", cell)}


def services(host: str) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in AZD["services"].items() if service["host"] == host}


def test_the_page_explains_every_parameter() -> None:
    """The page's table has each parameter of the template, and no other."""
    assert named([row[0] for row in table("Parameters of main.bicep:")]) == set(TEMPLATE["parameters"])


def test_every_parameter_describes_itself() -> None:
    """Whoever deploys the template without the page is told what each parameter is."""
    without = [
        name
        for name, parameter in TEMPLATE["parameters"].items()
        if "description" not in {decorator["type"] for decorator in parameter.get("decorators", ())}
    ]
    assert without == []


def test_the_page_explains_every_variable() -> None:
    """Each variable that the template gives out, that azd sets or that the image has stands in the page's table."""
    set_by_azd = {name for agent in services("azure.ai.agent").values() for name in agent["env"]}
    in_image = set(re.findall(r"(?:^ARG |[ ])([A-Z]+)=", DOCKERFILE, re.MULTILINE))
    assert in_image == {"PATH", "PYTHONUNBUFFERED", "PYTHON", "PROGRAM"}
    explained = named([row[0] for row in table("## Variables")])
    assert set(TEMPLATE["outputs"]) | set_by_azd | in_image <= explained
    used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", PAGE))
    assert used <= explained


def test_the_page_explains_every_role_and_who_has_it() -> None:
    """The table of roles is the template's: who, which role by its id, and on what."""
    ids = dict(re.findall(r"^  (\w+): '([0-9a-f-]{36})'$", BICEP, re.MULTILINE))
    who = {"project.identity.principalId": "the project's identity", "deployerId": "deployer", "callerId": "caller"}
    assigned = re.findall(
        r"roleAssignments@.*?scope: (\w+)\n.*?principalId: ([\w.]+)\n.*?roles\.(\w+)\)\n", BICEP, re.DOTALL
    )
    assert len(assigned) == BICEP.count("'Microsoft.Authorization/roleAssignments@")
    assert {role for _, _, role in assigned} == set(ids)
    assert sorted(ids.values()) == sorted(ROLES)
    real = sorted([who[principal], ROLES[ids[role]], scope] for scope, principal, role in assigned)
    assert sorted(row[:3] for row in table("## Roles")) == real


def test_an_assignment_has_a_name_of_its_own() -> None:
    """Each assignment is named after what, to whom and which role, so that deploying again finds it."""
    names = re.findall(r"name: guid\((\w+)\.id, ([\w.]+), roles\.(\w+)\)\n  scope: (\w+)\n", BICEP)
    assert len(names) == len(set(names)) == BICEP.count("'Microsoft.Authorization/roleAssignments@")
    assert all(scope == on for on, _, _, scope in names)


def test_what_the_template_mentions_is_declared() -> None:
    """No property is read of a resource or a parameter that is not there."""
    symbols = {*TEMPLATE["parameters"], *TEMPLATE["variables"], *TEMPLATE["resources"]}
    mentioned = set(re.findall(r"(?:scope|parent|location|principalId|principalType): ([a-z]\w+)(?![\w(])", BICEP))
    mentioned |= set(re.findall(r"\b([a-z]\w*)\.(?:id|name|properties|identity)\b", BICEP))
    assert mentioned <= symbols, mentioned - symbols


def test_azd_knows_every_key() -> None:
    """azure.yaml has only keys that its two kinds of services take, and its services use each other by their names."""
    assert set(AZD) == {"name", "services"}
    for host, known in (("azure.ai.project", PROJECT_KEYS), ("azure.ai.agent", AGENT_KEYS)):
        found = services(host)
        assert found
        for name, service in found.items():
            assert set(service) <= known, name
            assert set(service.get("uses", ())) <= set(AZD["services"])
    assert len(services("azure.ai.project")) + len(services("azure.ai.agent")) == len(AZD["services"])


def test_azd_makes_the_agent_that_the_package_makes() -> None:
    """Name, protocol, size and idle timeout are what agent-host deploy would send, and the platform takes them."""
    (agent,) = services("azure.ai.agent").values()
    resources, session = agent["container"]["resources"], agent["sessionConfiguration"]
    manifest = Manifest(
        name=agent["name"], source=IMAGE, cpu=resources["cpu"], memory=resources["memory"], environment=agent["env"],
        idle_timeout=session["idleTimeoutSeconds"],
    ).checked()  # fmt: skip
    assert manifest.definition == Manifest(name="help-desk", source=IMAGE, environment=agent["env"]).definition
    assert [(each["protocol"], each["version"]) for each in agent["protocols"]] == [PROTOCOL]
    assert (agent["kind"], agent["language"]) == ("hosted", "docker")
    assert (INFRA / agent["project"] / agent["docker"]["path"]).resolve() == INFRA / "Dockerfile"
    assert reserved(agent["env"]) == []


def test_both_ways_have_the_same_model() -> None:
    """azd deploys the model that the template does by default, and the agent asks for it by its name."""
    (project,) = services("azure.ai.project").values()
    (deployment,) = project["deployments"]
    defaults = {name: parameter.get("default") for name, parameter in TEMPLATE["parameters"].items()}
    assert deployment["name"] == defaults["modelDeploymentName"]
    assert deployment["model"] == {
        "format": "OpenAI", "name": defaults["modelName"], "version": defaults["modelVersion"],
    }  # fmt: skip
    assert deployment["sku"] == {"name": "GlobalStandard", "capacity": defaults["modelCapacity"]}
    (agent,) = services("azure.ai.agent").values()
    assert agent["env"]["MICROSOFT_FOUNDRY_MODEL_DEPLOYMENT_NAME"] == deployment["name"]


def test_nothing_retired_is_used() -> None:
    """No file of infra/ has a name that the platform has given up."""
    found = {path.name: RETIRED.findall(path.read_text()) for path in sorted(INFRA.iterdir()) if path.is_file()}
    assert len(found) >= 5
    assert {name: words for name, words in found.items() if words} == {}


def test_the_image_is_made_in_stages_and_runs_as_nobody_special() -> None:
    """What builds is not in the image, the process is not root, and it has a home that it may write to."""
    stages = DOCKERFILE.split("\nFROM ")[1:]
    assert len(stages) == 2
    assert "pip install" not in stages[1]
    assert "useradd --uid 1000 --create-home session\n" in stages[1]
    assert stages[1].index("USER session\n") < stages[1].index("CMD")
    assert "EXPOSE 8088\n" in stages[1]


def test_the_image_starts_a_command_that_exists() -> None:
    """The command of the image is one that serve takes, which leaves address and port to the platform."""
    words = re.findall(r'"([^"]+)"', DOCKERFILE.partition("\nCMD ")[2])
    assert words[:2] == ["agent-host", "serve"]
    with serve.make_context("serve", words[2:], help_option_names=["-h", "--help"]) as context:
        assert (context.params["host"], context.params["no_auth"], context.params["port"]) == (None, False, None)
    assert context.params["target"] == "app.py:workflow"


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    """Each file that the Dockerfile takes from the repository reaches the builder."""
    (program,) = re.findall(r"^ARG PROGRAM=(.+)$", DOCKERFILE, re.MULTILINE)
    assert (ROOT / program / "app.py").is_file()
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    ignored = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()]
    for path in (word.replace("${PROGRAM}", program) for word in copied):
        assert (ROOT / path).exists() or path.endswith("[t]"), path
        assert not [pattern for pattern in ignored for part in Path(path).parts if Path(part).match(pattern)], path


@pytest.mark.parametrize("own", [None, "pandas>=3\n"])
def test_the_image_has_what_the_program_requires(own: str | None, tmp_path: Path) -> None:
    """Its requirements.txt is copied if there is one, and installed with the package under the same constraints."""
    (copied,) = re.findall(r"^COPY (.*requirements\S*) infra/$", DOCKERFILE, re.MULTILINE)
    program = tmp_path / "program"
    program.mkdir()
    (tmp_path / "infra").mkdir()
    if own is not None:
        (program / "requirements.txt").write_text(own)
    constraints, pattern = copied.replace("${PROGRAM}", "program").split()
    for found in tmp_path.glob(pattern):
        shutil.copy(found, tmp_path / "infra")
    (install,) = re.findall(r"^RUN (.*pip install[^\\]*(?:\\\n.*)*)", DOCKERFILE, re.MULTILINE)
    script = f"set -e\n{install.replace('/venv/bin/pip', 'echo')}\ncat infra/requirements.txt\n"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    command, _, installed = done.stdout.partition("\n")
    assert f"--constraint {constraints} --requirement infra/requirements.txt .[foundry,otel]" in command
    assert installed == (own or "")
    assert "\nARG PROGRAM\n" in DOCKERFILE.split("\nFROM ")[1].partition(copied)[0]


@pytest.mark.parametrize("name", ["Dockerfile", "README.md"])
def test_every_build_is_for_the_platform(name: str) -> None:
    """No command builds an image for the architecture that the builder happens to have."""
    joined = (INFRA / name).read_text().replace("\\\n", " ")
    builds = re.findall(r"(?:docker build|az acr build)[^`\n]*", joined)
    assert builds
    assert [build for build in builds if f"--platform {PLATFORM}" not in build] == []


def test_the_deployments_of_the_page_can_be_planned() -> None:
    """Each agent-host deploy of the page is understood, and its plan names the agent that azd names."""
    commands = [
        line.replace("$image", IMAGE.reference)
        for block in blocks("infra/README.md")
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.startswith("agent-host deploy samples")
    ]
    assert len(commands) == 2
    for command in commands:
        result = CliRunner().invoke(main, [*shlex.split(command)[1:], "--dry-run"])
        assert result.exit_code == 0, result.output
        assert "create   a version of help-desk" in result.output
