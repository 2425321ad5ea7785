"""Everything that can be wrong with a request, as one table of constructors.

- A `Problem` is raised where the fault is seen and becomes the HTTP answer where the request came in.
- `param` and `code` are strings in the body, never null: one client library hides the message otherwise, and
  all others accept both. `code` is stable, programs may match on it; the message is for people.
- A problem quotes what the client sent, but only its beginning: an answer must not be as long as a bad request.
- A client repeats a request only if the answer says when: a repeated one would start a second run. All others forbid
  it, whatever their status.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent_host.errors import AgentHostError

_QUOTED = 200  # characters of a client's own text that an answer repeats
_QUOTED_SCHEMA = 2000  # characters of a schema that an answer shows


class Problem(AgentHostError):
    """Why a request is refused: status, body and headers of the answer. Its facts do not change."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code or "invalid_request"
        given = dict(headers or {})
        self.headers: Mapping[str, str] = given if "Retry-After" in given else {"x-should-retry": "false", **given}


def problem_body(problem: Problem) -> dict[str, Any]:
    """The JSON body of the answer."""
    error = {"message": problem.message, "type": problem.type, "param": problem.param or "", "code": problem.code}
    return {"error": error}


def _short(text: object, most: int = _QUOTED) -> str:
    quoted = str(text)
    return quoted if len(quoted) <= most else quoted[:most] + "…"


def _bad(path: str | None, code: str, message: str) -> Problem:
    return Problem(400, message, param=_short(path) if path else None, code=code)


def _listed(words: Sequence[str]) -> str:
    quoted = [f"'{word}'" for word in words]
    if len(quoted) < 3:
        return " and ".join(quoted)
    return ", ".join(quoted[:-1]) + ", and " + quoted[-1]


# --- The body cannot be read -----------------------------------------------------------------------------------


def invalid_json(reason: str = "") -> Problem:
    """The body is not JSON."""
    because = f" {_short(reason)}" if reason else ""
    return _bad(None, "invalid_json", f"We could not parse the JSON body of your request.{because}")


def body_too_large(limit: int) -> Problem:
    """The body has more bytes than the host reads."""
    return Problem(413, f"The request body is too large. The limit is {limit} bytes.", code="request_too_large")


def too_many_values(limit: int) -> Problem:
    """The body has more numbers, texts, arrays and objects than the host decodes."""
    return Problem(
        413,
        f"The request body is too large. The limit is {limit} JSON values; send large data as a text or a file.",
        code="request_too_large",
    )


# --- The shape of a field --------------------------------------------------------------------------------------


def missing_parameter(path: str) -> Problem:
    """A required field is absent."""
    return _bad(path, "missing_required_parameter", f"Missing required parameter: '{_short(path)}'.")


def unknown_parameter(path: str, suggestion: str | None = None) -> Problem:
    """A field that the API does not have, perhaps a misspelt one."""
    hint = f" Did you mean '{suggestion}'?" if suggestion else ""
    return _bad(path, "unknown_parameter", f"Unknown parameter: '{_short(path)}'.{hint}")


def messages_moved() -> Problem:
    """`messages`, the field of the chat completions API, was sent instead of `input`."""
    return _bad(
        None,
        "unsupported_parameter",
        "Unsupported parameter: 'messages'. In the Responses API, this parameter has moved to 'input'.",
    )


def invalid_type(path: str, expected: str, got: str) -> Problem:
    """A value of the wrong JSON type; both are named with their article, as in `a string`."""
    where = f"'{_short(path)}'" if path else "the request body"
    return _bad(path, "invalid_type", f"Invalid type for {where}: expected {expected}, but got {got} instead.")


def invalid_value(path: str, value: object, supported: Iterable[str]) -> Problem:
    """A value outside its enumeration."""
    choices = _listed(list(supported))
    return _bad(path, "invalid_value", f"Invalid value: '{_short(value)}'. Supported values are: {choices}.")


def invalid_format(path: str, value: str, pattern: str) -> Problem:
    """A string that does not have the form it must have."""
    return _bad(
        path,
        "invalid_value",
        f"Invalid '{_short(path)}': '{_short(value)}'. Expected a string that matches the pattern '{pattern}'.",
    )


def malformed_id(path: str, value: str) -> Problem:
    """An id with characters that no id has."""
    return _bad(
        path,
        "invalid_value",
        f"Invalid '{_short(path)}': '{_short(value)}'. Expected an ID of 1 to 128 letters, numbers, underscores, "
        "or dashes.",
    )


def below_minimum(path: str, bound: float, value: float) -> Problem:
    """A number that is too small."""
    kind = "integer" if isinstance(bound, int) else "decimal"
    return _bad(
        path,
        f"{kind}_below_min_value",
        f"Invalid '{_short(path)}': {kind} below minimum value. Expected a value >= {bound}, "
        f"but got {_short(value)} instead.",
    )


def above_maximum(path: str, bound: float, value: float) -> Problem:
    """A number that is too large."""
    kind = "integer" if isinstance(bound, int) else "decimal"
    return _bad(
        path,
        f"{kind}_above_max_value",
        f"Invalid '{_short(path)}': {kind} above maximum value. Expected a value <= {bound}, "
        f"but got {_short(value)} instead.",
    )


def too_many_properties(path: str, limit: int, count: int) -> Problem:
    """An object with too many keys."""
    return _bad(
        path,
        "object_above_max_properties",
        f"Invalid '{_short(path)}': too many properties. Expected an object with at most {limit} properties, "
        f"but got an object with {count} properties instead.",
    )


def too_long(path: str, limit: int, length: int) -> Problem:
    """A string with too many characters."""
    return _bad(
        path,
        "string_above_max_length",
        f"Invalid '{_short(path)}': string too long. Expected a string with maximum length {limit}, "
        f"but got a string with length {length} instead.",
    )


def too_short(path: str, limit: int, length: int) -> Problem:
    """A string with too few characters."""
    return _bad(
        path,
        "string_below_min_length",
        f"Invalid '{_short(path)}': string too short. Expected a string with minimum length {limit}, "
        f"but got a string with length {length} instead.",
    )


def wrong_array_length(path: str, least: int, most: int, length: int) -> Problem:
    """An array with too few or too many elements."""
    code = "array_below_min_length" if length < least else "array_above_max_length"
    return _bad(
        path,
        code,
        f"Invalid '{_short(path)}': expected an array of {least} to {most} elements, "
        f"but got an array with length {length} instead.",
    )


# --- Fields that do not go together ----------------------------------------------------------------------------


def too_many_input_items(path: str, limit: int, count: int) -> Problem:
    """More items than one request may bring."""
    return _bad(
        path,
        "too_many_input_items",
        f"'{_short(path)}' has {count} items; a request may bring at most {limit}. Continue a stored response with "
        "'previous_response_id', or use a conversation, to send only what is new.",
    )


def no_input() -> Problem:
    """There is nothing to work on: no input, and nothing to continue."""
    return _bad(
        None,
        "missing_required_parameter",
        "One of 'input', 'previous_response_id', 'prompt', or 'conversation' must be provided.",
    )


def mutually_exclusive() -> Problem:
    """A response is continued or a conversation is, not both."""
    return _bad(
        None,
        "mutually_exclusive_parameters",
        "Mutually exclusive parameters: ''. "
        "Ensure you are only providing one of: 'previous_response_id' or 'conversation'.",
    )


def background_needs_store() -> Problem:
    """A response in the background that is not stored could never be read."""
    return _bad("background", "unsupported_parameter", "Background responses must be stored: 'store' may not be false.")


def stream_options_need_stream() -> Problem:
    """Options of a stream were given for a response that is not streamed."""
    return _bad(
        "stream_options", "invalid_value", "The 'stream_options' parameter is only allowed with 'stream': true."
    )


def unsupported_input(path: str, what: str, accepted: Iterable[str]) -> Problem:
    """The workflow behind this host cannot take this part of the input; `accepted` names what it can take."""
    return _bad(
        path,
        "unsupported_input",
        f"This workflow cannot take {_short(what)} ('{_short(path)}'). It accepts: {', '.join(accepted)}.",
    )


# --- State that does not exist or is not ready -----------------------------------------------------------------


def previous_response_not_found(id: str) -> Problem:
    """There is no such response to continue (a 400, as it is a field of the body)."""
    return _bad(
        "previous_response_id", "previous_response_not_found", f"Previous response with id '{_short(id)}' not found."
    )


def previous_response_not_ready(id: str) -> Problem:
    """The response to continue has not ended yet."""
    return _bad(
        "previous_response_id",
        "previous_response_not_ready",
        f"Previous response with id '{_short(id)}' has not finished. Poll it until it has, or cancel it.",
    )


def conversation_not_found(id: str) -> Problem:
    """There is no such conversation; conversations are never created on the way."""
    message = f"Conversation with id '{_short(id)}' not found."
    return Problem(404, message, param="conversation", code="conversation_not_found")


def response_not_found(id: str) -> Problem:
    """The response named in the path does not exist."""
    message = f"Response with id '{_short(id)}' not found."
    return Problem(404, message, param="response_id", code="response_not_found")


def cannot_cancel_synchronous() -> Problem:
    """Only what runs in the background can be cancelled by a request; anything else ends with its connection."""
    return _bad("response_id", "cannot_cancel_synchronous", "Cannot cancel a synchronous response.")


def response_in_progress(id: str) -> Problem:
    """What is asked of a response can only be done when it has ended."""
    return _bad(
        "response_id",
        "response_in_progress",
        f"Response with id '{_short(id)}' has not finished. Cancel it first, or wait until it has.",
    )


def conversation_locked(id: str) -> Problem:
    """Another turn of the conversation is on its way."""
    return _bad(
        "conversation",
        "conversation_locked",
        f"Another process is currently operating on the conversation '{_short(id)}'. Please retry in a few seconds.",
    )


def conversation_item_not_found(conversation_id: str, item_id: str) -> Problem:
    """A conversation does not have the item named in the path."""
    message = f"Item with id '{_short(item_id)}' not found in conversation '{_short(conversation_id)}'."
    return Problem(404, message, param="item_id", code="item_not_found")


def cursor_not_found(id: str) -> Problem:
    """The item after which a page is to begin is not in the list."""
    return _bad("after", "invalid_value", f"Invalid 'after': there is no item with id '{_short(id)}' in this list.")


def model_not_found(name: str) -> Problem:
    """The workflow of this host has another name, and names are checked."""
    message = f"The requested model '{_short(name)}' does not exist."
    return Problem(404, message, param="model", code="model_not_found")


def response_id_taken(id: str) -> Problem:
    """The id that the response is to have is another one's."""
    return _bad("response_id", "response_id_taken", f"There is a response with id '{_short(id)}' already.")


def idempotency_mismatch() -> Problem:
    """An idempotency key was used for another request before."""
    return _bad(
        "idempotency-key",
        "idempotency_mismatch",
        "This 'Idempotency-Key' was used with another request body. Use a new key for a new request.",
    )


# --- What the items of the input refer to ------------------------------------------------------------------------


def missing_tool_output(call_id: str) -> Problem:
    """A question is open, and the request does not answer it."""
    return _bad("input", "missing_tool_output", f"No tool output found for function call {_short(call_id)}.")


def unknown_tool_call(call_id: str) -> Problem:
    """An answer to a question that is not open."""
    return _bad(
        "input", "unknown_tool_call", f"No tool call found for function call output with call_id {_short(call_id)}."
    )


def unreadable_answer(path: str, wanted: str, schema: Mapping[str, Any]) -> Problem:
    """An answer that is not of the type that was asked for; `schema` is the type's JSON schema, {} if it has none."""
    form = f" Its JSON schema is {_short(json.dumps(schema, separators=(',', ':')), _QUOTED_SCHEMA)}." if schema else ""
    return _bad(path, "unreadable_answer", f"The answer at '{_short(path)}' cannot be read as {_short(wanted)}.{form}")


def duplicate_item(id: str) -> Problem:
    """Two different items have the same id."""
    return _bad(
        "input",
        "duplicate_item",
        f"Duplicate item found with id {_short(id)}. Remove duplicate items from your input and try again.",
    )


def item_not_found(id: str) -> Problem:
    """A reference to an item that is not stored (a 404, though it is a field of the body)."""
    message = (
        f"Item with id '{_short(id)}' not found. Items are not persisted when `store` is set to false. "
        "Send the item itself, or remove it from your input."
    )
    return Problem(404, message, param="input", code="item_not_found")


def unknown_compaction(path: str) -> Problem:
    """A compaction item whose handle was not made here, or not for this user."""
    return _bad(
        f"{path}.encrypted_content",
        "unknown_compaction",
        f"The compaction at '{_short(path)}' is not known here. Compact the conversation again with this host.",
    )


# --- The WebSocket mode ------------------------------------------------------------------------------------------


def invalid_stream_id() -> Problem:
    """The name of a lane that has no name's form."""
    return _bad(
        "stream_id",
        "invalid_stream_id",
        "Invalid 'stream_id': expected a string of 1 to 256 letters, numbers, underscores, dashes, or periods.",
    )


def too_many_streams(limit: int) -> Problem:
    """A connection has had as many named lanes as it may."""
    return _bad(
        "stream_id",
        "websocket_stream_limit_reached",
        f"This WebSocket has had {limit} different stream IDs, which is the limit. Use one of them again, or open "
        "another WebSocket.",
    )


def connection_too_old(minutes: float) -> Problem:
    """A connection has lasted as long as one may."""
    return _bad(
        None,
        "websocket_connection_limit_reached",
        f"A WebSocket lasts at most {minutes:g} minutes. Open another one to continue.",
    )


def no_background_turns_here() -> Problem:
    """A turn in the background was asked for over a connection whose end ends its turns."""
    return _bad(
        "background",
        "unsupported_parameter",
        "Responses over a WebSocket cannot run in the background. Use POST /responses for those that should.",
    )


def not_a_text_frame() -> Problem:
    """Binary data came over a WebSocket."""
    return _bad(None, "invalid_json", "We could not parse your frame: it is binary. Send JSON in a text frame.")


# --- The caller may not ---------------------------------------------------------------------------------------


def wrong_api_key() -> Problem:
    """The request carries no API key, or another one."""
    return Problem(
        401,
        "The API key is missing or wrong. Send it as 'Authorization: Bearer <key>'.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def foreign_origin(origin: str) -> Problem:
    """A page of another site asks. Browsers let every page do that, and it would speak as the user."""
    return Problem(
        403,
        f"Pages of '{_short(origin)}' may not use this host, which asks for no API key. Set one, serve the page from "
        "the host's own address, or trust the page's host name (--trust-host).",
        code="foreign_origin",
    )


def untrusted_host(name: str) -> Problem:
    """A name that may be somebody else's leads to this machine, and with it the pages of that name."""
    return Problem(
        403,
        f"This host asks for no API key and is not known as '{_short(name)}'. Call it by its address or as "
        "'localhost', set an API key, or trust the name (--trust-host).",
        code="untrusted_host",
    )


# --- The request never reached a workflow, or the host failed ---------------------------------------------------


def not_found(path: str) -> Problem:
    """Nothing lives at this address."""
    return Problem(404, f"There is nothing at '{_short(path)}'.", code="not_found")


def method_not_allowed(method: str, path: str) -> Problem:
    """The address exists, but not for this method."""
    message = f"The method {_short(method)} is not allowed for '{_short(path)}'."
    return Problem(405, message, code="method_not_allowed")


def too_busy(retry_after_seconds: int) -> Problem:
    """All places are taken. Nothing has been read or written, so clients may try again."""
    return Problem(
        429,
        f"The host is busy. Please try again in {retry_after_seconds} seconds.",
        type="too_many_requests",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after_seconds)},
    )


def no_call_id() -> Problem:
    """A hosted agent is called by a platform that speaks another version of the container protocol."""
    return Problem(
        501,
        "The platform has sent no call id. This server speaks version 2.0.0 of the container protocol 'responses'; "
        "declare that version for the agent.",
        type="server_error",
        code="unsupported_container_protocol_version",
    )


def bad_snapshot_request(code: str, reason: str) -> Problem:
    """What the platform says around a memory snapshot cannot be read."""
    return _bad(None, code, _short(reason))


def session_mismatch(mine: str) -> Problem:
    """A process that serves a session is told to serve another one."""
    return Problem(409, f"This process serves the session '{_short(mine)}'.", code="session_mismatch")


def snapshot_failed(code: str, reason: str) -> Problem:
    """The host could not be made ready for a memory snapshot, or for what comes after it."""
    return Problem(500, reason, type="server_error", code=code)


def server_fault(request_id: str) -> Problem:
    """The host failed. The log has the reason under this request id; clients are told not to retry."""
    return Problem(
        500,
        f"The server had an error while processing your request. The request id is {request_id}.",
        type="server_error",
        code="server_error",
    )
