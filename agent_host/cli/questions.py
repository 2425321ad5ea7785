"""What a response asks of people, and their answers as items of the next request."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_YES_OR_NO = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}


@dataclass(frozen=True, slots=True)
class Question:
    """A function call that waits for its output, or an approval that waits for a yes or no.

    `id` is what the answer refers to; `arguments` are the JSON text of the call.
    """

    id: str
    name: str
    arguments: str
    is_approval: bool = False

    @property
    def text(self) -> str:
        """The question for a person: a text by itself as it is, anything else as its name and its values."""
        try:
            asked = json.loads(self.arguments or "{}")
        except ValueError:
            asked = self.arguments
        if not self.is_approval:
            only = next(iter(asked.values())) if isinstance(asked, dict) and len(asked) == 1 else asked
            if isinstance(only, str):
                return only
        if isinstance(asked, dict):
            lines = [f"{name}: {_plain(value)}" for name, value in asked.items()]
        else:
            lines = [_plain(asked)]
        return "\n  ".join([self.name, *lines])

    def answer(self, value: str) -> dict[str, Any]:
        """The item that answers; raises `ValueError` if an approval gets something that is neither yes nor no."""
        if not self.is_approval:
            return {"type": "function_call_output", "call_id": self.id, "output": value}
        if value.strip().lower() not in _YES_OR_NO:
            raise ValueError(f"{self.id!r} is to be approved or not: say yes or no, not {value!r}.")
        approve = _YES_OR_NO[value.strip().lower()]
        return {"type": "mcp_approval_response", "approval_request_id": self.id, "approve": approve}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def questions_of(response: Mapping[str, Any]) -> list[Question]:
    """The questions that a response ends with, in the order in which they were asked.

    A call whose output stands in the response too has been answered by the server itself.
    """
    output: Sequence[Mapping[str, Any]] = response.get("output") or ()
    answered = {item.get("call_id") or item.get("approval_request_id") for item in output if _is_answer(item)}
    found = []
    for item in output:
        kind, name, arguments = item.get("type"), item.get("name", ""), item.get("arguments", "")
        if kind == "function_call":
            found.append(Question(item.get("call_id", ""), name, arguments))
        elif kind == "mcp_approval_request":
            found.append(Question(item.get("id", ""), name, arguments, is_approval=True))
    return [question for question in found if question.id not in answered]


def _is_answer(item: Mapping[str, Any]) -> bool:
    return item.get("type") in ("function_call_output", "mcp_approval_response", "mcp_call")
