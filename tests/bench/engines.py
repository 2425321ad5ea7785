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
    "superstep, no storage": 30,
    "superstep, in memory": 45,
    "fan-out and join of 200": 3000,
    "long conversation, in memory": 1.2,
    "long conversation, in memory, hooks": 1.2,
    "long conversation, SQLite": 1.2,
    "long conversation, SQLite, hooks": 1.2,
    "bytes of it, SQLite": 10e6,
}
"""The most of it that is good, in the units of the rows; of a long conversation how many times its turn 10."""


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


def verdict(name: str, value: Any) -> str:
    """The target of a row and whether it is met."""
    target = TARGETS.get(name)
    if target is None:
        return ""
    is_met = value[1] / value[0] <= target if isinstance(value, list) else value <= target
    said = f"{target} times" if isinstance(value, list) else shown(name, target)
    return f"at most {said:<12} {'met' if is_met else 'NOT MET'}"


def print_table(peers: str | None, turns: int) -> None:
    """Measure the engines and print their table."""
    measured = {"agent_host": run(sys.executable, "on_agent_host.py", turns)}
    if peers:
        measured["agent_framework"] = run(peers, "on_agent_framework.py", turns)
        measured["LangGraph"] = run(peers, "on_langgraph.py", turns)
    print(f"{'':<36}" + "".join(f"{name:>32}" for name in measured) + "   target")
    for name, own in measured["agent_host"].items():
        figures = "".join(f"{shown(name, rows.get(name)):>32}" for rows in measured.values())
        print(f"{name:<36}{figures}   {verdict(name, own)}")
    for name, rows in measured.items():
        made = rows.get("turns of the long conversation", turns)
        if made != turns:
            print(f"The long conversation of {name} had {made} turns, the others {turns}.")


def main() -> None:
    """Print the table of the engines alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has agent_framework and langgraph")
    parser.add_argument("--turns", type=int, default=1000, help="length of the long conversation")
    options = parser.parse_args()
    print_table(options.peers, options.turns)


if __name__ == "__main__":
    main()
