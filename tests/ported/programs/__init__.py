"""One program per file. Each takes its names from `agent_host` alone, so the same file runs on agent_framework too.

A program is a coroutine function `main()`, or `main(storage)` if it keeps checkpoints. What it returns is plain data:
what its user sees, and nothing that differs from one run to the next.
"""

import importlib
import json
from typing import Any

PLAIN = (
    "cancellation", "custom_events", "edge_condition", "executor_io", "executors_and_edges", "explicit_types", "fan_in",
    "functional", "guessing_game", "intermediate_outputs", "isolation",
    "loop", "map_reduce", "multi_selection", "shared_state", "streaming", "sub_workflow", "sub_workflow_direct",
    "sub_workflow_interception", "sub_workflow_requests", "switch_case", "two_approvals",
)  # fmt: skip
STORED = (
    "functional_resume", "interruption", "resume", "resume_after_failure", "resume_one_by_one", "resume_with_human",
    "resume_with_input", "sub_workflow_resume",
)  # fmt: skip


async def run(name: str, *storage: Any) -> Any:
    """What a program returns, as it reads in JSON."""
    program = importlib.import_module(f"{__name__}.{name}")
    return json.loads(json.dumps(await program.main(*storage)))
