"""What stands behind the question mark of an address."""

import pytest

from agent_host.wire.paging import list_object, page_of
from agent_host.wire.problems import Problem
from agent_host.wire.query import PageQuery, Query, RetrieveQuery, page_query, retrieve_query

ITEMS = [{"id": f"msg_{number}"} for number in range(5)]

PAGE_FAULTS: list[tuple[Query, str, str]] = [
    ([("limit", "0")], "limit", "integer_below_min_value"),
    ([("limit", "-1")], "limit", "integer_below_min_value"),
    ([("limit", "101")], "limit", "integer_above_max_value"),
    ([("limit", "many")], "limit", "invalid_type"),
    ([("limit", "")], "limit", "invalid_type"),
    ([("limit", "٣")], "limit", "invalid_type"),
    ([("limit", "1_0")], "limit", "invalid_type"),
    ([("limit", "1" * 5000)], "limit", "invalid_type"),
    ([("order", "x")], "order", "invalid_value"),
    ([("order", "")], "order", "invalid_value"),
    ([("after", "")], "after", "string_below_min_length"),
    ([("after", "x" * 257)], "after", "string_above_max_length"),
    ([("after", "a\x00")], "after", "invalid_value"),
    ([("include[]", "bogus.thing")], "include[0]", "invalid_value"),
    ([("include", "bogus.thing")], "include[0]", "invalid_value"),
]
RETRIEVE_FAULTS: list[tuple[Query, str, str]] = [
    ([("starting_after", "abc")], "starting_after", "invalid_type"),
    ([("starting_after", "1.5")], "starting_after", "invalid_type"),
    ([("starting_after", "9" * 19)], "starting_after", "invalid_type"),
    ([("starting_after", "-1")], "starting_after", "integer_below_min_value"),
    ([("stream", "maybe")], "stream", "invalid_value"),
    ([("include_obfuscation", "maybe")], "include_obfuscation", "invalid_value"),
    ([("include[]", "reasoning.encrypted_content"), ("include[]", "x")], "include[1]", "invalid_value"),
]


@pytest.mark.parametrize(("query", "param", "code"), PAGE_FAULTS, ids=repr)
def test_a_fault_of_a_page_is_named(query: Query, param: str, code: str) -> None:
    """A parameter that cannot be used is a 400 that names it."""
    with pytest.raises(Problem) as caught:
        page_query(query)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(("query", "param", "code"), RETRIEVE_FAULTS, ids=repr)
def test_a_fault_of_a_reading_is_named(query: Query, param: str, code: str) -> None:
    """The parameters of a single response are judged as those of a list are."""
    with pytest.raises(Problem) as caught:
        retrieve_query(query)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_a_page_has_defaults() -> None:
    """Twenty elements, newest first, from the newest on; what is not known is ignored."""
    assert page_query([]) == page_query([("api-version", "7")]) == PageQuery(None, 20, True)
    query = [("after", "msg_1"), ("limit", "100"), ("order", "asc"), ("include[]", "reasoning.encrypted_content")]
    assert page_query(query) == PageQuery("msg_1", 100, False)


def test_a_response_is_read_whole_unless_a_stream_is_asked_for() -> None:
    """A stream begins with the first event unless a place is named."""
    assert retrieve_query([]) == RetrieveQuery(False, -1)
    assert retrieve_query([("stream", "true")]) == RetrieveQuery(True, -1)
    query = [("stream", "true"), ("starting_after", "3"), ("include_obfuscation", "false")]
    assert retrieve_query(query) == RetrieveQuery(True, 3)


def test_of_a_parameter_that_is_given_twice_the_last_counts() -> None:
    """The ones before it are not even judged."""
    assert page_query([("limit", "many"), ("limit", "2"), ("order", "asc"), ("limit", "7")]).limit == 7
    query = [("stream", "true"), ("starting_after", "9"), ("stream", "false"), ("starting_after", "3")]
    assert retrieve_query(query) == RetrieveQuery(False, 3)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6])
def test_pages_together_are_the_list(newest_first: bool, limit: int) -> None:
    """Whoever follows the pages to the end has seen each element once and in order."""
    seen, after = [], None
    for _ in ITEMS:
        page = page_of(ITEMS, PageQuery(after, limit, newest_first))
        assert 0 < len(page["data"]) <= limit
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen.extend(page["data"])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == (ITEMS[::-1] if newest_first else ITEMS)


def test_an_empty_page_has_no_ends() -> None:
    """Behind the last element is a page without elements, which says that there is no more."""
    assert page_of(ITEMS, PageQuery("msg_0")) == list_object([])
    assert list_object([]) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_page_begins_behind_an_element_that_is_there() -> None:
    """An id that is not in the list is refused, as no page can begin behind it."""
    with pytest.raises(Problem) as caught:
        page_of(ITEMS, PageQuery("msg_9"))
    assert caught.value.param == "after"
    assert "msg_9" in caught.value.message
