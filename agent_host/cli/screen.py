"""What a response looks like on a terminal, or in a file that standard output is sent to.

- The answer goes to standard output. What is said on the way goes there too, but dim, on a terminal; into a file or a
  pipe goes the answer alone, and the rest to standard error.
- On a terminal, control characters of a text are not obeyed.
- A message begins on a new line, also if another one is not finished yet.
"""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import click

from agent_host.wire import events

_SPOKEN = frozenset({events.TEXT_DELTA, "response.refusal.delta", "response.reasoning_summary_text.delta"})
_UNSAFE = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Screen:
    """Shows a response: event by event as it is made, or the whole of it at once."""

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stdout)
        self._aside: dict[int, bool] = {}
        self._unfinished: int | None = None

    def event(self, event: Mapping[str, Any]) -> None:
        """Show what an event adds; most add nothing."""
        kind, index = event.get("type"), event.get("output_index", 0)
        if kind == events.ITEM_ADDED:
            self._aside[index] = _is_aside(event["item"])
        elif kind in _SPOKEN:
            self._write(index, event["delta"])
        elif kind == events.ITEM_DONE:
            taken_back = self._unfinished == index and event["item"].get("status") == "incomplete"
            self.end()
            if taken_back:
                self._put("(taken back)\n", aside=True)

    def whole(self, response: Mapping[str, Any]) -> None:
        """Show all that a response says."""
        for item in response.get("output") or ():
            text = "".join(part.get("text") or part.get("refusal") or "" for part in _parts(item))
            if text:
                self._put(f"{text}\n", aside=_is_aside(item))

    def end(self) -> None:
        """End the line of a message that goes no further."""
        if self._unfinished is not None:
            self._put("\n", aside=self._aside.get(self._unfinished, False))
            self._unfinished = None

    def _write(self, index: int, text: str) -> None:
        if self._unfinished != index:
            self.end()
        self._put(text, aside=self._aside.get(index, False))
        self._unfinished = index

    def _put(self, text: str, *, aside: bool) -> None:
        if not self._terminal:
            # Bytes pass through unchanged, in the encoding of the wire.
            click.echo(text.encode("utf-8", "replace"), nl=False, err=aside)
            return
        shown = harmless(text)
        click.echo(click.style(shown, dim=True) if aside else shown, nl=False)


def note(text: str) -> None:
    """Tell the person something about the response."""
    click.echo(harmless(text), err=True)


def harmless(text: str) -> str:
    """A server's text without what a terminal would obey."""
    return text.translate(_UNSAFE)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at a standard stream, which is None if it was closed before the program began."""
    return stream is not None and stream.isatty()


def _is_aside(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "reasoning" or item.get("phase") == "commentary"


def _parts(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    kind = item.get("type")
    return (item.get("content") if kind == "message" else item.get("summary") if kind == "reasoning" else None) or []
