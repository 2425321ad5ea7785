"""What the API must do, in plain data: commits, responses, conversations and turns in flight.

Nothing here knows the server. A commit is compared by identity: two turns never make the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.properties.calling import Call

Kind = Literal["text", "number", "inner"]
ATTEMPTS = 3


@dataclass(eq=False)
class Commit:
    """A state of the workflow: what was said, what the nested workflow was answered, and what is open.

    `calls` are the ids under which clients know the open questions, in the order of `asked`.
    """

    said: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    asked: tuple[Kind, ...] = ()
    calls: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a turn ends that nobody disturbs."""

    status: str
    commit: Commit
    texts: tuple[str, ...] = ()


@dataclass(eq=False)
class Entry:
    """An item of a conversation. One that `waits` is taken in by the next turn."""

    text: str
    role: str = ""
    waits: bool = False
    id: str = ""


@dataclass(eq=False)
class Conversation:
    id: str
    head: Commit
    items: list[Entry] = field(default_factory=list)
    deleted: bool = False
    turn: "Turn | None" = None


@dataclass(eq=False)
class Turn:
    """A request that was accepted. `entered` are the items of the conversation that it takes in."""

    start: Commit
    text: str = ""
    answers: tuple[str, ...] = ()
    conversation: Conversation | None = None
    entered: tuple[Entry, ...] = ()
    stored: bool = True
    background: bool = False
    streamed: bool = False
    key: str | None = None
    id: str = ""
    attempt: int = 1
    call: Call | None = None
    followers: list[tuple[int, Call]] = field(default_factory=list)

    @property
    def heard(self) -> str:
        """What the start executor hears: what the user has said since the assistant spoke last."""
        recent: list[str] = []
        for entry in self.entered:
            recent = [] if entry.role == "assistant" else [*recent, entry.text]
        return "\n\n".join([*recent, self.text] if self.text else recent)

    @property
    def gate(self) -> str | None:
        """Where the turn waits for the test; None if it does not."""
        for answer in self.answers:
            if answer.startswith("late"):
                return answer
        return self.heard if command(self.heard) in ("wait", "late") else None

    @property
    def is_begun_anew(self) -> bool:
        """Whether nothing is committed of it when it waits at its gate."""
        return command(self.heard) == "wait"

    def outcome(self) -> Outcome:
        """How it ends undisturbed. Answers come before what is heard with them."""
        state, texts = self.start, []
        if self.answers:
            for kind, answer in zip(state.asked, self.answers, strict=True):
                if kind == "inner":
                    state = replace(state, inner=(*state.inner, answer))
                    texts.append("inner " + "|".join(state.inner))
                else:
                    state = replace(state, said=(*state.said, answer))
                    texts.append("|".join(state.said))
            state = replace(state, asked=())
        if self.heard:
            state = replace(state, said=(*state.said, self.heard))
            match command(self.heard):
                case "fail" | "break":
                    return Outcome("failed", self.start)
                case "ask":
                    state = replace(state, asked=(*state.asked, "text"))
                case "pair":
                    state = replace(state, asked=(*state.asked, "text", "number"))
                case "nest":
                    state = replace(state, asked=(*state.asked, "inner"))
                case "wait":
                    texts += ["so far", "|".join(state.said)]
                case _:
                    texts.append("|".join(state.said))
        if state.asked and not self.stored:
            return Outcome("failed", self.start)
        return Outcome("completed", replace(state, calls=[]), tuple(texts))


@dataclass(eq=False)
class Response:
    """A response that has ended: `shown` is its JSON, `commit` what it is continued from."""

    id: str
    status: str
    commit: Commit
    shown: dict[str, Any]
    background: bool
    deleted: bool = False


def command(text: str) -> str:
    """What an input tells the workflow to do: the first word of its last paragraph."""
    return text.rpartition("\n\n")[2].partition(" ")[0]


def texts_of(output: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The texts of the messages that are whole."""
    whole = [item for item in output if item["type"] == "message" and item["status"] == "completed"]
    return tuple(part["text"] for item in whole for part in item["content"])


def calls_of(output: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of the questions."""
    return [item["call_id"] for item in output if item["type"] == "function_call"]
