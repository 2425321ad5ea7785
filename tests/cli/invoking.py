"""`agent-host invoke` in the process of the test."""

from click.testing import CliRunner, Result

from agent_host.cli import main


def invoke(*arguments: str, url: str = "", typed: str | None = None, env: dict[str, str] | None = None) -> Result:
    """Run the command without a terminal."""
    where = ["--url", url] if url else []
    return CliRunner().invoke(main, ["invoke", *arguments, *where], input=typed, env=env)


def continuation(url: str, words: str) -> str:
    return f"agent-host invoke --url {url} {words}\n"
