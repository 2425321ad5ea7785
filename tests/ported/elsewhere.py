"""`python -m tests.ported.elsewhere PACKAGE NAME ...`: run programs on a package that stands in for agent_host.

Prints what they return as one JSON object. Run by `python -m tests.ported`, in another Python.
"""

import asyncio
import importlib
import json
import logging
import sys
from typing import Any

from tests.ported.programs import STORED, run


async def results(package: Any, names: list[str]) -> dict[str, Any]:
    """What the programs return, each stored one with a storage of its own in memory."""
    return {name: await run(name, *([package.InMemoryCheckpointStorage()] if name in STORED else [])) for name in names}


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the other package comments on graphs that are fine here
    package_name, *program_names = sys.argv[1:]
    sys.modules["agent_host"] = importlib.import_module(package_name)
    print(json.dumps(asyncio.run(results(sys.modules["agent_host"], program_names))))
