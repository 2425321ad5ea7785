"""What the operator sees: one line per request, a traceback for a user's error, and what the user's program logs.

What clients have sent may stand in an error. It cannot pass for a record of its own: only records begin at the left
edge, and no control character reaches the terminal.
"""

import logging

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_QUIET = ("azure", "httpcore", "httpx", "httpx2", "msal", "openai", "opentelemetry", "urllib3", "uvicorn")
"""Libraries that tell of every call; of these only warnings are of interest."""

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class _Records(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_CONTROL).replace("\n", "\n  ")


def configure(level: str) -> None:
    """Send the log of the process to standard error; `level` is that of the package, others tell no more than INFO."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Records("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.INFO))
    logging.getLogger("agent_host").setLevel(_LEVELS[level])
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))
    # It tells of each credential that it has tried; what matters of that is in the error of the one who has asked.
    logging.getLogger("azure.identity").setLevel(logging.ERROR)
    # Names of threads, processes and tasks cost time on every line and appear in none.
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined]  # known since Python 3.12
