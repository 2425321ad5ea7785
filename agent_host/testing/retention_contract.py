"""The rules of `agent_host.stores.base` about what is forgotten, and what a store tells of itself.

Part of `agent_host.testing.store_contract`: the first word of each test's docstring is the number of its rule.
"""

from dataclasses import replace

import pytest

from agent_host.engine.checkpoint import BLOB, INLINE, Commit, blob_hash, cells_of
from agent_host.errors import TurnConflictError
from agent_host.stores import Store
from agent_host.stores.archive import read_archive, write_archive
from agent_host.stores.records import CommitName, Compaction, ConversationMove, Freed, Guard, OpenCall, ResponseRecord
from agent_host.stores.retention import collect
from agent_host.testing.commit_log_contract import BODY, ROOT, bare, bodies, child, nested
from agent_host.testing.records import background, begun, conversation, foreground, item, response

CALL = OpenCall("call_1", "request 1")


def old(name: str, start: Commit, end: Commit, created_at: int = 100) -> ResponseRecord:
    """A response that was created at a time."""
    return replace(response(name, start, end), created_at=created_at, items=(f"msg_{name}",))


async def cells(store: Store, commit: Commit, user: str = "") -> dict[str, bytes]:
    """What a stored commit holds."""
    return cells_of(await store.read_chain(user, commit.id))


async def unneeded(store: Store, *roots: str) -> list[str]:
    """The ids of the commits that may go; the root of the suite is in use."""
    return [name.id for name in await store.unneeded_commits(100, (ROOT.id, *roots))]


async def prune_all(store: Store) -> int:
    """Remove everything that is unneeded, one after the other; how many went."""
    names = await store.unneeded_commits(1_000, (ROOT.id,))
    return sum([(await store.prune([name], (ROOT.id,))).count for name in names])


class RetentionContract:
    """The rules about what is forgotten; subclasses give a fixture `store`."""

    # --- Responses -------------------------------------------------------------------------------------------

    async def test_old_responses_are_forgotten(self, store: Store) -> None:
        """R60: those from before a time go, of every user, the oldest first and so many at most."""
        for number, user in enumerate(("ann", "bob", "*", "ann")):
            await store.finish(user, old(str(number), ROOT, ROOT, 100 + number), [ROOT])
        first = await store.forget_responses(103, 2)
        assert (first.count, first.size) == (2, 2 * len(b"inputbody\x01\x02"))
        assert await store.read_response("ann", "resp_0") is None
        assert await store.read_response("bob", "resp_1") is None
        assert await store.read_response("*", "resp_2") is not None
        assert (await store.forget_responses(103, 2)).count == 1
        assert await store.forget_responses(103, 2) == Freed()
        assert await store.read_response("ann", "resp_3") is not None
        assert await store.find_items("ann", ["msg_0", "msg_3"]) == {"msg_3": (b"input", b"body")}

    async def test_one_step_removes_so_many_bytes_at_most(self, store: Store) -> None:
        """R60: what is large goes in several steps, events too (R58), so that others need not wait for all of it."""
        for name in ("1", "2"):
            guard = await begun(store, name)
            record = replace(old(name, ROOT, ROOT), background=True, body=b"x" * 5_000_000)
            await store.finish("", record, [], guard=guard, events=[b"x" * 5_000_000])
        for forget in (store.forget_events, store.forget_responses):
            assert [(await forget(1_000, 10)).count for _ in range(3)] == [1, 1, 0]

    async def test_a_forgotten_response_takes_its_events_along(self, store: Store) -> None:
        """R60: they count among the bytes that went."""
        guard = await begun(store, "1")
        await store.finish("", replace(old("1", ROOT, ROOT), background=True), [], guard=guard, events=[b"x" * 1000])
        assert (await store.forget_responses(101, 10)).size > 1000
        assert await store.read_events("", "resp_1", -1, 10) == []

    async def test_what_waits_for_an_answer_is_kept(self, store: Store) -> None:
        """R60: a question that nobody has answered keeps its response; once it is answered, that goes by its age."""
        asked = child(ROOT, "asked", session="resp_1")
        await store.finish("", replace(old("1", ROOT, asked), calls=(CALL,)), [ROOT, asked])
        await store.finish("", replace(old("failed", asked, asked), status="failed", calls=(CALL,)), [])
        assert await store.forget_responses(1_000, 10) == Freed()
        assert await prune_all(store) == 0
        assert await store.find_call("", "call_1") == asked.id
        answered = child(asked, "answered", session="resp_2")
        await store.finish("", old("2", asked, answered, 2_000), [answered])
        assert (await store.forget_responses(1_000, 10)).count == 2
        assert await store.find_call("", "call_1") is None

    async def test_what_is_in_flight_and_conversations_are_kept(self, store: Store) -> None:
        """R60: a turn goes on however old it is, and a conversation keeps its items and its state."""
        one = child(ROOT, "one", BODY, session="resp_1")
        guard = await begun(store, "running", created_at=1)
        await store.create_conversation("", conversation("1"), [])
        move = ConversationMove("conv_1", None, (item("a"),))
        await store.finish("", replace(old("1", ROOT, one), conversation="conv_1"), [one], move=move)
        assert (await store.forget_responses(1_000, 10)).count == 1
        await store.step("", guard, [child(ROOT, "step", session="resp_running")], [])
        await store.finish("", replace(old("running", ROOT, ROOT), background=True), [], guard=guard)
        await collect(store, None, [ROOT.id])
        kept = await store.read_conversation("", "conv_1")
        assert kept is not None
        assert kept.head == one.id
        assert await store.read_item("", "conv_1", "msg_a") == item("a")
        assert await cells(store, one) == cells_of([one, ROOT])
        assert await store.read_blobs("", one.blobs) == one.blobs

    async def test_old_compactions_are_forgotten(self, store: Store) -> None:
        """R61: those from before a time go, of every user, and so many at most; what they pinned may go then."""
        one = child(ROOT, "one", session="resp_1")
        await store.finish("ann", old("1", ROOT, one), [ROOT, one])
        for number, user in enumerate(("ann", "bob", "ann")):
            await store.keep_compaction(user, Compaction(f"handle{number}", 100 + number, b"items", one.id))
        assert await store.delete_response("ann", "resp_1")
        assert await store.forget_compactions(102, 1) == Freed(1, 5)
        assert await store.forget_compactions(102, 9) == Freed(1, 5)
        assert await store.forget_compactions(102, 9) == Freed()
        assert await store.read_compaction("ann", "handle0") is None
        assert await store.read_compaction("ann", "handle2") is not None
        assert await unneeded(store) == []
        assert (await store.forget_compactions(103, 9)).count == 1
        assert await unneeded(store) == [one.id]

    # --- Commits ---------------------------------------------------------------------------------------------

    async def test_what_is_unneeded_is_named(self, store: Store) -> None:
        """R62: newest first and so many at most, of every user; not what anything is continued from."""
        for user in ("ann", "*"):
            one, two, three = _line(3)
            await store.finish(user, old("1", ROOT, three), [ROOT, one, two, three])
        found = await store.unneeded_commits(100, [ROOT.id])
        assert found == [CommitName(user, f"chk_{number}") for user in ("*", "ann") for number in (1, 0)]
        assert await store.unneeded_commits(3, [ROOT.id]) == found[:3]

    async def test_sessions_of_the_engine_keep_their_commits(self, store: Store) -> None:
        """R62: all that a session has made and what its head stands at stay; so does the root of its workflow."""
        one, two = child(ROOT, "one", session="s1"), child(child(ROOT, "one"), "two", session="s1")
        await store.commit_log("ann").commit([ROOT, one, two], None)
        made = child(ROOT, "made", session="resp_1")
        await store.finish("ann", old("1", ROOT, made), [made])
        await store.commit_log("ann").move_head("support", "fork", made.id, None)
        await store.delete_response("ann", "resp_1")
        assert await store.unneeded_commits(100) == []
        assert (
            await store.prune([CommitName("ann", one.id), CommitName("ann", made.id), CommitName(None, ROOT.id)])
            == Freed()
        )

    async def test_turns_in_flight_keep_their_commits(self, store: Store) -> None:
        """R62: a background turn keeps what it has made and where it began; when it is given up, that may go."""
        start = child(ROOT, "start", session="resp_1")
        await store.finish("", old("1", ROOT, start), [ROOT, start])
        await store.admit("", background("2", start_commit=start.id))
        await store.take("", "resp_2", "me", now=0, until=10)
        steps = _line(3, start, "resp_2")
        for step in steps:
            await store.step("", Guard("resp_2", "me"), [step], [])
        await store.delete_response("", "resp_1")
        assert await unneeded(store) == []
        assert await store.prune([CommitName("", commit.id) for commit in (start, *steps)]) == Freed()
        await store.release("", "resp_2")
        assert await unneeded(store) == [commit.id for commit in (*reversed(steps), start)]

    async def test_unused_roots_are_named(self, store: Store) -> None:
        """R62: a root at which nothing begins may go, unless it is in use; one that is read through may not."""
        roots = [replace(ROOT, id=f"chk_root{number}", workflow=f"w{number}") for number in range(3)]
        await store.finish("ann", old("0", roots[0], roots[0]), roots)
        one = replace(child(roots[1], "one", session="resp_1"), workflow="w1")
        await store.finish("ann", old("1", roots[1], one), [one])
        assert await unneeded(store) == ["chk_root2"]
        assert await unneeded(store, "chk_root2") == []
        assert await store.prune([CommitName(None, "chk_root2")], ["chk_root2"]) == Freed()
        await store.forget_responses(1_000, 10)
        assert (await store.prune([CommitName(None, root.id) for root in roots], [])).count == 2
        assert [await store.holds_root(root.id) for root in roots] == [False, True, False]
        assert await cells(store, one, "ann") == cells_of([one, roots[1]])

    async def test_pruning_keeps_what_stays(self, store: Store) -> None:
        """R63: removals, complete commits and branches: whatever stays holds the same cells, and what went is gone."""
        one = child(ROOT, "one", BODY, session="resp_2")
        two = replace(child(one, "two", session="resp_2"), delta={"a": None, "own/one": INLINE + b"\x00\x00new"})
        three = replace(
            child(two, "three", session="resp_2"), delta=dict(cells_of([two, one, ROOT])), complete=True, distance=0
        )
        four = replace(child(three, "four", session="resp_2"), delta={"b": None, "a": INLINE + b"\x00\x00again"})
        branch = child(four, "branch", session="resp_3")
        last = child(branch, "last", session="resp_3")
        commits = [one, two, three, four, branch, last]
        await store.finish("", old("2", ROOT, four), [ROOT, *commits[:4]])
        await store.finish("", old("3", four, last), commits[4:])
        before = {commit.id: await cells(store, commit) for commit in (four, last)}
        assert await unneeded(store) == ["chk_branch", "chk_three", "chk_two", "chk_one"]
        assert await prune_all(store) == 4
        assert {commit.id: await cells(store, commit) for commit in (four, last)} == before
        assert [len(await store.read_chain("", commit.id)) for commit in commits] == [0, 0, 0, 1, 0, 2]
        assert await store.read_blobs("", one.blobs) == one.blobs
        assert (await store.read_chain("", last.id))[0].parent == four.id
        after = child(last, "after", session="resp_4")
        await store.finish("", old("4", last, after), [after])
        assert await cells(store, after) == before[last.id] | cells_of([replace(after, complete=True)])

    async def test_what_was_heard_stays_known(self, store: Store) -> None:
        """R63: what a turn has heard is known to all that continue it, also when its commit went."""
        line = _line(3)
        whole = replace(child(line[0], "whole", complete=True), delta=dict(cells_of([line[0], ROOT])))
        await store.finish("", replace(old("0", ROOT, line[0]), heard=("a", "b")), [ROOT, line[0]])
        await store.finish("", replace(old("1", line[0], line[1]), heard=("b", "c")), [line[1]])
        await store.finish("", replace(old("2", line[1], line[2], 500), heard=("d",)), [line[2]])
        await store.finish("", old("3", line[0], whole, 500), [whole])
        await store.forget_responses(500, 10)
        assert await prune_all(store) == 2
        heard = await store.read_heard("", line[2].id)
        assert [item for turn in heard for item in turn.items] == ["a", "b", "c", "d"]
        assert [item for turn in await store.read_heard("", whole.id) for item in turn.items] == ["a", "b"]

    async def test_a_commit_with_several_heirs_stays(self, store: Store) -> None:
        """R63: it is needed by all of them; once all but one are gone, that one takes it over."""
        fork = child(ROOT, "fork", session="resp_0")
        left, right = child(fork, "left", session="resp_1"), child(fork, "right", session="resp_2")
        await store.finish("", old("1", ROOT, left), [ROOT, fork, left])
        await store.finish("", old("2", fork, right), [right])
        whole = await cells(store, right)
        assert await prune_all(store) == 0
        assert await store.delete_response("", "resp_1")
        assert await prune_all(store) == 2
        assert await cells(store, right) == whole
        assert (await store.read_chain("", right.id))[-1] == bare(ROOT)

    async def test_what_is_needed_again_is_not_pruned(self, store: Store) -> None:
        """R63: between naming and pruning a turn has begun from a commit, or a conversation has come to stand there."""
        names = []
        for number in range(4):
            commit = child(ROOT, f"c{number}", session=f"resp_{number}")
            await store.finish("", old(str(number), ROOT, commit), [ROOT, commit])
            names.append(CommitName("", commit.id))
        await store.forget_responses(1_000, 10)
        assert sorted(await unneeded(store)) == [name.id for name in names]
        await store.admit("", foreground("f", start_commit="chk_c0"))
        await store.admit("", background("b", start_commit="chk_c1"))
        await store.create_conversation("", replace(conversation("1"), head="chk_c2"), [])
        assert (await store.prune(names)).count == 1
        last = child(child(ROOT, "c0"), "last", session="resp_f")
        await store.finish("", old("f", child(ROOT, "c0"), last), [last])
        assert await store.read_chain("", "chk_c3") == []
        await store.release("", "resp_b")
        assert (await store.prune([CommitName("", "chk_c1"), CommitName("", "unknown"), *names])).count == 2

    # --- Blobs -----------------------------------------------------------------------------------------------

    async def test_unneeded_blobs_are_collected(self, store: Store) -> None:
        """R64: of every user and of roots; what a commit needs stays, directly or through other blobs, or in a cell."""
        leaf, lost = b"\x00\x00leaf", b"\x00\x00lost"
        middle = nested(b"middle", leaf)
        kept = child(ROOT, "kept", middle, session="resp_1")
        gone = child(ROOT, "gone", lost, nested(b"both", leaf, lost), session="resp_2")
        other = replace(ROOT, id="chk_other", delta={"c": BLOB + blob_hash(BODY)}, blobs=bodies(BODY))
        for user in ("ann", "*"):
            with_leaf = replace(kept, blobs=bodies(middle, leaf))
            await store.finish(user, old("1", ROOT, kept), [ROOT, with_leaf])
            await store.finish(user, old("2", ROOT, gone), [other, gone])
            await store.delete_response(user, "resp_2")
        assert await store.collect_blobs() == Freed()
        assert await prune_all(store) == 3
        freed = await store.collect_blobs()
        assert freed == Freed(5, 2 * (len(lost) + len(nested(b"both", leaf, lost))) + len(BODY))
        for user in ("ann", "*"):
            assert await store.read_blobs(user, bodies(middle, leaf, lost, BODY)) == bodies(middle, leaf)
        assert await store.read_blobs("", ROOT.blobs) == ROOT.blobs
        assert await store.collect_blobs() == Freed()

    async def test_a_blob_of_the_root_outlives_it(self, store: Store) -> None:
        """R64: what a complete commit of a user has from a root that went is still read."""
        one = child(ROOT, "one", session="resp_1", complete=True)
        await store.finish("ann", old("1", ROOT, one), [ROOT, one])
        await store.prune([CommitName(None, ROOT.id)])
        assert not await store.holds_root(ROOT.id)
        assert await store.collect_blobs() == Freed()
        assert await store.read_blobs("ann", ROOT.blobs) == ROOT.blobs

    # --- Archives --------------------------------------------------------------------------------------------

    async def test_a_chain_is_taken_elsewhere(self, store: Store) -> None:
        """R67: a response goes with all that it continues, as another user's who can continue each of them."""
        one, two = _line(2)
        one = replace(
            one, delta={**one.delta, "x": BLOB + blob_hash(nested(b"1", BODY))}, blobs=bodies(BODY, nested(b"1", BODY))
        )
        asked = replace(old("2", one, two), previous_response_id="resp_1", calls=(CALL,))
        await store.finish("ann", old("0", ROOT, ROOT), [ROOT])
        await store.finish("ann", replace(old("1", ROOT, one), previous_response_id="resp_0", heard=("a",)), [one])
        await store.finish("ann", replace(asked, heard=("b",)), [two])
        assert await store.read_archive("bob", "resp_2") is None
        archive = await store.read_archive("ann", "resp_2")
        assert archive is not None
        assert [record.id for record in archive.responses] == ["resp_0", "resp_1", "resp_2"]
        assert read_archive(write_archive(archive)) == archive
        assert await store.add_archive("bob", archive)
        assert not await store.add_archive("bob", archive)
        assert not await store.add_archive("ann", archive)
        assert await store.read_archive("bob", "resp_2") == archive
        assert await store.read_response("bob", "resp_2") == asked
        assert await cells(store, two, "bob") == await cells(store, two, "ann")
        assert await store.read_blobs("bob", one.blobs) == one.blobs
        assert await store.find_call("bob", "call_1") == two.id
        assert [turn.items for turn in await store.read_heard("bob", two.id)] == [("b",), ("a",)]
        after = child(two, "after", session="resp_3")
        await store.finish("bob", old("3", two, after), [after])
        first = await store.resolve("bob", "resp_0")
        assert first is not None
        assert cells_of(await store.read_chain("bob", first.commit)) == cells_of([ROOT])

    async def test_a_conversation_is_taken_elsewhere(self, store: Store) -> None:
        """R67: with its items in their order, those that wait still wait, and its responses."""
        one = child(ROOT, "one", session="resp_1", complete=True)
        await store.create_conversation("ann", conversation("1"), [])
        move = ConversationMove("conv_1", None, (item("b"), item("a")))
        record = replace(old("1", ROOT, one), conversation="conv_1")
        await store.finish("ann", record, [ROOT, one], move=move)
        await store.add_items("ann", "conv_1", [item("waiting")])
        archive = await store.read_archive("ann", "conv_1")
        assert archive is not None
        await store.add_archive("bob", archive)
        for user in ("ann", "bob"):
            page = await store.list_items(user, "conv_1", after=None, limit=9, newest_first=False)
            assert page == ([item("b"), item("a"), item("waiting")], False)
            assert (await store.waiting_items(user, "conv_1")).items == (item("waiting"),)
            assert await store.read_response(user, "resp_1") == record
            assert await store.read_conversation(user, "conv_1") == replace(conversation("1"), head=one.id)
        await store.add_items("bob", "conv_1", [item("new")])
        assert await store.read_blobs("bob", ROOT.blobs) == ROOT.blobs

    async def test_a_question_is_taken_elsewhere_without_its_response(self, store: Store) -> None:
        """R67: what is open where a conversation stands is open there too, if the response that asked is deleted."""
        asked = child(ROOT, "asked", session="resp_1")
        await store.create_conversation("ann", conversation("1"), [])
        record = replace(old("1", ROOT, asked), conversation="conv_1", calls=(CALL, OpenCall("call_2", "request 2")))
        await store.finish("ann", record, [ROOT, asked], move=ConversationMove("conv_1", None))
        whole = await store.read_archive("ann", "conv_1")
        await store.delete_response("ann", "resp_1")
        archive = await store.read_archive("ann", "conv_1")
        assert whole is not None
        assert archive is not None
        assert read_archive(write_archive(archive)) == archive
        for is_new in (True, False):
            assert await store.add_archive("bob", archive) is is_new
            assert await store.read_calls("bob", asked.id) == list(record.calls)
        assert await store.find_call("bob", "call_2") == asked.id
        for user in ("ann", "bob"):
            assert await store.add_archive(user, whole)
            assert await store.read_calls(user, asked.id) == list(record.calls)
            found = await store.read_response(user, "resp_1")
            assert found is not None
            assert found.calls == record.calls

    async def test_what_was_deleted_comes_back(self, store: Store) -> None:
        """R68: into the store that it was taken from, beside what is there still of a chain or a conversation."""
        one = child(ROOT, "one", session="resp_1")
        two = child(one, "two", session="resp_2")
        await store.create_conversation("", conversation("1"), [])
        first = replace(old("1", ROOT, one), conversation="conv_1")
        second = replace(old("2", one, two), conversation="conv_1")
        await store.finish("", first, [ROOT, one], move=ConversationMove("conv_1", None, (item("a"),)))
        await store.finish("", second, [two], move=ConversationMove("conv_1", one.id, (item("b"),)))
        await store.finish("", old("3", ROOT, ROOT), [])
        await store.finish("", replace(old("4", ROOT, one), previous_response_id="resp_3"), [])
        for archived, gone in (("conv_1", second), ("resp_4", old("3", ROOT, ROOT)), ("resp_4", first)):
            archive = await store.read_archive("", archived)
            assert archive is not None
            if gone.id != "resp_1":
                await store.delete_response("", gone.id)
                assert await store.add_archive("", archive)
            assert not await store.add_archive("", archive)
        back = await store.read_response("", "resp_2")
        assert back == second
        three = await store.read_response("", "resp_3")
        assert three is not None
        assert cells_of(await store.read_chain("", three.commit)) == cells_of([ROOT])

    async def test_a_chain_that_goes_in_a_circle_is_refused(self, store: Store) -> None:
        """R68: also if only a part of the circle is in the archive."""
        await store.finish("", replace(old("1", ROOT, ROOT), previous_response_id="resp_2"), [ROOT])
        await store.finish("ann", replace(old("2", ROOT, ROOT), previous_response_id="resp_1"), [])
        archive = await store.read_archive("ann", "resp_2")
        assert archive is not None
        with pytest.raises(TurnConflictError, match="resp_1"):
            await store.add_archive("", archive)
        assert await store.read_response("", "resp_2") is None
        await store.finish("", replace(old("2", ROOT, ROOT), previous_response_id="resp_1"), [])
        circle = await store.read_archive("", "resp_2")
        assert circle is not None
        assert [record.id for record in circle.responses] == ["resp_1", "resp_2"]

    async def test_an_archive_does_not_replace_anything(self, store: Store) -> None:
        """R68: if a response, a commit or a conversation is there as another one, nothing is stored."""
        one = child(ROOT, "one", session="resp_1")
        await store.create_conversation("ann", conversation("1"), [])
        await store.finish(
            "ann",
            replace(old("1", ROOT, one), conversation="conv_1"),
            [ROOT, one],
            move=ConversationMove("conv_1", None),
        )
        archive = await store.read_archive("ann", "conv_1")
        assert archive is not None
        await store.create_conversation("bob", conversation("1"), [])
        other = replace(one, delta={"a": None})
        await store.finish("cleo", old("2", ROOT, other), [other])
        await store.finish("dora", replace(old("1", ROOT, ROOT), body=b"other"), [])
        await store.admit("eve", background("1"))
        for user, name in (("bob", "conv_1"), ("cleo", "chk_one"), ("dora", "resp_1"), ("eve", "resp_1")):
            with pytest.raises(TurnConflictError, match=name):
                await store.add_archive(user, archive)
        assert await store.read_response("bob", "resp_1") is None
        assert await store.read_conversation("dora", "conv_1") is None
        assert await store.read_chain("eve", one.id) == []

    # --- What a store tells of itself ------------------------------------------------------------------------

    async def test_describe(self, store: Store) -> None:
        """R65: numbers, bytes by kind, and the largest conversations, of every user."""
        empty = await store.describe()
        assert (empty.users, empty.responses, empty.oldest_response, empty.largest) == (0, 0, None, ())
        one = child(ROOT, "one", BODY, session="resp_1")
        await store.finish("*", replace(old("1", ROOT, one, 50), calls=(CALL,)), [ROOT, one])
        await begun(store, "2", user="ann")
        for size in range(7):
            await store.create_conversation("ann", conversation(str(size)), [item("x" * (size + 1))])
        found = await store.describe()
        assert (found.users, found.conversations, found.responses, found.commits) == (2, 7, 1, 2)
        assert (found.blobs, found.in_flight, found.pending, found.oldest_response) == (2, 1, 1, 50)
        assert found.largest[0] == ("ann", "conv_6", 1, 7)
        assert len(found.largest) == 5
        assert found.sizes["responses"] == len(b"inputbody\x01\x02")
        assert found.sizes["blobs"] == len(BODY) + sum(map(len, ROOT.blobs.values()))
        assert found.size >= sum(found.sizes.values())


def _line(length: int, start: Commit = ROOT, session: str = "resp_1") -> list[Commit]:
    """So many commits one after the other."""
    commits = [start]
    for number in range(length):
        commits.append(child(commits[-1], str(number), session=session))
    return commits[1:]
