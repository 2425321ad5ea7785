"""Which of the stock clients there are: those for Node are tested where it is, with npm, in version 20 or later."""

import re
import shutil
import subprocess


def _node_version() -> int:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return 0
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)", shown)
    return int(found[1]) if found else 0


collect_ignore = [] if _node_version() >= 20 else ["test_node.py"]
