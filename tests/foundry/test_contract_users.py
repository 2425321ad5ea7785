"""Users of a hosted agent: what one of them has is to every other as if it were not there, whatever the endpoint.

A host of one's own keeps users apart in the same way, behind one key: it is the larger surface, so most is shown there.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Never

import pytest
from websockets.asyncio.client import connect

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler, response_handler
from agent_host.engine.workflow import Workflow
from tests.foundry.platform_store import platform_store
from tests.foundry.stand_in import Project

USER = "x-agent-user-id"


class Asker(Executor):
    """Remembers what it is told; of "ask" it asks back."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.told: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.told.append(text)
        if text == "ask":
            await ctx.request_info("sure?", bool)
        else:
            await ctx.yield_output(", ".join(self.told))

    @response_handler
    async def answered(self, question: str, yes: bool, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{question} {yes}")


@pytest.fixture
def asking() -> Workflow:
    return WorkflowBuilder(start_executor=Asker("asker"), name="asker").build()


class Person:
    """A client of a site as one user; "" is nobody."""

    def __init__(self, site: Any, user: str) -> None:
        self._site = site
        self.headers = {USER: user} if user else {}

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self._site.http.request(method, path, json=body, headers=given)

    async def say(self, text: Any, **more: Any) -> Any:
        """The response to a text."""
        answer = await self.send("POST", "/responses", {"input": text, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator[Callable[..., Any]]:
        """Takes turns over a WebSocket; each gives its last event."""
        async with connect(f"{self._site.url.replace('http', 'ws')}/responses", additional_headers=self.headers) as ws:

            async def turn(**fields: Any) -> Any:
                await ws.send(json.dumps({"type": "response.create", **fields}))
                while (event := json.loads(await ws.recv()))["type"] not in ("response.completed", "error"):
                    pass
                return event

            yield turn


@pytest.fixture(params=["file", "platform"])
def store(request: pytest.FixtureRequest, platform: Project) -> Any:
    """Each kind of store that an agent may have; None is the file that is used without one."""
    return platform_store(platform) if request.param == "platform" else None


@pytest.fixture
async def site(store: Any, serve_app: Any, asking: Workflow) -> Any:
    return await serve_app(asking, store)


STRANGERS = ["bob", ""]


async def ended(person: Person, response_id: str) -> None:
    while (await person.send("GET", f"/responses/{response_id}")).json()["status"] in ("queued", "in_progress"):
        pass


def without_ids(answer: Any, *ids: str) -> tuple[int, str]:
    """An answer in which the ids that were asked for do not show."""
    text = answer.text
    for each in ids:
        text = text.replace(each, "ID")
    return answer.status_code, text


RESPONSE_ENDPOINTS = [
    ("GET", ""), ("GET", "?stream=true"), ("GET", "?stream=true&starting_after=1"), ("DELETE", ""),
    ("POST", "/cancel"), ("GET", "/input_items"),
]  # fmt: skip


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("method", "rest"), RESPONSE_ENDPOINTS)
async def test_anothers_response_is_as_an_unknown_one(
    site: Any, stranger: str, background: bool, method: str, rest: str
) -> None:
    """The same status and the same words, and it stays what it is."""
    ann, other = Person(site, "ann"), Person(site, stranger)
    mine = await ann.say("secret", background=background)
    await ended(ann, mine["id"])
    unknown = mine["id"][:-4] + "zzzz"
    seen = await other.send(method, f"/responses/{mine['id']}{rest}")
    expected = await other.send(method, f"/responses/{unknown}{rest}")
    assert without_ids(seen, mine["id"]) == without_ids(expected, unknown)
    assert seen.status_code == 404
    assert (await ann.send("GET", f"/responses/{mine['id']}")).json()["status"] == "completed"


async def test_anothers_turn_in_flight_is_as_an_unknown_one(hosted: Any, store: Any) -> None:
    """It is neither seen nor followed nor cancelled by another user, and goes on."""
    site = await hosted(store=store)
    ann, bob = Person(site, "ann"), Person(site, "bob")
    mine = await ann.say("wait 10", background=True)
    for method, rest in RESPONSE_ENDPOINTS:
        assert (await bob.send(method, f"/responses/{mine['id']}{rest}")).status_code == 404
    assert (await ann.send("GET", f"/responses/{mine['id']}")).json()["status"] in ("queued", "in_progress")


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("what", ["plain", "stream", "background", "tokens", "compact"])
async def test_anothers_response_is_not_continued(site: Any, stranger: str, what: str) -> None:
    """Wherever a body can name it."""
    ann, other = Person(site, "ann"), Person(site, stranger)
    mine = (await ann.say("secret"))["id"]
    path = {"tokens": "/responses/input_tokens", "compact": "/responses/compact"}.get(what, "/responses")
    flags: dict[str, Any] = {what: True} if what in ("stream", "background") else {}
    model = {"model": "m"} if what == "compact" else {}

    async def continued(previous: str) -> Any:
        return await other.send("POST", path, {"input": "x", "previous_response_id": previous, **flags, **model})

    unknown = mine[:-4] + "zzzz"
    answers = [without_ids(await continued(each), each) for each in (mine, unknown)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 400
    assert json.loads(answers[0][1])["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_anothers_conversation_is_as_an_unknown_one(site: Any, stranger: str) -> None:
    """At each of its endpoints and in each body that can name it; its owner finds it unchanged."""
    ann, other = Person(site, "ann"), Person(site, stranger)
    mine = (await ann.send("POST", "/conversations", {"metadata": {"topic": "secret"}})).json()["id"]
    await ann.say("secret", conversation=mine)
    before = (await ann.send("GET", f"/conversations/{mine}/items")).json()
    item = before["data"][0]["id"]
    unknown = mine[:-4] + "zzzz"
    named, message = "/conversations/{}", {"role": "user", "content": "x"}
    for method, path, body in [
        ("GET", named, None),
        ("POST", named, {"metadata": {}}),
        ("DELETE", named, None),
        ("GET", f"{named}/items", None),
        ("POST", f"{named}/items", {"items": [message]}),
        ("GET", f"{named}/items/{item}", None),
        ("DELETE", f"{named}/items/{item}", None),
        ("POST", "/responses", {"input": "x"}),
        ("POST", "/responses/input_tokens", {"input": "x"}),
    ]:
        seen = []
        for each in (mine, unknown):
            more = {"conversation": each} if path.startswith("/responses") else {}
            answer = await other.send(method, path.format(each), {**body, **more} if body else None)
            seen.append(without_ids(answer, each))
        assert seen[0] == seen[1], (method, path)
        assert seen[0][0] == 404, (method, path)
    assert (await ann.send("GET", f"/conversations/{mine}/items")).json() == before
    assert (await ann.send("GET", f"/conversations/{mine}")).json()["metadata"] == {"topic": "secret"}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_anothers_item_cannot_be_referred_to(site: Any, stranger: str) -> None:
    """In a request, a new conversation, and a count of tokens."""
    ann, other = Person(site, "ann"), Person(site, stranger)
    mine = await ann.say("secret")
    own = (await other.send("POST", "/conversations", {})).json()["id"]
    reference = [{"type": "item_reference", "id": mine["output"][0]["id"]}]
    for path, body in [
        ("/responses", {"input": reference}),
        ("/responses/input_tokens", {"input": reference}),
        ("/responses/compact", {"input": reference, "model": "m"}),
        ("/conversations", {"items": reference}),
        (f"/conversations/{own}/items", {"items": reference}),
    ]:
        answer = await other.send("POST", path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "item_not_found"), path


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_anothers_compaction_stands_for_nothing(site: Any, stranger: str) -> None:
    """Its handle is known to its user alone."""
    ann, other = Person(site, "ann"), Person(site, stranger)
    mine = await ann.say("secret")
    compacted = (
        await ann.send("POST", "/responses/compact", {"model": "m", "previous_response_id": mine["id"]})
    ).json()
    given = [*compacted["output"], {"role": "user", "content": "x"}]
    answer = await other.send("POST", "/responses", {"input": given})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_compaction")
    assert (await ann.send("POST", "/responses", {"input": given})).status_code == 200


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_anothers_question_is_not_open(site: Any, stranger: str) -> None:
    """Neither by its response nor by the call alone."""
    ann, other = Person(site, "ann"), Person(site, stranger)
    asked = await ann.say("ask")
    call = asked["output"][0]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "true"}
    for body in ({"input": [call, output]}, {"input": [output], "previous_response_id": asked["id"]}):
        unknown = json.loads(json.dumps(body).replace(call["call_id"], "call_x").replace(asked["id"], "caresp_x"))
        answer = await other.send("POST", "/responses", body)
        expected = await other.send("POST", "/responses", unknown)
        assert without_ids(answer, call["call_id"], asked["id"]) == without_ids(expected, "call_x", "caresp_x")
        assert answer.status_code == 400
        assert (await ann.send("POST", "/responses", body)).json()["output"][0]["content"][0]["text"] == "sure? True"


async def test_two_users_may_use_one_idempotency_key(site: Any) -> None:
    """Each gets a response of its own, and again that one."""
    made = []
    for user in ("ann", "bob", "ann", "bob"):
        answer = await Person(site, user).send("POST", "/responses", {"input": "x"}, idempotency_key="k")
        made.append(answer.json()["id"])
    assert made[0] != made[1]
    assert made[:2] == made[2:]


async def test_two_users_may_have_one_id(hosted: Any, store: Any) -> None:
    """An id that the platform chooses twice names two responses, one for each user; so does a conversation's."""
    site = await hosted(store=store)
    wanted = f"caresp_{'0' * 18}{'A' * 32}"
    for user in ("ann", "bob"):
        body = {"input": f"{user}'s", "conversation": "c1"}
        answer = await Person(site, user).send("POST", "/responses", body, x_agent_response_id=wanted)
        assert answer.json()["id"] == wanted
    for user in ("ann", "bob"):
        seen = (await Person(site, user).send("GET", f"/responses/{wanted}")).json()
        assert seen["output"][0]["content"][0]["text"] == f"{user}'s"


async def test_a_record_of_nobody_is_no_users(site: Any) -> None:
    """On purpose: the official server lets every user read what was made without one."""
    made = await Person(site, "").say("secret")
    assert (await Person(site, "ann").send("GET", f"/responses/{made['id']}")).status_code == 404
    assert (await Person(site, "").send("GET", f"/responses/{made['id']}")).status_code == 200


@pytest.mark.parametrize("user", ["*", "ann' OR '1'='1", "%", "Ann", "ann\xa0", "a" * 3000])
async def test_no_name_opens_anothers_records(site: Any, user: str) -> None:
    """Not that of the partition of initial states, no pattern, and no other spelling."""
    mine = await Person(site, "ann").say("secret")
    answer = await site.http.get(f"/responses/{mine['id']}", headers={USER.encode(): user.encode("latin-1")})
    assert answer.status_code == 404


async def test_a_websocket_is_its_users(site: Any) -> None:
    """What was made over one is not continued over that of another user; what is remembered is the connection's own."""
    async with Person(site, "ann").websocket() as ann, Person(site, "bob").websocket() as bob:
        stored = (await ann(input="secret"))["response"]["id"]
        unstored = (await ann(input="secret", store=False))["response"]["id"]
        for each in (stored, unstored):
            refused = await bob(input="x", previous_response_id=each)
            assert refused["error"]["code"] == "previous_response_not_found"
            assert (await ann(input="x", previous_response_id=each))["type"] == "response.completed"
    assert (await Person(site, "bob").send("GET", f"/responses/{stored}")).status_code == 404


async def test_no_body_query_or_client_header_names_the_user(site: Any) -> None:
    """Only the platform's header does."""
    ann = Person(site, "ann")
    mine = await ann.say("secret", user="bob", metadata={"user": "bob"})
    for query in ("?user=ann", "?x-agent-user-id=ann"):
        answer = await Person(site, "bob").send("GET", f"/responses/{mine['id']}{query}", x_client_user="ann")
        assert answer.status_code == 404
