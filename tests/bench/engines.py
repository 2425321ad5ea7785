"""`python -m tests.bench.engines`: the engine alone, beside agent_framework and LangGraph if their Python is named.

Each engine runs in a process of its own, one after the other, on the same work.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGETS = {
    "superstep, no storage": "30 us",
    "superstep, in memory": "45 us",
    "fan-out and join of 200": "3,000 us",
    "long conversation, in memory": "1.2 times",
    "long conversation, SQLite": "1.2 times",
    "bytes of it, SQLite": "10 MB",
}


def run(python: str, program: str, turns: int) -> dict[str, Any]:
    """The rows of one engine, measured in its own interpreter."""
    command = [python, str(HERE / program), str(turns)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    if done.returncode:
        sys.exit(f"{program} failed in {python}:\n{done.stderr[-2000:]}")
    rows: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return rows


def shown(name: str, value: Any) -> str:
    """A figure as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, list):
        early, late = value
        return f"{early:,.0f} to {late:,.0f} us ({late / early:.2f}x)"
    return f"{value / 1e6:,.1f} MB" if name.startswith("bytes") else f"{value:,.0f} us"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has agent_framework and langgraph")
    parser.add_argument("--turns", type=int, default=1000, help="length of the long conversation")
    options = parser.parse_args()
    engines = {"agent_host": run(sys.executable, "on_agent_host.py", options.turns)}
    if options.peers:
        engines["agent_framework"] = run(options.peers, "on_agent_framework.py", options.turns)
        engines["LangGraph"] = run(options.peers, "on_langgraph.py", options.turns)
    print(f"{'':<32}" + "".join(f"{name:>32}" for name in engines) + f"{'target':>12}")
    for row in engines["agent_host"]:
        figures = "".join(f"{shown(row, rows.get(row)):>32}" for rows in engines.values())
        print(f"{row:<32}{figures}{TARGETS.get(row, ''):>12}")
    for name, rows in engines.items():
        turns = rows.get("turns of the long conversation", options.turns)
        if turns != options.turns:
            print(f"The long conversation of {name} had {turns} turns, the others {options.turns}.")


if __name__ == "__main__":
    main()
