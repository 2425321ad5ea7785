"""`python -m tests.bench.cold_start FILE WORKFLOW`: seconds in which a fresh process reads a store's newest state."""

import asyncio
import sys
import time

from agent_host import open_store
from agent_host.engine.running.lane import Lane
from agent_host.engine.storage.head_publisher import blobs_with_root
from agent_host.engine.view import read_view
from tests.bench import flow


async def main(path: str, name: str) -> None:
    """Open the store, then materialise the state of the newest response."""
    definition = await getattr(flow, name).definition()
    store = open_store(f"sqlite:///{path}")
    await store.open()
    try:
        newest = (await store.save_points(0))[-1]
        began = time.perf_counter()
        _, view = await read_view(lambda commit: store.read_chain("", commit), newest.commit)
        read = blobs_with_root(definition.root, lambda hashes: store.read_blobs("", hashes))
        lane = await Lane.open("cold", definition, view, read)
        print(time.perf_counter() - began)
        assert lane.root.clones["memory"].executor.history  # type: ignore[attr-defined]  # the executor of flow.py
    finally:
        await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
