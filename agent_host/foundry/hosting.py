"""What differs between a host of one's own and an agent that the platform hosts: one table."""

from dataclasses import dataclass

from agent_host.settings import Platform


@dataclass(frozen=True, slots=True)
class Hosting:
    """One row for each difference; everything else is the same in both places.

    `response_prefix` begins the ids of responses. `ignores_unknown_fields`: gateways add their own to requests.
    `needs_call_id`: a request without one comes from a platform that speaks another version of the protocol.
    `owns_conversations`: the host makes and shows them; else they are somebody else's, and any that is named is taken.
    `tells_platform`: answers carry the platform's headers, and responses the session they belong to.
    """

    response_prefix: str
    ignores_unknown_fields: bool
    needs_call_id: bool
    owns_conversations: bool
    tells_platform: bool


OWN = Hosting(
    response_prefix="resp",
    ignores_unknown_fields=False,
    needs_call_id=False,
    owns_conversations=True,
    tells_platform=False,
)
HOSTED = Hosting(
    response_prefix="caresp",
    ignores_unknown_fields=True,
    needs_call_id=True,
    owns_conversations=False,
    tells_platform=True,
)


def hosting_of(platform: Platform | None) -> Hosting:
    """The column that holds here."""
    return OWN if platform is None else HOSTED
