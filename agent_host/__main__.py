"""The package as a program: `python -m agent_host`."""

from agent_host.cli import main

main()
