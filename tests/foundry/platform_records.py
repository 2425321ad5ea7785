"""What the storage of a project keeps, and how it answers each call: state stores with their items, and responses."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Annotated, Any

import msgspec

DAY = 86_400
LARGEST_VALUE = 1_048_576
"""Bytes of an item's value as it is sent."""
CODES = {
    400: "invalid_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict",
    412: "precondition_failed", 429: "too_many_requests", 500: "server_error", 503: "service_unavailable",
}  # fmt: skip
_RESPONSE = re.compile("caresp_[0-9A-Za-z]{50}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: a status, a body that becomes JSON, and headers."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def error(status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """An error in the shape of the service."""
    told = {"code": CODES[status], "message": message} | ({"param": param} if param else {})
    return Reply(status, {"error": told}, headers or {})


class Refusal(Exception):
    """The storage does not carry out a call."""

    def __init__(self, status: int, message: str, param: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.reply = error(status, message, param, headers)

    @property
    def is_violation(self) -> bool:
        """Whether the call itself was wrong, whatever is stored."""
        return self.reply.status in (400, 401)


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose shape is right. `store` and `key` are decoded; `key` is an item's key or a response's id."""

    store: str
    key: str
    query: Mapping[str, str]
    body: Any
    if_match: str | None
    user: str
    now: float


# --- The bodies of calls -----------------------------------------------------------------------------------------

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_TagName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_TagValue = Annotated[str, msgspec.Meta(max_length=256)]
_Tags = Annotated[dict[_TagName, _TagValue], msgspec.Meta(max_length=16)]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object without fields that the service does not know."""


class NewStore(_Body, frozen=True):
    """A store to be made; `item_ttl_seconds` slides with each write of an item, and -1 is for ever."""

    name: _Name
    user_isolation: bool = False
    item_ttl_seconds: int = 30 * DAY
    description: str | None = None
    tags: _Tags | None = None


class Written(_Body, frozen=True):
    """What an item is to hold."""

    value: msgspec.Raw
    tags: _Tags | None = None


class NewItem(_Body, frozen=True):
    """An item that must not be there yet."""

    key: _Name
    value: msgspec.Raw
    tags: _Tags | None = None


class NewResponse(_Body, frozen=True):
    """A response, the items that it answers, and the items before them."""

    response: dict[str, Any]
    input_items: list[dict[str, Any]]
    history_item_ids: list[str]


class Wanted(_Body, frozen=True):
    """The ids of items to be fetched."""

    item_ids: list[str]


def path_name(name: str, what: str) -> str:
    """The name of a store or key that came in a path, if the service would take it."""
    if not 1 <= len(name) <= 128:
        raise Refusal(400, f"A {what} has 1 to 128 characters, not {len(name)}.", what)
    return name


def response_id(found: Any, param: str) -> str:
    """The id of a response, if it has the form of one."""
    if not isinstance(found, str) or not _RESPONSE.fullmatch(found):
        raise Refusal(400, f"{found!r} is no id of a response.", param)
    return found


def _identified(items: Any, param: str) -> list[dict[str, Any]]:
    for item in items:
        if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in ("id", "type")):
            raise Refusal(400, f"An item needs an id and a type: {str(item)[:200]}", param)
    return list(items)


def _page(entries: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """A page of entries that are given oldest first."""
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise Refusal(400, f"A page has 1 to 100 entries, not {limit}.", "limit")
    if order not in ("asc", "desc"):
        raise Refusal(400, f"An order is asc or desc, not {order}.", "order")
    if "after" in query and "before" in query:
        raise Refusal(400, "A page is after an entry or before one, not both.", "before")
    ordered = list(entries) if order == "asc" else list(reversed(entries))
    ids = [entry["id"] for entry in ordered]
    if "after" in query:
        ordered = ordered[ids.index(query["after"]) + 1 :] if query["after"] in ids else []
    elif "before" in query:
        ordered = ordered[: ids.index(query["before"])] if query["before"] in ids else []
    data = ordered[: int(limit)]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = len(ordered) > len(data)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


# --- State stores ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """A value under a key, as JSON; `written_at` is exact where the service shows whole seconds."""

    id: str
    key: str
    value: bytes
    tags: Mapping[str, str] | None
    etag: str
    created_at: int
    written_at: float

    def ref(self) -> dict[str, Any]:
        """The item without what it holds."""
        return {
            "id": self.id, "object": "state_store.item", "key": self.key, "etag": self.etag,
            "created_at": self.created_at, "updated_at": int(self.written_at),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class StateStore:
    """A store with its items, oldest first, by user and key; the user is "" unless users are isolated."""

    id: str
    made: NewStore
    created_at: int
    items: dict[tuple[str, str], Item] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The store as the service shows it."""
        times = {"created_at": self.created_at, "updated_at": self.created_at}
        return {"id": self.id, "object": "state_store", **msgspec.structs.asdict(self.made), **times}

    def find(self, user: str, key: str, now: float) -> Item | None:
        """An item; once its time is over it is gone."""
        ttl, found = self.made.item_ttl_seconds, self.items.get((user, key))
        if found and ttl != -1 and found.written_at + ttl <= now:
            del self.items[user, key]
            return None
        return found

    def living(self, now: float) -> dict[tuple[str, str], Item]:
        """All items whose time is not over."""
        return {place: item for place in list(self.items) if (item := self.find(*place, now))}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, the ids of the items that it answers, and the ids of those before them."""

    response: dict[str, Any]
    input_ids: list[str]
    history: list[str]

    @property
    def own_ids(self) -> list[str]:
        """What the turn of this response added to its history."""
        return [*self.input_ids, *(item["id"] for item in self.response.get("output", []))]


class Records:
    """Everything that one project keeps. Responses, items and conversations are found by their user and id."""

    def __init__(self) -> None:
        self.stores: dict[str, StateStore] = {}
        self.responses: dict[tuple[str, str], StoredResponse] = {}
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.conversations: dict[tuple[str, str], list[str]] = {}
        self._numbers = count(1)

    def create_store(self, call: Call) -> Reply:
        """Make a store; what was chosen then holds for ever."""
        made: NewStore = call.body
        if made.item_ttl_seconds != -1 and made.item_ttl_seconds < 1:
            raise Refusal(400, "A time to live is -1 or at least a second.", "item_ttl_seconds")
        if made.name in self.stores:
            raise Refusal(409, f"There is a state store {made.name!r}.", "name")
        store = self.stores[made.name] = StateStore(f"ss_{next(self._numbers)}", made, int(call.now))
        return Reply(201, store.described())

    def get_store(self, call: Call) -> Reply:
        """The store without its items."""
        return Reply(200, self._store(call).described())

    def _store(self, call: Call) -> StateStore:
        if call.store not in self.stores:
            raise Refusal(404, f"There is no state store {call.store!r}.")
        return self.stores[call.store]

    def _place(self, call: Call, key: str) -> tuple[dict[tuple[str, str], Item], tuple[str, str], Item | None]:
        store = self._store(call)
        place = (call.user if store.made.user_isolation else "", key)
        return store.items, place, store.find(*place, call.now)

    def create_item(self, call: Call) -> Reply:
        """Keep a value under a key that has none."""
        body: NewItem = call.body
        items, place, found = self._place(call, body.key)
        if found:
            raise Refusal(409, f"There is an item {body.key!r}.", "key")
        items[place] = self._item(call, body.key, None)
        return Reply(201, items[place].ref())

    def put_item(self, call: Call) -> Reply:
        """Keep a value under a key, there or not, unless the call says what must be there."""
        items, place, found = self._place(call, call.key)
        _match(call, found)
        items[place] = self._item(call, call.key, found)
        return Reply(200, items[place].ref())

    def _item(self, call: Call, key: str, found: Item | None) -> Item:
        value = bytes(call.body.value).strip()
        if not value.startswith(b"{"):
            raise Refusal(400, "A value is a JSON object.", "value")
        if len(value) > LARGEST_VALUE:
            raise Refusal(400, f"A value has at most {LARGEST_VALUE} bytes, not {len(value)}.", "value")
        number = next(self._numbers)
        new = Item(f"it_{number}", key, value, call.body.tags, f'"{number:08x}"', int(call.now), call.now)
        return replace(new, id=found.id, created_at=found.created_at) if found else new

    def get_item(self, call: Call) -> Reply:
        """The item with its value, and its etag as a header too."""
        _, _, found = self._place(call, call.key)
        if found is None:
            raise Refusal(404, f"There is no item {call.key!r}.")
        return Reply(200, {**found.ref(), "value": msgspec.Raw(found.value), "tags": found.tags}, {"ETag": found.etag})

    def delete_item(self, call: Call) -> Reply:
        """Remove the item, there or not, unless the call says what must be there."""
        items, place, found = self._place(call, call.key)
        _match(call, found)
        items.pop(place, None)
        known = {"id": found.id} if found else {}
        return Reply(200, {**known, "object": "state_store.item", "key": call.key, "deleted": True})

    def list_keys(self, call: Call) -> Reply:
        """A page of the items without their values, those that have all the tags of the query."""
        wanted = {name.removeprefix("tags."): tag for name, tag in call.query.items() if name.startswith("tags.")}
        _, (user, _), _ = self._place(call, "")
        found = [
            {**item.ref(), "tags": item.tags}
            for (owner, _), item in self._store(call).living(call.now).items()
            if owner == user and wanted.items() <= (item.tags or {}).items()
        ]
        return Reply(200, _page(sorted(found, key=lambda each: each["created_at"]), call.query))

    # --- Responses ---

    def create_response(self, call: Call) -> Reply:
        """Keep a response and the items that it answers; its conversation, if it has one, grows by both."""
        body: NewResponse = call.body
        place = (call.user, response_id(body.response.get("id"), "response.id"))
        if place in self.responses:
            raise Refusal(409, f"The response {place[1]!r} already exists.", "response.id")
        inputs = _identified(body.input_items, "input_items")
        conversation = body.response.get("conversation")
        if conversation is not None and not (isinstance(conversation, dict) and conversation.get("id")):
            raise Refusal(400, "A response names its conversation as an object with an id.", "response.conversation")
        stored = StoredResponse(body.response, [item["id"] for item in inputs], body.history_item_ids)
        self._keep(call.user, [*inputs, *_identified(body.response.get("output") or [], "response.output")])
        self.responses[place] = stored
        if conversation:
            self.conversations.setdefault((call.user, conversation["id"]), []).append(place[1])
        return Reply(201, body.response)

    def _keep(self, user: str, items: Sequence[dict[str, Any]]) -> None:
        self.items.update({(user, item["id"]): item for item in items})

    def add_to_conversation(self, conversation_id: str, items: Sequence[dict[str, Any]], user: str) -> None:
        """Put items into a conversation that no response of it made."""
        self._keep(user, _identified(items, "items"))
        self.conversations.setdefault((user, conversation_id), []).extend(item["id"] for item in items)

    def _response(self, call: Call, identifier: str) -> StoredResponse:
        found = self.responses.get((call.user, response_id(identifier, "response_id")))
        if found is None:
            raise Refusal(404, f"There is no response {identifier!r}.")
        return found

    def get_response(self, call: Call) -> Reply:
        """The response as it was stored last."""
        return Reply(200, self._response(call, call.key).response)

    def replace_response(self, call: Call) -> Reply:
        """Keep a response in the place of the one with its id."""
        found = self._response(call, call.key)
        if call.body.get("id") != call.key:
            raise Refusal(400, f"The body is not the response {call.key!r}.", "id")
        self._keep(call.user, _identified(call.body.get("output") or [], "output"))
        self.responses[call.user, call.key] = replace(found, response=call.body)
        return Reply(200, call.body)

    def delete_response(self, call: Call) -> Reply:
        """Forget the response; its items stay, for the responses that continue it."""
        self._response(call, call.key)
        del self.responses[call.user, call.key]
        return Reply(200, {"id": call.key, "object": "response", "deleted": True})

    def list_input_items(self, call: Call) -> Reply:
        """A page of the items that the response answers."""
        found = self._response(call, call.key)
        return Reply(200, _page([self.items[call.user, each] for each in found.input_ids], call.query))

    def retrieve_items(self, call: Call) -> Reply:
        """The items in the order of their ids, None for an id that is not known."""
        wanted: Wanted = call.body
        return Reply(200, [self.items.get((call.user, each)) for each in wanted.item_ids])

    def list_history(self, call: Call) -> Reply:
        """The ids of the items before a turn, oldest first and each once; a limit leaves the newest."""
        previous, conversation = call.query.get("previous_response_id"), call.query.get("conversation_id")
        if not previous and not conversation:
            raise Refusal(400, "A history is that of a response or of a conversation.", "previous_response_id")
        ids: list[str] = []
        if previous:
            stored = self._response(call, previous)
            ids += [*stored.history, *stored.own_ids]
        for each in self.conversations.get((call.user, conversation or ""), []):
            turn = self.responses.get((call.user, each))
            ids += turn.own_ids if turn else [each] if (call.user, each) in self.items else []
        limit = call.query.get("limit", "100")
        if not re.fullmatch("-1|[1-9][0-9]*", limit):
            raise Refusal(400, f"A limit is -1 or at least 1, not {limit}.", "limit")
        unique = list(dict.fromkeys(ids))
        return Reply(200, unique if limit == "-1" else unique[-int(limit) :])


def _match(call: Call, found: Item | None) -> None:
    if call.if_match is not None and (found is None or call.if_match not in ("*", found.etag)):
        raise Refusal(412, f"The item {call.key!r} is not the expected one.", **({"ETag": found.etag} if found else {}))


@dataclass(frozen=True, slots=True)
class Route:
    """A call that the storage knows: its path below `storage/`, its body, and the names in its query."""

    method: str
    template: str
    carry_out: Callable[[Records, Call], Reply]
    body: Any = None
    query: frozenset[str] = frozenset()


_PAGE = frozenset({"limit", "order", "after", "before"})
_HISTORY = frozenset({"limit", "previous_response_id", "conversation_id"})
ROUTES = [
    Route("POST", "state_stores", Records.create_store, NewStore),
    Route("GET", "state_stores/{store}", Records.get_store),
    Route("POST", "state_stores/{store}/items", Records.create_item, NewItem),
    Route("GET", "state_stores/{store}/items:keys", Records.list_keys, query=_PAGE | {"tags"}),
    Route("PUT", "state_stores/{store}/items/{key}", Records.put_item, Written),
    Route("GET", "state_stores/{store}/items/{key}", Records.get_item),
    Route("DELETE", "state_stores/{store}/items/{key}", Records.delete_item),
    Route("POST", "responses", Records.create_response, NewResponse),
    Route("GET", "responses/{id}", Records.get_response),
    Route("POST", "responses/{id}", Records.replace_response, dict[str, Any]),
    Route("DELETE", "responses/{id}", Records.delete_response),
    Route("GET", "responses/{id}/input_items", Records.list_input_items, query=_PAGE),
    Route("POST", "items/batch/retrieve", Records.retrieve_items, Wanted),
    Route("GET", "history/item_ids", Records.list_history, query=_HISTORY),
]
