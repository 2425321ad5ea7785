"""The SQL statements, by name, from `sql/queries.sql`.

A section begins with `-- name --`, goes on with a comment that says in one sentence what it is for, and holds
one statement with `?` for values. Comments are not sent.
"""

import re
from importlib.resources import files

_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """The statements of a file by name, each on one line."""
    _, *sections = _HEADING.split(text)
    return {
        name: " ".join(line.strip() for line in body.splitlines() if line and not line.startswith("--"))
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def sql_text(path: str) -> str:
    """The text of a file in the `sql` folder."""
    return (files("agent_host.stores") / "sql" / path).read_text("utf-8")


QUERIES = parse(sql_text("queries.sql"))
