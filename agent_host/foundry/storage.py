"""The storage of a Foundry project: values with ETags in one named state store, and the responses that it shows.

Rule 1: azure is loaded when a connection is made, not when this module is imported.
Rule 2: every call carries the call id of the request that it is made for, if there is one, and never a user's id.
Rule 3: whatever goes wrong is a `StoreError` that says what to do. Only that somebody else was faster is told apart.

The wire is that of `azure-ai-agentserver-core` 2.2 and `-responses` 2.3, which are the platform's own clients of it.
"""

import asyncio
import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from agent_host.errors import SettingsError, StoreClosedError, StoreError
from agent_host.foundry.calls import call_headers
from agent_host.foundry.project import SCOPE
from agent_host.settings import LOOPBACK

if TYPE_CHECKING:
    from azure.core import AsyncPipelineClient
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.core.rest import AsyncHttpResponse

API_VERSION = "v1"
_PAGE = 100
PATIENCE = 60.0
"""Seconds for one call with all of its repetitions."""
_RETRIES = {"retry_total": 4, "retry_backoff_factor": 0.3}
_TIMEOUTS = {"connection_timeout": 10, "read_timeout": 20}
"""How often azure-core repeats what may be repeated, and the seconds that one attempt takes at most."""
_UNREACHABLE = "Look at FOUNDRY_PROJECT_ENDPOINT and at the network, and try again."
_REMEDIES = {
    401: "The project does not know this identity. Hosted it is the agent's own; elsewhere sign in with: az login",
    403: "This identity may not use the project's storage. Give it the role Foundry User on the account.",
    404: "There is no such thing below this address. Look at FOUNDRY_PROJECT_ENDPOINT.",
    413: "It is more than the platform stores in one value. Make it smaller.",
    429: "The platform takes no more requests at the moment. Try again later.",
}
_FOR_GOOD = (400, 409, 413, 422)

Json = dict[str, Any]


class RejectedError(StoreError):
    """The platform does not take something as it is, and will not later."""


class OvertakenError(Exception):
    """A value is not the one that was to be replaced: somebody else has written it."""


@dataclass(frozen=True, slots=True)
class StateItem:
    """A value of the state store, and the ETag under which it can be replaced."""

    value: Json = field(repr=False)
    etag: str


class ProjectStorage:
    """A connection to the storage of the project at `endpoint`; `store` names its state store.

    Values live for `lifetime` seconds after each write. `user_agent` is what the server calls itself. Without a
    credential azure-identity finds one. No call takes longer than `patience` seconds. `options` are those of
    azure-core's pipeline, such as `transport`.
    """

    def __init__(
        self,
        endpoint: str,
        credential: "AsyncTokenCredential | None" = None,
        *,
        store: str,
        lifetime: int,
        user_agent: str,
        patience: float = PATIENCE,
        **options: Any,
    ) -> None:
        self.endpoint = endpoint
        self.lifetime = lifetime
        self._base = f"{endpoint}/storage/"
        self._credential = credential
        self._store = store
        self._user_agent = user_agent
        self._patience = patience
        self._options = {**_RETRIES, **_TIMEOUTS, **options}
        self._client: AsyncPipelineClient[Any, AsyncHttpResponse] | None = None
        self._owned: AsyncTokenCredential | None = None
        # A token never leaves the machine unencrypted.
        self._enforce_https = urlsplit(endpoint).hostname not in LOOPBACK

    async def open(self) -> None:
        """Connect, and make the state store if the project has none. May be called again."""
        if self._client is None:
            self._client = self._connected()
        answer = await self._send("GET", self._items_path(), expected=(404,))
        if answer is None:
            about = {"name": self._store, "user_isolation": False, "item_ttl_seconds": self.lifetime}
            await self._send("POST", "state_stores", about, expected=(409,))

    async def aclose(self) -> None:
        """Disconnect. May be called again."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.close()

    # --- Values ---

    async def read(self, key: str) -> StateItem | None:
        """The value under a key; None if there is none, or none any more."""
        found = await self._send("GET", self._item_path(key), expected=(404,))
        return None if found is None else StateItem(found["value"], found["etag"])

    async def put(self, key: str, value: Json, tags: Mapping[str, str] | None = None) -> None:
        """Store a value, whatever there is under the key."""
        await self._send("PUT", self._item_path(key), _tagged({"value": value}, tags))

    async def replace(self, key: str, value: Json, etag: str | None, tags: Mapping[str, str] | None = None) -> str:
        """Store a value in the place of the one with this ETag, or, if that is None, where there is none yet.

        Returns the new ETag. Raises `OvertakenError` if something else is there. After any other error the value may
        have been stored.
        """
        if etag is None:
            body = _tagged({"key": key, "value": value}, tags)
            answer = await self._send("POST", f"{self._items_path()}/items", body, expected=(409,))
        else:
            body = _tagged({"value": value}, tags)
            answer = await self._send("PUT", self._item_path(key), body, {"If-Match": etag}, expected=(412,))
        if answer is None:
            raise OvertakenError(key)
        new: str = answer["etag"]
        return new

    async def delete(self, key: str, etag: str | None = None) -> None:
        """Remove a value, if there is one; with an ETag only the one that has it."""
        headers = {"If-Match": etag} if etag is not None else {}
        await self._send("DELETE", self._item_path(key), headers=headers, expected=(404, 412))

    async def keys(self, tags: Mapping[str, str]) -> list[str]:
        """The keys of all values with these tags, the oldest first."""
        found: list[str] = []
        query = {f"tags.{name}": value for name, value in tags.items()} | {"limit": str(_PAGE), "order": "asc"}
        while True:
            page = await self._send("GET", f"{self._items_path()}/items:keys", query=query)
            found += [each["key"] for each in page["data"]]
            if not page["has_more"]:
                return found
            query["after"] = page["last_id"]

    # --- Responses ---

    async def show_response(self, response: Json, input_items: Sequence[Json], history: Sequence[str]) -> None:
        """Let the platform know a finished response, what was said to it, and the ids of what was said before."""
        body = {"response": response, "input_items": list(input_items), "history_item_ids": list(history)}
        await self._send("POST", "responses", body, expected=(409,))

    async def hide_response(self, response_id: str) -> None:
        """Let the platform forget a response, if it knows it."""
        await self._send("DELETE", f"responses/{quote(response_id, safe='')}", expected=(404,))

    async def items_in(self, conversation_id: str) -> list[str]:
        """The ids of all items of a conversation, in order."""
        query = {"limit": "-1", "conversation_id": conversation_id}
        found: list[str] | None = await self._send("GET", "history/item_ids", query=query, expected=(404,))
        return found or []

    async def read_items(self, ids: Collection[str]) -> list[Json]:
        """The items with these ids, in their order, without those that are not there."""
        if not ids:
            return []
        found = await self._send("POST", "items/batch/retrieve", {"item_ids": list(ids)})
        return [item for item in found if item is not None]

    # --- The wire ---

    def _items_path(self) -> str:
        return f"state_stores/{_segment(self._store)}"

    def _item_path(self, key: str) -> str:
        return f"{self._items_path()}/items/{_segment(key)}"

    def _connected(self) -> "AsyncPipelineClient[Any, AsyncHttpResponse]":
        try:
            from azure.core import AsyncPipelineClient
            from azure.core.pipeline import policies
            from azure.identity.aio import DefaultAzureCredential

            # Credential and client load what sends, aiohttp, when they are made.
            if self._credential is None:
                self._credential = self._owned = DefaultAzureCredential()
            chain = [
                policies.HeadersPolicy({"User-Agent": self._user_agent}),
                policies.AsyncRetryPolicy(**self._options),
                policies.AsyncBearerTokenCredentialPolicy(self._credential, SCOPE),
                policies.DistributedTracingPolicy(),
            ]
            return AsyncPipelineClient(self._base, policies=chain, **self._options)
        except ImportError as error:
            raise SettingsError(
                f"{error}. The storage of a Foundry project needs: pip install 'workflow-agent-host[foundry]'"
            ) from None

    async def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        expected: Collection[int] = (),
    ) -> Any:
        """The JSON of the answer; None for an answer with one of the statuses that are `expected` besides success."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        if self._client is None:
            raise StoreClosedError("The store is not open: it was closed, or `open` was not called yet.")
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        sent = {**call_headers(), **(headers or {})}
        if content is not None:
            sent["Content-Type"] = "application/json; charset=utf-8"
        request = HttpRequest(
            method,
            self._base + path,
            params={"api-version": API_VERSION, **(query or {})},
            headers=sent,
            content=content,
        )
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._client.send_request(request, enforce_https=self._enforce_https)
                await answer.read()
            if answer.status_code < 300:
                return json.loads(answer.text() or "null")
        except ClientAuthenticationError as error:
            raise self._unusable(error.message.partition("\n")[0], _REMEDIES[401]) from error
        except AzureError as error:
            raise self._unusable(error.message, _UNREACHABLE) from error
        except TimeoutError as error:
            raise self._unusable(f"no answer in {self._patience:g} seconds", _UNREACHABLE) from error
        except ValueError as error:
            raise self._unusable("its answer is no JSON", _UNREACHABLE) from error
        if answer.status_code in expected:
            return None
        raise _refused(method, path, answer)

    def _unusable(self, cause: str, remedy: str) -> StoreError:
        return StoreError(f"The project's storage at {self.endpoint} cannot be used: {cause.rstrip('.')}. {remedy}")


def _segment(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _tagged(body: Json, tags: Mapping[str, str] | None) -> Json:
    return {**body, "tags": dict(tags)} if tags else body


def _refused(method: str, path: str, answer: "AsyncHttpResponse") -> StoreError:
    try:
        said = json.loads(answer.text())["error"]["message"]
    except (ValueError, LookupError, TypeError):
        said = answer.reason
    what = path.partition("/")[0]
    remedy = _REMEDIES.get(answer.status_code, "The platform is at fault. Try again.")
    kind = RejectedError if answer.status_code in _FOR_GOOD else StoreError
    return kind(f"The project's storage has refused {method} {what} ({answer.status_code}: {said}). {remedy}")
