"""Conversations by `previous_response_id`, held by the stock client over a real socket."""

import asyncio
from pathlib import Path
from typing import Any, Never

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler

REMEMBERING = f"{Path(__file__).parent / 'remembering.py'}:workflow"


class Notebook(Executor):
    """Keeps notes in attributes. If told, it waits in the middle until so many conversations wait with it."""

    def __init__(self, barrier: asyncio.Barrier | None = None) -> None:
        super().__init__("notebook")
        self.notes: list[str] = []
        self.count = 0
        self.barrier = barrier

    @handler
    async def add(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.notes.append(text)
        self.count += 1
        ctx.set_state("all", [*ctx.get_state("all", []), text])
        if self.barrier is not None and text.startswith("together"):
            await self.barrier.wait()
        await ctx.yield_output(f"{self.count} {'+'.join(self.notes)} {'+'.join(ctx.get_state('all'))}")


def notebook(barrier: asyncio.Barrier | None = None) -> Workflow:
    return WorkflowBuilder(start_executor=Notebook(barrier), name="notebook").build()


def test_a_conversation_goes_on_after_the_server_was_stopped_and_started(serve: Any) -> None:
    """What was said before a restart is part of the conversation after it."""
    first = serve(REMEMBERING)
    one = first.say("a")
    two = first.say("b", one.id)
    three = first.say("c", two.id)
    assert three.output_text == "3: a b c"
    first.stop()

    second = serve(REMEMBERING)
    four = second.say("d", three.id)
    assert four.output_text == "4: a b c d"
    assert four.previous_response_id == three.id


def test_a_conversation_goes_on_after_the_server_was_killed(serve: Any) -> None:
    """An answer that was given is never forgotten, not even by `kill -9`."""
    first = serve(REMEMBERING)
    one = first.say("a")
    two = first.say("b", one.id)
    first.kill()
    assert serve(REMEMBERING).say("c", two.id).output_text == "3: a b c"


async def test_a_request_without_ids_starts_from_the_initial_state(serve_app: Any) -> None:
    """However many conversations there were, a new one begins as the program was built."""
    site = await serve_app(notebook())
    last = None
    for number in range(5):
        last = (await site.say(f"n{number}", last)).id
        assert (await site.say("new")).output_text == "1 new new"


async def test_conversations_that_run_at_once_share_nothing(serve_app: Any) -> None:
    """32 turns of 32 conversations overlap on the one workflow object, and a new one among them begins anew."""
    barrier = asyncio.Barrier(33)
    site = await serve_app(notebook(barrier))
    firsts = await asyncio.gather(*(site.say(f"a{number}") for number in range(32)))
    *seconds, fresh = await asyncio.gather(
        *(site.say(f"together{number}", first.id) for number, first in enumerate(firsts)), site.say("together")
    )
    expected = [f"a{number}+together{number}" for number in range(32)]
    assert [second.output_text for second in seconds] == [f"2 {notes} {notes}" for notes in expected]
    assert fresh.output_text == "1 together together"


async def test_a_response_can_be_continued_twice(serve_app: Any) -> None:
    """Two turns from one response are two branches, at once or one after the other; the response stays as it was."""
    barrier = asyncio.Barrier(2)
    site = await serve_app(notebook(barrier))
    one = await site.say("one")
    left, right = await asyncio.gather(site.say("together-left", one.id), site.say("together-right", one.id))
    assert left.output_text == "2 one+together-left one+together-left"
    assert right.output_text == "2 one+together-right one+together-right"
    assert (await site.say("x", left.id)).output_text.startswith("3 one+together-left+x ")
    assert (await site.say("y", right.id)).output_text.startswith("3 one+together-right+y ")
    assert (await site.say("z", one.id)).output_text == "2 one+z one+z"


async def test_a_finished_response_is_read_back_as_it_was_answered(serve_app: Any) -> None:
    """GET returns the very response that the turn was answered with."""
    site = await serve_app(notebook())
    one = await site.say("one", metadata={"a": "b"}, instructions="be brief", temperature=0.5)
    two = await site.say("two", one.id)
    assert await site.client.responses.retrieve(one.id) == one
    assert await site.client.responses.retrieve(two.id) == two


# --- State without a declaration ---------------------------------------------------------------------------------


def test_a_changed_threshold_applies_to_an_old_conversation(serve: Any) -> None:
    """What no handler changes comes from the running program, so a new limit holds for conversations begun before."""
    first = serve(REMEMBERING, env={"TEST_THRESHOLD": "2"})
    one = first.say("a")
    two = first.say("b", one.id)
    assert not two.output_text.endswith("(over)")
    first.stop()
    second = serve(REMEMBERING, env={"TEST_THRESHOLD": "1"})
    assert second.say("c", one.id).output_text == "2: a c (over)"
    second.stop()
    third = serve(REMEMBERING, env={"TEST_THRESHOLD": "3"})
    assert third.say("d", two.id).output_text == "3: a b d"


def test_a_key_of_the_program_is_found_in_no_byte_of_the_store(serve: Any, tmp_path: Path) -> None:
    """A secret that an executor is given when it is built never reaches the disk, while what is said does."""
    host = serve(REMEMBERING, env={"TEST_KEY": "sk-very-secret-4711"})
    last = None
    for number in range(20):
        last = host.say(f"said{number}", last).id
    running = b"".join(path.read_bytes() for path in tmp_path.glob("host.db*"))
    host.stop()
    stopped = b"".join(path.read_bytes() for path in tmp_path.glob("host.db*"))
    for found in (running, stopped):
        assert b"said19" in found
        assert b"very-secret" not in found


def test_an_attribute_that_cannot_be_stored_is_an_error_at_start(run_cli: Any, tmp_path: Path) -> None:
    """An object of the user's own that could only be shared by all conversations is refused, with the way out."""
    app = tmp_path / "app.py"
    app.write_text(
        "from agent_host import Executor, WorkflowBuilder, handler\n"
        "class Basket:\n    pass\n"
        "class Shop(Executor):\n"
        "    def __init__(self):\n        super().__init__('shop')\n        self.basket = Basket()\n"
        "    @handler\n    async def buy(self, text: str, ctx) -> None: ...\n"
        "workflow = WorkflowBuilder(start_executor=Shop(), name='shop').build()\n"
    )
    ended = run_cli("serve", f"{app}:workflow", "--port", "0")
    assert ended.returncode == 1
    assert "'shop'" in ended.stderr
    assert "Basket" in ended.stderr
    assert "config()" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "cwd").iterdir())
