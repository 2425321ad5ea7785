"""The stand-in keeps the rules of the service, so that a store that passes against it is right about them."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.foundry.platform_records import DAY, LARGEST_VALUE
from tests.foundry.stand_in import CALL_ID, TOKEN, Project, StandIn

JSON = "application/json; charset=utf-8"
FIRST, SECOND = (f"caresp_{letter * 50}" for letter in "ab")


def encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def items(key: str = "") -> str:
    """The path of the items of the store `desk`, or of one of them."""
    return f"state_stores/{encoded('desk')}/items" + (f"/{encoded(key)}" if key else "")


def said(identifier: str) -> dict[str, str]:
    return {"id": identifier, "type": "message"}


@pytest.fixture
async def http(platform: Project) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the storage that does everything right."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": JSON}
    url, query = f"{platform.endpoint}/storage/", {"api-version": "v1"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, params=query, timeout=10) as client:
        yield client


@pytest.fixture
async def desk(http: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """The client, and a store `desk` whose items live for thirty days."""
    assert (await http.post("state_stores", json={"name": "desk"})).status_code == 201
    return http


async def put(http: httpx2.AsyncClient, key: str, value: Any, **more: Any) -> httpx2.Response:
    """Write an item; `tags` go into the body, `if_match` becomes the header."""
    condition = {"If-Match": more.pop("if_match")} if "if_match" in more else {}
    return await http.put(items(key), json={"value": value, **more}, headers=condition)


async def respond(http: httpx2.AsyncClient, identifier: str, *, before: Any = (), **more: Any) -> httpx2.Response:
    """Store a response that heard one message and said another."""
    end = identifier[-1]
    response = {"id": identifier, "output": [said(f"out_{end}")], **more}
    body = {"response": response, "input_items": [said(f"in_{end}")], "history_item_ids": list(before)}
    return await http.post("responses", json=body)


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- State stores and items --------------------------------------------------------------------------------------


async def test_a_store_is_made_once_and_keeps_its_choices(http: httpx2.AsyncClient) -> None:
    """What a store was made with is there to be read, and nobody makes it again."""
    made = await http.post("state_stores", json={"name": "dešk", "item_ttl_seconds": -1, "tags": {"a": "b"}})
    assert made.status_code == 201
    shown = made.json()
    assert (shown["object"], shown["item_ttl_seconds"], shown["user_isolation"]) == ("state_store", -1, False)
    assert (await http.get(f"state_stores/{encoded('dešk')}")).json() == shown
    assert code(await http.post("state_stores", json={"name": "dešk"})) == (409, "conflict")
    assert code(await http.get(f"state_stores/{encoded('other')}")) == (404, "not_found")
    assert code(await put(http, "a", {})) == (404, "not_found")


async def test_a_store_keeps_items_for_thirty_days_by_default(desk: httpx2.AsyncClient) -> None:
    """A store that does not say otherwise forgets."""
    assert (await desk.get(f"state_stores/{encoded('desk')}")).json()["item_ttl_seconds"] == 30 * DAY


async def test_an_item_is_created_once(desk: httpx2.AsyncClient, platform: Project) -> None:
    """Of two that create a key, one is refused and changes nothing."""
    body = {"key": "a/ä", "value": {"n": 1}, "tags": {"kind": "head"}}
    made = await desk.post(items(), json=body)
    assert made.status_code == 201
    assert made.json().keys() == {"id", "object", "key", "etag", "created_at", "updated_at"}
    assert code(await desk.post(items(), json={**body, "value": {"n": 2}})) == (409, "conflict")
    found = await desk.get(items("a/ä"))
    assert found.json() == {**made.json(), "value": {"n": 1}, "tags": {"kind": "head"}}
    assert found.headers["etag"] == made.json()["etag"]
    assert platform.items("desk") == {"a/ä": {"n": 1}}
    assert platform.sizes() == {("desk", "a/ä"): 7}


async def test_a_write_under_a_condition_needs_the_newest_etag(desk: httpx2.AsyncClient, platform: Project) -> None:
    """Each write makes a new etag, and whoever holds an older one is told the newest."""
    created = (await put(desk, "a", {"n": 1})).json()
    platform.clock.ahead += 60
    replaced = (await put(desk, "a", {"n": 2}, if_match=created["etag"])).json()
    assert [name for name in created if created[name] != replaced[name]] == ["etag", "updated_at"]
    first, second = created["etag"], replaced["etag"]
    late = await put(desk, "a", {"n": 3}, if_match=first)
    assert (code(late), late.headers["etag"]) == ((412, "precondition_failed"), second)
    assert (await put(desk, "a", {"n": 4}, if_match="*")).status_code == 200
    absent = await put(desk, "b", {}, if_match="*")
    assert (absent.status_code, absent.headers.get("etag")) == (412, None)
    assert platform.items("desk") == {"a": {"n": 4}}


async def test_an_item_is_deleted_once_and_again(desk: httpx2.AsyncClient) -> None:
    """Deleting what is not there succeeds; a condition is held to."""
    made = (await put(desk, "a", {})).json()
    assert (await desk.delete(items("a"), headers={"If-Match": '"old"'})).status_code == 412
    gone = {"object": "state_store.item", "key": "a", "deleted": True}
    assert (await desk.delete(items("a"), headers={"If-Match": made["etag"]})).json() == {"id": made["id"], **gone}
    again = await desk.delete(items("a"))
    assert (again.status_code, again.json()) == (200, gone)
    assert code(await desk.get(items("a"))) == (404, "not_found")


async def test_items_end_by_the_clock_and_writes_begin_their_time_anew(
    desk: httpx2.AsyncClient, platform: Project
) -> None:
    """An item lives for thirty days from its last write; reading does not help it."""
    for key in ("read", "written"):
        await put(desk, key, {})
    platform.clock.ahead += 20 * DAY
    await put(desk, "written", {"n": 2})
    assert (await desk.get(items("read"))).status_code == 200
    platform.clock.ahead += 20 * DAY
    assert code(await desk.get(items("read"))) == (404, "not_found")
    assert platform.items("desk") == {"written": {"n": 2}}
    keys = (await desk.get(f"{items()}:keys")).json()["data"]
    assert [each["key"] for each in keys] == ["written"]
    assert (await put(desk, "read", {}, if_match="*")).status_code == 412
    assert (await desk.post(items(), json={"key": "read", "value": {}})).status_code == 201


async def test_a_store_without_an_end_keeps_its_items(http: httpx2.AsyncClient, platform: Project) -> None:
    """With -1 nothing ends."""
    await http.post("state_stores", json={"name": "desk", "item_ttl_seconds": -1})
    await put(http, "a", {})
    platform.clock.ahead += 10_000 * DAY
    assert platform.items("desk") == {"a": {}}


async def test_keys_are_listed_in_pages(desk: httpx2.AsyncClient) -> None:
    """The newest come first, twenty at a time, unless asked otherwise; replacing an item does not move it."""
    for number in range(23):
        await put(desk, f"{number}", {}, tags={"even": "no" if number % 2 else "yes"})
    await put(desk, "0", {"n": 1}, tags={"even": "yes"})

    async def page(**query: str) -> tuple[list[str], dict[str, Any]]:
        told = (await desk.get(f"{items()}:keys", params={"api-version": "v1", **query})).json()
        return [each["key"] for each in told["data"]], told

    keys, newest = await page()
    assert (keys, newest["has_more"]) == ([f"{number}" for number in range(22, 2, -1)], True)
    assert newest["data"][0].keys() == {"id", "object", "key", "etag", "tags", "created_at", "updated_at"}
    assert (newest["first_id"], newest["last_id"]) == (newest["data"][0]["id"], newest["data"][-1]["id"])
    keys, last = await page(after=newest["last_id"])
    assert (keys, last["has_more"]) == (["2", "1", "0"], False)
    assert (await page(before=last["first_id"], limit="100"))[0] == [f"{number}" for number in range(22, 2, -1)]
    assert (await page(order="asc", limit="2", **{"tags.even": "no"}))[0] == ["1", "3"]
    assert (await page(**{"tags.even": "perhaps"}))[1]["first_id"] is None


async def test_an_isolated_store_keeps_users_apart(http: httpx2.AsyncClient, platform: Project) -> None:
    """The user is that of the call id; a call id nobody knows is the agent's own."""
    platform.users.update(c1="ann", c2="bob")
    await http.post("state_stores", json={"name": "desk", "user_isolation": True})
    await http.put(items("a"), json={"value": {"of": "ann"}}, headers={CALL_ID: "c1"})
    found = [await http.get(items("a"), headers={CALL_ID: call}) for call in ("c1", "c2", "c3")]
    assert [each.status_code for each in found] == [200, 404, 404]
    listed = [(await http.get(f"{items()}:keys", headers={CALL_ID: call})).json()["data"] for call in ("c1", "c2")]
    assert [len(each) for each in listed] == [1, 0]
    assert (platform.items("desk", "ann"), platform.items("desk")) == ({"a": {"of": "ann"}}, {})


async def test_projects_are_worlds_of_their_own(desk: httpx2.AsyncClient, stand_in: StandIn) -> None:
    """What one project keeps, another does not know."""
    with stand_in.checked_project("another") as other:
        url = f"{other.endpoint}/storage/state_stores/{encoded('desk')}"
        assert (await desk.get(url)).status_code == 404
        assert [each.status for each in other.requests] == [404]
    with stand_in.checked_project("another") as anew:
        assert anew.requests == []


async def test_a_violation_fails_the_test_that_caused_it(http: httpx2.AsyncClient, stand_in: StandIn) -> None:
    """A store that calls the storage in a wrong way is found out even if it hides the answer."""
    with pytest.raises(AssertionError, match="no id of a response"), stand_in.checked_project("another") as other:
        await http.get(f"{other.endpoint}/storage/responses/resp_1")


# --- Responses and history ---------------------------------------------------------------------------------------


async def test_a_response_is_stored_replaced_and_deleted(http: httpx2.AsyncClient) -> None:
    """A response is created once; the whole of it is replaced; once deleted it is not found."""
    assert (await respond(http, FIRST, status="in_progress")).status_code == 201
    assert code(await respond(http, FIRST)) == (409, "conflict")
    done = {"id": FIRST, "status": "completed", "output": [said("out_new")]}
    assert (await http.post(f"responses/{FIRST}", json=done)).json() == done
    assert (await http.get(f"responses/{FIRST}")).json() == done
    assert (await http.post("items/batch/retrieve", json={"item_ids": ["out_new"]})).json() == [said("out_new")]
    assert (await http.delete(f"responses/{FIRST}")).status_code == 200
    answers = [
        await http.get(f"responses/{FIRST}"),
        await http.delete(f"responses/{FIRST}"),
        await http.post(f"responses/{FIRST}", json=done),
        await http.get(f"responses/{FIRST}/input_items"),
    ]
    assert [code(each) for each in answers] == [(404, "not_found")] * 4


async def test_input_items_come_in_pages_and_items_by_id(http: httpx2.AsyncClient) -> None:
    """Input items are listed newest first; a batch keeps the order of its ids, with null for the unknown."""
    body = {"response": {"id": FIRST}, "input_items": [said(each) for each in "xyz"], "history_item_ids": []}
    await http.post("responses", json=body)
    page = (await http.get(f"responses/{FIRST}/input_items", params={"api-version": "v1", "limit": "2"})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (["z", "y"], True)
    found = await http.post("items/batch/retrieve", json={"item_ids": ["z", "none", "x"]})
    assert found.json() == [said("z"), None, said("x")]


async def test_the_history_of_a_response_is_what_came_before_and_its_own(http: httpx2.AsyncClient) -> None:
    """History, input and output follow each other; a limit leaves the newest."""
    await respond(http, FIRST)
    await respond(http, SECOND, before=["in_a", "out_a"])

    async def history(**query: str) -> httpx2.Response:
        return await http.get("history/item_ids", params={"api-version": "v1", **query})

    assert (await history(previous_response_id=FIRST)).json() == ["in_a", "out_a"]
    whole = ["in_a", "out_a", "in_b", "out_b"]
    assert (await history(previous_response_id=SECOND, limit="-1")).json() == whole
    assert (await history(previous_response_id=SECOND, limit="3")).json() == whole[1:]
    assert code(await history(previous_response_id=f"caresp_{'c' * 50}")) == (404, "not_found")


async def test_a_conversation_has_the_items_of_others_too(http: httpx2.AsyncClient, platform: Project) -> None:
    """The items of its responses and those that somebody put there are in one order; an unknown one is empty."""
    platform.add_to_conversation("conv_1", [said("greeting")])
    await respond(http, FIRST, conversation={"id": "conv_1"})
    platform.add_to_conversation("conv_1", [said("note")])
    await respond(http, SECOND, conversation={"id": "conv_1"})
    await http.post(f"responses/{FIRST}", json={"id": FIRST, "output": [said("out_a"), said("more")]})
    query = {"api-version": "v1", "limit": "-1"}
    found = (await http.get("history/item_ids", params={**query, "conversation_id": "conv_1"})).json()
    assert found == ["greeting", "in_a", "out_a", "more", "note", "in_b", "out_b"]
    assert (await http.post("items/batch/retrieve", json={"item_ids": ["note"]})).json() == [said("note")]
    assert (await http.get("history/item_ids", params={**query, "conversation_id": "conv_2"})).json() == []


async def test_responses_items_and_history_belong_to_a_user(http: httpx2.AsyncClient, platform: Project) -> None:
    """Another user finds neither the response nor its items nor the conversation, and may use the same ids."""
    platform.users.update(c1="ann", c2="bob")
    platform.add_to_conversation("conv_1", [said("note")], user="ann")
    http.headers[CALL_ID] = "c1"
    await respond(http, FIRST, conversation={"id": "conv_1"})
    batch, query = {"item_ids": ["in_a", "note"]}, {"api-version": "v1", "conversation_id": "conv_1"}
    assert (await http.post("items/batch/retrieve", json=batch)).json() == [said("in_a"), said("note")]
    http.headers[CALL_ID] = "c2"
    assert (await http.get(f"responses/{FIRST}")).status_code == 404
    assert (await http.post("items/batch/retrieve", json=batch)).json() == [None, None]
    assert (await http.get("history/item_ids", params=query)).json() == []
    assert (await respond(http, FIRST)).status_code == 201


# --- What is wrong with a request --------------------------------------------------------------------------------

LONG, LARGE = "k" * 129, {"x": "v" * (LARGEST_VALUE - 7)}
OF_CALL: dict[str, tuple[str, str, Any]] = {
    "an unknown call": ("PATCH", items("a"), {"value": {}}),
    "an unknown field": ("PUT", items("a"), {"value": {}, "ttl": 1}),
    "a missing field": ("PUT", items("a"), {"tags": {}}),
    "a value that is no object": ("PUT", items("a"), {"value": [1]}),
    "a value over the limit": ("PUT", items("a"), {"value": LARGE}),
    "seventeen tags": ("PUT", items("a"), {"value": {}, "tags": {f"{n}": "" for n in range(17)}}),
    "the name of a tag": ("PUT", items("a"), {"value": {}, "tags": {"n" * 65: ""}}),
    "the value of a tag": ("PUT", items("a"), {"value": {}, "tags": {"n": "v" * 257}}),
    "a long key in the path": ("PUT", items(LONG), {"value": {}}),
    "a long key in the body": ("POST", items(), {"key": LONG, "value": {}}),
    "a key that is not encoded": ("GET", f"{items()}/not~base64", None),
    "a key with padding": ("GET", f"{items()}/YQ==", None),
    "a long name": ("POST", "state_stores", {"name": LONG}),
    "no time to live": ("POST", "state_stores", {"name": "b", "item_ttl_seconds": 0}),
    "a large page": ("GET", f"{items()}:keys?api-version=v1&limit=101", None),
    "an unknown order": ("GET", f"{items()}:keys?api-version=v1&order=up", None),
    "two cursors": ("GET", f"{items()}:keys?api-version=v1&after=a&before=b", None),
    "an unknown name in the query": ("GET", f"{items()}:keys?api-version=v1&top=1", None),
    "no api-version": ("GET", f"{items('a')}?x=", None),
    "another api-version": ("GET", f"{items('a')}?api-version=v2", None),
    "the id of a response": ("GET", "responses/resp_1", None),
    "the id of a new response": ("POST", "responses", {"response": {}, "input_items": [], "history_item_ids": []}),
    "an item without a type": (
        "POST", "responses", {"response": {"id": FIRST}, "input_items": [{"id": "a"}], "history_item_ids": []},
    ),
    "a conversation as a string": (
        "POST", "responses",
        {"response": {"id": FIRST, "conversation": "conv_1"}, "input_items": [], "history_item_ids": []},
    ),
    "the history of nothing": ("GET", "history/item_ids", None),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_CALL)
async def test_a_call_of_a_wrong_shape_is_refused_and_noted(
    desk: httpx2.AsyncClient, platform: Project, name: str
) -> None:
    """The service says 400, and the test that caused it will fail."""
    method, url, body = OF_CALL[name]
    query = {} if "?" in url else {"params": {"api-version": "v1"}}
    desk.params = httpx2.QueryParams()
    answer = await desk.request(method, url, json=body, **query) if body else await desk.request(method, url, **query)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert answer.json()["error"]["message"]
    (noted,) = platform.violations
    assert noted.startswith(f"{method} /api/projects/")
    assert platform.items("desk") == {}
    platform.violations.clear()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer another"}, 401),
        ({"Content-Type": "application/json"}, 400),
        ({"x-agent-user-id": "ann"}, 400),
        ({CALL_ID: ""}, 400),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else str(each),
)
async def test_a_request_with_wrong_headers_is_refused_and_noted(
    desk: httpx2.AsyncClient, platform: Project, headers: dict[str, str], status: int
) -> None:
    """The token, the content type, the call id, and that the user's id stays inside, are checked on every request."""
    platform.needs_call_id = True
    right = {CALL_ID: "c1"}
    assert (await desk.put(items("a"), json={"value": {}}, headers=right)).status_code == 200
    answer = await desk.put(items("b"), json={"value": {}}, headers={**right, **headers})
    assert (answer.status_code, len(platform.violations)) == (status, 1)
    assert list(platform.items("desk")) == ["a"]
    platform.violations.clear()


async def test_the_largest_value_and_key_are_taken(desk: httpx2.AsyncClient, platform: Project) -> None:
    """The limits themselves are allowed."""
    await put(desk, "k" * 128, {"x": "v" * (LARGEST_VALUE - 8)})
    assert platform.sizes() == {("desk", "k" * 128): LARGEST_VALUE}


# --- What goes wrong on the way ----------------------------------------------------------------------------------


async def test_the_next_requests_fail_as_told(desk: httpx2.AsyncClient, platform: Project) -> None:
    """A fault hits as many requests as it says, only those that it is about, and carries nothing out."""
    platform.fail(503, times=2, when=lambda request: request.method == "PUT" and request.key == "a")
    platform.fail(429, when=lambda request: request.method == "GET", retry_after=3)
    assert [(await put(desk, key, {})).status_code for key in "abaa"] == [503, 200, 503, 200]
    slow = await desk.get(items("a"))
    assert (code(slow), slow.headers["retry-after"]) == ((429, "too_many_requests"), "3")
    assert (await desk.get(items("a"))).status_code == 200
    assert platform.violations == []


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_cut_write_may_have_been_carried_out(
    desk: httpx2.AsyncClient, platform: Project, carried_out: bool
) -> None:
    """The client sees a broken connection either way, and the next request is served."""
    platform.cut(carried_out=carried_out)
    with pytest.raises(httpx2.TransportError):
        await put(desk, "a", {"n": 1})
    assert platform.items("desk") == ({"a": {"n": 1}} if carried_out else {})
    assert (await put(desk, "a", {"n": 2})).status_code == 200
    assert [each.status for each in platform.requests] == [201, 0, 200]


async def test_a_request_that_hangs_ends_with_its_client(
    desk: httpx2.AsyncClient, platform: Project, eventually: Any
) -> None:
    """There is no answer until the client gives up."""
    platform.hang()
    with pytest.raises(httpx2.ReadTimeout):
        await desk.get(items("a"), timeout=0.1)
    await eventually(lambda: len(platform.requests) == 2, "the request has ended")
    assert platform.requests[-1].status == 0
    assert (await desk.get(items("a"))).status_code == 404


async def test_a_hanging_request_does_not_keep_the_server() -> None:
    """The server ends while a client still waits for an answer."""
    with StandIn() as server:
        project = server.project("desk")
        project.hang()
        url, headers = f"{project.endpoint}/storage/responses/{FIRST}", {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(timeout=None) as client:
            waiting = asyncio.create_task(client.get(url, params={"api-version": "v1"}, headers=headers))
            while project.faults[0].times:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(server.__exit__, None, None, None)
            with pytest.raises(httpx2.TransportError):
                await waiting


# --- What is recorded --------------------------------------------------------------------------------------------


async def test_requests_are_recorded(desk: httpx2.AsyncClient, platform: Project) -> None:
    """Who asked for what, how large it was, when, and what came of it."""
    platform.clear()
    began = time.monotonic()
    await desk.post(items(), json={"key": "a", "value": {}}, headers={CALL_ID: "c1", "User-Agent": "desk/1"})
    await desk.get(f"responses/{FIRST}")
    first, second = platform.requests
    assert (first.method, first.template) == ("POST", "state_stores/{store}/items")
    assert (first.store, first.key, first.call_id, first.user_agent) == ("desk", "a", "c1", "desk/1")
    assert (first.size, first.status) == (len('{"key":"a","value":{}}'), 201)
    assert began <= first.started <= first.ended <= second.started <= second.ended <= time.monotonic()
    assert (second.template, second.key, second.status) == ("responses/{id}", FIRST, 404)


async def test_rounds_count_what_waited_for_each_other(desk: httpx2.AsyncClient, platform: Project) -> None:
    """Requests that are sent together are one round trip, those sent one after the other are several."""
    platform.clear()
    platform.latency = 0.1
    began = time.monotonic()
    await asyncio.gather(*(put(desk, key, {}) for key in "abc"))
    middle = time.monotonic()
    assert middle - began >= 0.1
    await put(desk, "d", {})
    await asyncio.gather(*(desk.get(items(key)) for key in "ab"))
    assert (platform.rounds(), platform.rounds(until=middle), platform.rounds(middle)) == (3, 1, 2)
    assert platform.rounds(time.monotonic()) == 0


def test_event_loops_come_and_go(platform: Project) -> None:
    """The server outlives the event loop that talked to it."""

    async def ask() -> int:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(headers=headers, params={"api-version": "v1"}) as client:
            return (await client.get(f"{platform.endpoint}/storage/responses/{FIRST}")).status_code

    assert [asyncio.run(ask()) for _ in range(2)] == [404, 404]
