"""What an error of the service means, and what to do about it: tables and pure functions over them."""

from collections.abc import Mapping
from dataclasses import dataclass

_PULL = (
    "the managed identity of the project needs the role Container Registry Repository Reader on the registry, or "
    "AcrPull where roles are assigned for the whole registry only"
)
_ROLE = (
    "az role assignment create --assignee YOUR_SIGN_IN_NAME --role 'Foundry User' --scope ID_OF_THE_PROJECT, then wait "
    "a few minutes"
)

NOT_SIGNED_IN = "not_signed_in"
"""Our own code: no credential was found, so the service was not asked."""

BY_CODE: Mapping[str, str] = {
    NOT_SIGNED_IN: "Sign in: az login --tenant TENANT, or azd auth login. Where nobody can, set AZURE_CLIENT_ID, "
    "AZURE_TENANT_ID and AZURE_CLIENT_SECRET.",
    "image_pull_failed": f"See that the image is in the registry and was built for linux/amd64; and {_PULL}.",
    "InvalidAcrPullCredentials": (
        "The registry takes no tokens of the platform. Allow them: az acr config authentication-as-arm update "
        f"--registry REGISTRY --status enabled; and {_PULL}."
    ),
    "UnauthorizedAcrPull": f"The platform may not read the registry: {_PULL}.",
    "AcrImageNotFound": "Push the image, and compare its name and tag with those in the registry: az acr repository "
    "show-tags --name REGISTRY --repository NAME.",
    "RegistryNotFound": "Compare the name of the registry with az acr list --output table, and see that it takes calls "
    "from the network that the project is in.",
    "SubscriptionIsNotRegistered": "Register what the message names: az provider register --namespace NAMESPACE.",
    "session_not_ready": "The container did not answer GET /readiness in time. agent-host doctor finds out why.",
    "session_not_accessible": f"The session is another user's. To see it: {_ROLE}.",
}

BY_STATUS: Mapping[int, str] = {
    400: "The service refuses the definition; --dry-run shows it.",
    401: BY_CODE[NOT_SIGNED_IN],
    403: f"You are signed in, but lack a role on the project: {_ROLE}.",
    404: "Compare the name of the agent, and the address in FOUNDRY_PROJECT_ENDPOINT, with the project's page in the "
    "portal.",
    409: "It is in use: sessions run on it. Stop them, or say --force.",
    424: BY_CODE["session_not_ready"],
    429: "The project has as many sessions as it may have. Stop some with agent-host deploy sessions, or ask for a "
    "larger quota.",
}
_OTHER = "The service is in trouble. Try again; if that goes on, look at status.azure.com."
_UNREACHABLE = (
    "Compare the address in FOUNDRY_PROJECT_ENDPOINT with the project's page in the portal, and see that this machine "
    "reaches it, through a proxy if there must be one (HTTPS_PROXY)."
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What the service or a client library said. `status` is None if there was no answer at all."""

    status: int | None
    code: str
    message: str


def explained(doing: str, failure: Failure) -> str:
    """What went wrong while something was done, and the remedy."""
    said = failure.message.strip().rstrip(".")
    number = f"HTTP {failure.status}" if failure.status else ""
    known = ", ".join(word for word in (number, failure.code) if word)
    return f"{doing} failed{f' ({known})' if known else ''}: {said}. {remedy(failure)}"


def remedy(failure: Failure) -> str:
    """What to do: by the code if it is known, else by the status."""
    if failure.code in BY_CODE:
        return BY_CODE[failure.code]
    if failure.status is None:
        return _UNREACHABLE
    return BY_STATUS.get(failure.status, _OTHER)
