"""Values of a workflow as JSON text, for clients to read."""

from typing import Any

import msgspec

from agent_host.engine import annotations
from agent_host.errors import UnsupportedValueError


def as_json(value: Any) -> str:
    """A model, dataclass or plain value as JSON. Raises `UnsupportedValueError` for what JSON cannot carry."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedValueError(
            f"A {type(value).__qualname__} cannot be shown to a client: {error}. Use text, a model, a dataclass, or "
            "plain JSON values."
        ) from None


def _plain(value: Any) -> Any:
    if annotations.is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} has no JSON form")
