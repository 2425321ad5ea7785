"""The engine's rows for LangGraph, in an interpreter that has it; prints one JSON object."""

import asyncio
import json
import operator
import os
import sys
import tempfile
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver  # type: ignore[import-not-found]  # not a dependency of this project
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # type: ignore[import-not-found]  # likewise
from langgraph.graph import END, START, StateGraph  # type: ignore[import-not-found]  # likewise
from timing import each, early_and_late, per_step  # type: ignore[import-not-found]  # beside this file

STEPS, WIDE, TURNS = 500, 200, int(sys.argv[1]) if len(sys.argv) > 1 else 1000


class Count(TypedDict):
    left: int


class Sum(TypedDict):
    numbers: Annotated[list[int], operator.add]


class Talk(TypedDict):
    text: str
    history: Annotated[list[str], operator.add]


def ping_pong(saver: Any) -> Any:
    graph = StateGraph(Count)
    for name, other in (("one", "other"), ("other", "one")):

        async def play(state: Count) -> Count:
            return {"left": state["left"] - 1}

        graph.add_node(name, play)
        graph.add_conditional_edges(name, lambda state, other=other: other if state["left"] else END)
    graph.add_edge(START, "one")
    return graph.compile(checkpointer=saver)


def wide() -> Any:
    graph = StateGraph(Sum)

    async def split(state: Sum) -> dict[str, Any]:
        return {"numbers": [1]}

    async def work(state: Sum) -> dict[str, Any]:
        return {"numbers": [2]}

    async def join(state: Sum) -> dict[str, Any]:
        return {"numbers": [sum(state["numbers"])]}

    graph.add_node("split", split)
    graph.add_node("join", join)
    names = [f"w{number}" for number in range(WIDE)]
    for name in names:
        graph.add_node(name, work)
        graph.add_edge("split", name)
    graph.add_edge(names, "join")
    graph.add_edge(START, "split")
    graph.add_edge("join", END)
    return graph.compile()


def flow(saver: Any) -> Any:
    graph = StateGraph(Talk)

    async def normalise(state: Talk) -> dict[str, Any]:
        return {"text": state["text"].strip()}

    async def memory(state: Talk) -> dict[str, Any]:
        return {"history": [state["text"]], "text": f"turn {len(state.get('history') or []) + 1}: {state['text']}"}

    async def answer(state: Talk) -> dict[str, Any]:
        return {}

    for node in (normalise, memory, answer):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "normalise")
    graph.add_edge("normalise", "memory")
    graph.add_edge("memory", "answer")
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=saver)


def thread(name: str, **more: Any) -> dict[str, Any]:
    return {"configurable": {"thread_id": name}, **more}


async def fresh(graph: Any) -> float:
    return early_and_late(await each(lambda n: graph.ainvoke({"text": "hello"}, thread(f"new {n}")), 200))[1]


async def turns(graph: Any) -> tuple[float, float]:
    return early_and_late(
        await each(lambda n: graph.ainvoke({"text": f"{n} " + "x" * 2000}, thread("long")), TURNS)
    )  # fmt: skip


async def main() -> None:
    rows: dict[str, Any] = {}
    limit = {"recursion_limit": STEPS + 10}
    bare, kept, fan = ping_pong(None), ping_pong(InMemorySaver()), wide()
    rows["superstep, no storage"] = await per_step(lambda: bare.ainvoke({"left": STEPS}, limit), STEPS)
    rows["superstep, in memory"] = await per_step(
        lambda: kept.ainvoke({"left": STEPS}, thread("game", **limit)), STEPS
    )  # fmt: skip
    rows["fan-out and join of 200"] = await per_step(lambda: fan.ainvoke({"numbers": []}), 1)
    rows["turn of three, no storage"] = await fresh(flow(None))
    rows["turn of three, in memory"] = await fresh(flow(InMemorySaver()))
    rows["long conversation, in memory"] = await turns(flow(InMemorySaver()))
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncSqliteSaver.from_conn_string(f"{folder}/new.db") as saver:
            rows["turn of three, SQLite"] = await fresh(flow(saver))
        async with AsyncSqliteSaver.from_conn_string(f"{folder}/long.db") as saver:
            rows["long conversation, SQLite"] = await turns(flow(saver))
        rows["bytes of it, SQLite"] = os.path.getsize(f"{folder}/long.db")
    rows["turns of the long conversation"] = TURNS
    print(json.dumps(rows))


asyncio.run(main())
