"""The response object, with every key that any of the known clients insists on.

- Unset fields are present as null, numbers have their defaults: the published types require the keys, and
  `text.verbosity` must be absent rather than null.
- A snapshot owns its list of items and its metadata. What it shares with other snapshots is never changed.
- `ResponseFacts` is what does not change between the first event and the last; the rest are arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agent_host.wire.items import sendable

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

ERROR_CODES = frozenset(
    {
        "server_error",
        "rate_limit_exceeded",
        "invalid_prompt",
        "data_residency_mismatch",
        "bio_policy",
        "misalignment_policy_violation",
        "vector_store_timeout",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "failed_to_download_image",
        "image_file_not_found",
    }
)


@dataclass(frozen=True, slots=True)
class ResponseFacts:
    """What a response says about its request, the same in each of its snapshots.

    `echo` holds the fields the client set to something other than the default, in the form they are shown.
    """

    id: str
    created_at: int
    model: str
    previous_response_id: str | None = None
    conversation: str | None = None
    instructions: str | None = None
    store: bool = True
    background: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    echo: Mapping[str, Any] = field(default_factory=dict)


def snapshot(
    facts: ResponseFacts,
    *,
    status: Status,
    output: Sequence[dict[str, Any]],
    usage: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    incomplete_details: dict[str, Any] | None = None,
    completed_at: int | None = None,
) -> dict[str, Any]:
    """The response as it is now; what is added to `output` later does not appear in it."""
    response: dict[str, Any] = {
        "id": facts.id,
        "object": "response",
        "created_at": facts.created_at,
        "completed_at": completed_at,
        "status": status,
        "error": error,
        "incomplete_details": incomplete_details,
        "model": facts.model,
        "instructions": facts.instructions,
        "previous_response_id": facts.previous_response_id,
        "conversation": None if facts.conversation is None else {"id": facts.conversation},
        "output": list(output),
        "usage": usage,
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "text": {"format": {"type": "text"}},
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "reasoning": {"effort": None, "summary": None},
        "max_output_tokens": None,
        "max_tool_calls": None,
        "store": facts.store,
        "background": facts.background,
        "service_tier": "default",
        "metadata": dict(facts.metadata),
        "safety_identifier": None,
        "prompt_cache_key": None,
        "user": None,
    }
    response.update(facts.echo)
    return response


_OWN_KEYS = frozenset(
    {
        *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "model"),
        *("instructions", "previous_response_id", "conversation", "output", "usage", "store", "background", "metadata"),
    }
)


def facts_of(response: Mapping[str, Any]) -> ResponseFacts:
    """The facts that a snapshot was made from; their snapshots equal those of the original facts."""
    conversation = response["conversation"]
    return ResponseFacts(
        id=response["id"],
        created_at=response["created_at"],
        model=response["model"],
        previous_response_id=response["previous_response_id"],
        conversation=None if conversation is None else conversation["id"],
        instructions=response["instructions"],
        store=response["store"],
        background=response["background"],
        metadata=response["metadata"],
        echo={key: value for key, value in response.items() if key not in _OWN_KEYS},
    )


def usage_object(
    input_tokens: int = 0, output_tokens: int = 0, cached: int = 0, reasoning: int = 0, cache_write: int = 0
) -> dict[str, Any]:
    """The tokens a turn has used."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_write},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def error_object(code: str, message: str) -> dict[str, Any]:
    """Why a response failed. Strict clients refuse codes they do not know: those are shown as `server_error`."""
    known = code if code in ERROR_CODES else "server_error"
    return {"code": known, "message": sendable(message), "type": "server_error", "param": None}
