"""What a refused request is answered."""

import pytest
from openai import BadRequestError

from agent_host.errors import AgentHostError
from agent_host.wire import problems
from agent_host.wire.problems import Problem, problem_body

ROWS: list[tuple[Problem, int, str, str]] = [
    (problems.invalid_json("why"), 400, "", "invalid_json"),
    (problems.body_too_large(10), 413, "", "request_too_large"),
    (problems.too_many_values(10), 413, "", "request_too_large"),
    (problems.missing_parameter("tools[0].name"), 400, "tools[0].name", "missing_required_parameter"),
    (problems.unknown_parameter("inptu", "input"), 400, "inptu", "unknown_parameter"),
    (problems.messages_moved(), 400, "", "unsupported_parameter"),
    (problems.invalid_type("store", "a boolean", "a string"), 400, "store", "invalid_type"),
    (problems.invalid_value("truncation", "x", ["auto", "disabled"]), 400, "truncation", "invalid_value"),
    (problems.invalid_format("tools[0].name", "a b", "[a-z]+"), 400, "tools[0].name", "invalid_value"),
    (problems.malformed_id("previous_response_id", "é"), 400, "previous_response_id", "invalid_value"),
    (problems.below_minimum("max_output_tokens", 16, 15), 400, "max_output_tokens", "integer_below_min_value"),
    (problems.above_maximum("temperature", 2.0, 3), 400, "temperature", "decimal_above_max_value"),
    (problems.too_many_properties("metadata", 16, 17), 400, "metadata", "object_above_max_properties"),
    (problems.too_long("metadata.k", 512, 513), 400, "metadata.k", "string_above_max_length"),
    (problems.too_short("call_id", 1, 0), 400, "call_id", "string_below_min_length"),
    (problems.wrong_array_length("tools", 1, 128, 0), 400, "tools", "array_below_min_length"),
    (problems.wrong_array_length("tools", 1, 128, 129), 400, "tools", "array_above_max_length"),
    (problems.no_input(), 400, "", "missing_required_parameter"),
    (problems.mutually_exclusive(), 400, "", "mutually_exclusive_parameters"),
    (problems.background_needs_store(), 400, "background", "unsupported_parameter"),
    (problems.stream_options_need_stream(), 400, "stream_options", "invalid_value"),
    (
        problems.unsupported_input("input[0].content[1]", "an image", ["text"]),
        400,
        "input[0].content[1]",
        "unsupported_input",
    ),
    (problems.previous_response_not_found("r"), 400, "previous_response_id", "previous_response_not_found"),
    (problems.previous_response_not_ready("r"), 400, "previous_response_id", "previous_response_not_ready"),
    (problems.foreign_origin("http://evil.example"), 403, "", "foreign_origin"),
    (problems.untrusted_host("evil.example"), 403, "", "untrusted_host"),
    (problems.conversation_not_found("c"), 404, "conversation", "conversation_not_found"),
    (problems.response_not_found("r"), 404, "response_id", "response_not_found"),
    (problems.too_many_input_items("input", 10, 11), 400, "input", "too_many_input_items"),
    (problems.cannot_cancel_synchronous(), 400, "response_id", "cannot_cancel_synchronous"),
    (problems.response_in_progress("r"), 400, "response_id", "response_in_progress"),
    (problems.conversation_locked("c"), 400, "conversation", "conversation_locked"),
    (problems.conversation_item_not_found("c", "i"), 404, "item_id", "item_not_found"),
    (problems.cursor_not_found("i"), 400, "after", "invalid_value"),
    (problems.model_not_found("m"), 404, "model", "model_not_found"),
    (problems.idempotency_mismatch(), 400, "idempotency-key", "idempotency_mismatch"),
    (problems.missing_tool_output("call_1"), 400, "input", "missing_tool_output"),
    (problems.unknown_tool_call("call_1"), 400, "input", "unknown_tool_call"),
    (problems.unreadable_answer("input[0].output", "bool", {}), 400, "input[0].output", "unreadable_answer"),
    (problems.duplicate_item("i"), 400, "input", "duplicate_item"),
    (problems.item_not_found("i"), 404, "input", "item_not_found"),
    (problems.unknown_compaction("input[0]"), 400, "input[0].encrypted_content", "unknown_compaction"),
    (problems.not_found("/x"), 404, "", "not_found"),
    (problems.method_not_allowed("PUT", "/x"), 405, "", "method_not_allowed"),
]


@pytest.mark.parametrize(("problem", "status", "param", "code"), ROWS, ids=lambda row: getattr(row, "code", None))
def test_each_problem_says_what_is_wrong_and_where(problem: Problem, status: int, param: str, code: str) -> None:
    """Every problem of a request has its status, param and code, and they are strings in the body."""
    assert problem.status == status
    error = problem_body(problem)["error"]
    assert error == {"message": str(problem), "type": "invalid_request_error", "param": param, "code": code}
    assert error["message"]


def test_messages_read_as_clients_know_them() -> None:
    """Messages have the words that programs match on and people search for."""
    assert problems.unknown_parameter("inptu", "input").message == "Unknown parameter: 'inptu'. Did you mean 'input'?"
    assert problems.missing_parameter("input").message == "Missing required parameter: 'input'."
    assert (
        problems.invalid_type("store", "a boolean", "a string").message
        == "Invalid type for 'store': expected a boolean, but got a string instead."
    )
    assert (
        problems.invalid_value("t", "x", ["a", "b", "c"]).message
        == "Invalid value: 'x'. Supported values are: 'a', 'b', and 'c'."
    )
    assert problems.previous_response_not_found("resp_1").message == "Previous response with id 'resp_1' not found."
    assert "poll" in problems.previous_response_not_ready("resp_1").message.lower()
    assert "cancel" in problems.previous_response_not_ready("resp_1").message


def test_a_busy_host_says_when_to_come_back() -> None:
    """A request that found no place may be sent again, after a time that is told."""
    problem = problems.too_busy(3)
    assert (problem.status, problem.type, problem.code) == (429, "too_many_requests", "rate_limit_exceeded")
    assert problem.headers == {"Retry-After": "3"}


def test_a_fault_of_the_host_is_not_retried() -> None:
    """Clients retry a 500 unless told not to, and a retry would run the workflow twice."""
    problem = problems.server_fault("req_1")
    assert (problem.status, problem.type) == (500, "server_error")
    assert problem.headers == {"x-should-retry": "false"}
    assert "req_1" in problem.message


@pytest.mark.parametrize("problem", [row[0] for row in ROWS], ids=lambda problem: problem.code)
def test_only_a_busy_host_asks_for_a_repetition(problem: Problem) -> None:
    """Whatever clients do with a status by themselves, they are told not to send the request again."""
    assert problem.headers["x-should-retry"] == "false"


def test_messages_that_programs_know_are_the_known_ones() -> None:
    """Programs that look for these words in a message find them."""
    assert problems.missing_tool_output("call_1").message == "No tool output found for function call call_1."
    assert (
        problems.unknown_tool_call("call_1").message
        == "No tool call found for function call output with call_id call_1."
    )
    assert problems.duplicate_item("msg_1").message.startswith("Duplicate item found with id msg_1.")
    assert problems.item_not_found("msg_1").message.startswith(
        "Item with id 'msg_1' not found. Items are not persisted when `store` is set to false."
    )
    assert problems.cannot_cancel_synchronous().message == "Cannot cancel a synchronous response."
    assert "retry in a few seconds" in problems.conversation_locked("conv_1").message


def test_an_unreadable_answer_says_what_was_wanted() -> None:
    """Whoever answered wrongly learns the type, and its schema if there is one, shortened if it is long."""
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}}
    assert problems.unreadable_answer("input[0].output", "Decision", schema).message == (
        "The answer at 'input[0].output' cannot be read as Decision. Its JSON schema is "
        '{"type":"object","properties":{"yes":{"type":"boolean"}}}.'
    )
    assert "schema" not in problems.unreadable_answer("input[0].output", "Decision", {}).message
    assert len(problems.unreadable_answer("p", "Decision", {"description": "x" * 10_000}).message) < 2500


def test_an_answer_is_not_as_long_as_a_bad_request() -> None:
    """What a client sent is quoted, but not without end."""
    huge = "x" * 1_000_000
    for problem in (
        problems.invalid_value(huge, huge, ["a"]),
        problems.unknown_parameter(huge),
        problems.previous_response_not_found(huge),
        problems.below_minimum("p", 1, -(10**4000)),
    ):
        assert len(str(problem_body(problem))) < 2000


def test_a_problem_is_an_error_of_this_package() -> None:
    """Whoever catches all errors of the package catches problems too."""
    assert issubclass(Problem, AgentHostError)
    assert not issubclass(Problem, BadRequestError)
