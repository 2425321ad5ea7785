"""`python -m tests.bench`: every figure that has a target, beside the bare floor and, if they are named, other systems.

Figures over HTTP are ratios within one run: the machine's own speed cancels out.
"""

import argparse
import tempfile
from contextlib import ExitStack

from tests.bench import engines, over_http, servers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round of load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1000, help="length of the long conversation")
    parser.add_argument("--official", nargs=2, metavar=("PYTHON", "FILE"), help="the official host: its Python and app")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has agent_framework and langgraph")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        floor = stack.enter_context(servers.floor(folder))
        host = stack.enter_context(servers.host(folder))
        official = stack.enter_context(servers.official(folder, *options.official)) if options.official else None
        for row in over_http.idle_process(host):
            print(row, flush=True)
        for row in over_http.throughput(floor, host, official, seconds=options.seconds, rounds=options.rounds):
            print(row, flush=True)
        for row in over_http.first_event(floor, host):
            print(row, flush=True)
        if official is not None:
            took = over_http.chain(official.port, 60)
            print(f"official host, turn 10 and turn 60 of one chain: {took[9] * 1e3:.0f} and {took[-1] * 1e3:.0f} ms")
    for workflow, turns in (("workflow", options.turns), ("hooked", options.turns), ("workflow", 200)):
        for row in over_http.long_chain(workflow, turns):
            print(row, flush=True)
    for row in over_http.waiting(1000):
        print(row, flush=True)
    print()
    engines.print_table(options.peers, options.turns)


if __name__ == "__main__":
    main()
