"""What a refused request is answered."""

import pytest
from openai import BadRequestError

from agent_host.errors import AgentHostError
from agent_host.wire import problems
from agent_host.wire.problems import Problem, problem_body

ROWS: list[tuple[Problem, int, str, str]] = [
    (problems.invalid_json("why"), 400, "", "invalid_json"),
    (problems.body_too_large(10), 413, "", "request_too_large"),
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
    (problems.not_available("background", "Background mode"), 400, "background", "unsupported_parameter"),
    (problems.previous_response_not_found("r"), 400, "previous_response_id", "previous_response_not_found"),
    (problems.previous_response_not_ready("r"), 400, "previous_response_id", "previous_response_not_ready"),
    (problems.conversation_not_found("c"), 404, "conversation", "conversation_not_found"),
    (problems.response_not_found("r"), 404, "response_id", "response_not_found"),
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
