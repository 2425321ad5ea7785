"""What the README shows of the program itself, made from the program.

`python -m tests.docs.generated` writes it into README.md.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

import click
from click.testing import CliRunner

from agent_host.cli import main
from agent_host.cli.serve import serve
from agent_host.settings import Settings
from agent_host.wire.item_moves import ITEM_MOVES
from agent_host.wire.transcript import RESPONSE_MOVES
from tests.docs.pages import ROOT

_FROM_ENVIRONMENT = {
    "PORT": "1234",
    "AGENT_HOST_API_KEY": "key",
    "SSE_KEEPALIVE_INTERVAL": "7",
    "FOUNDRY_HOSTING_ENVIRONMENT": "hosted",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=0",
    "APPLICATIONINSIGHTS_AUTH_MODE": "entra",
}


def command_help(*words: str) -> str:
    """What `agent-host WORDS --help` prints in a terminal of 80 columns."""
    return CliRunner().invoke(main, [*words, "--help"], prog_name="agent-host", terminal_width=80).output


def command_output(*arguments: str) -> str:
    """What `agent-host ARGUMENTS` prints, in the folder of the repository."""
    with contextlib.chdir(ROOT):
        return CliRunner().invoke(main, arguments, prog_name="agent-host").output


def settings_rows() -> list[tuple[str, str, str, str]]:
    """Each setting with its default, the option that sets it, and the environment variable that does."""
    options = {p.name: p.opts[0] for p in serve.params if isinstance(p, click.Option)}
    plain = Settings()
    variables: dict[str, str] = {}
    for variable, value in _FROM_ENVIRONMENT.items():
        read = Settings.from_environment({variable: value})
        variables |= {f.name: variable for f in dataclasses.fields(Settings) if _differs(read, plain, f.name)}
    return [
        (field.name, str(field.default), options.get(field.name, ""), variables.get(field.name, ""))
        for field in dataclasses.fields(Settings)
    ]


def _differs(one: Settings, other: Settings, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _diagram(moves: Mapping[str, Mapping[str, str]], beginnings: list[str]) -> str:
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {_named(state)}" for state in beginnings]
    for state, legal in moves.items():
        lines += [f"    {_named(state)} --> {_named(after)}: {move}" for move, after in legal.items()]
        if not legal:
            lines.append(f"    {_named(state)} --> [*]")
    return "\n".join(lines) + "\n"


def _item_diagram() -> str:
    """The kinds that are sent unasked, a box each; that one may be abandoned in each of its states is drawn once."""
    lines = ["stateDiagram-v2"]
    for kind in ("message", "reasoning", "function_call"):
        moves = {state: dict(row) for state, row in ITEM_MOVES[kind].items() if state != "abandoned"}
        lines += [f"    state {kind} {{", f"        [*] --> {kind}_added"]
        for state, row in moves.items():
            row.pop("abandon", None)
            lines += [f"        {kind}_{_named(state)} --> {kind}_{_named(to)}: {move}" for move, to in row.items()]
        lines += [
            f"        {kind}_done --> [*]",
            "    }",
            f"    {kind} --> {ITEM_MOVES[kind]['added']['abandon']}: abandon",
        ]
    return "\n".join(lines) + "\n"


def _named(state: str) -> str:
    return state.replace(" ", "_")


GENERATED: Mapping[str, Callable[[], str]] = {
    "help": lambda: command_help("serve"),
    "invoke_help": lambda: command_help("invoke"),
    "check_help": lambda: command_help("check"),
    "graph_help": lambda: command_help("graph"),
    "gc_help": lambda: command_help("gc"),
    "store_help": lambda: command_help("store"),
    "deploy_help": lambda: command_help("deploy", "create"),
    "doctor_help": lambda: command_help("doctor"),
    "graph": lambda: command_output("graph", "samples/01_help_desk/app.py:workflow"),
    "response": lambda: _diagram(RESPONSE_MOVES, ["new", "new in background"]),
    "item": lambda: _item_diagram(),
}


def write() -> None:
    """Bring the generated blocks of the README up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, make in GENERATED.items():
        head, mark, rest = text.partition(f"<!-- generated: {name} -->\n")
        opening, _, rest = rest.partition("\n")
        _, fence, rest = rest.partition("\n```\n") if not rest.startswith("```\n") else ("", "```\n", rest[4:])
        text = f"{head}{mark}{opening}\n{make()}{fence.lstrip()}{rest}"
    readme.write_text(text)


if __name__ == "__main__":
    write()
