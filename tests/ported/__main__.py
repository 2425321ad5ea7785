"""`python -m tests.ported PYTHON`: what the programs give on agent_framework today, beside what is recorded.

`PYTHON` is an interpreter that has agent_framework. Shows every difference and ends with 1 if there is one.
"""

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.ported.programs import PLAIN, STORED

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("recorded.json")


def given(python: str, package: str, names: list[str]) -> dict[str, Any]:
    """What the programs return under another Python."""
    command = [python, "-W", "ignore", "-m", "tests.ported.elsewhere", package, *names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def page(results: dict[str, Any]) -> list[str]:
    """The results as lines of JSON, one for each thing that a program returns."""
    programs = []
    for name in sorted(results):
        things = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in results[name].items()]
        programs.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(things) + "\n  }")
    return ("{\n" + ",\n".join(programs) + "\n}").splitlines()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ported", description=__doc__)
    parser.add_argument("python", help="an interpreter that has the package")
    parser.add_argument("programs", nargs="*", help="only these programs")
    parser.add_argument("--package", default="agent_framework", help="what stands in for agent_host there")
    parser.add_argument("--record", action="store_true", help="take what they give as the new record")
    options = parser.parse_args(arguments)
    names = options.programs or sorted((*PLAIN, *STORED))
    recorded: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    there = given(options.python, options.package, names)
    before = {name: recorded[name] for name in names if name in recorded}
    differences = list(difflib.unified_diff(page(before), page(there), "recorded", options.package, lineterm=""))
    print("\n".join(differences) or f"programs that give what is recorded: {len(names)}")
    if options.record:
        RECORDED.write_text("\n".join(page({**recorded, **there})) + "\n")
        return 0
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
