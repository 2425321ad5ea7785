"""`agent-host store` and `agent-host gc`: look into a store, copy it, move conversations, and forget."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from openai.types.responses import ResponseInputParam

from agent_host.cli import main
from agent_host.settings import duration, in_words

ASKING = """
from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler, response_handler

class Desk(Executor):
    def __init__(self, id):
        super().__init__(id)
        self.heard = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext) -> None:
        if text == "fail":
            raise ValueError(text)
        self.heard.append(text)
        if text == "ask":
            await ctx.request_info("sure?", bool)
        else:
            await ctx.yield_output(" ".join(self.heard))

    @response_handler
    async def decided(self, question: str, yes: bool, ctx: WorkflowContext) -> None:
        await ctx.yield_output(f"{yes} after {' '.join(self.heard)}")

workflow = WorkflowBuilder(start_executor=Desk("desk"), name="desk").build()
"""
DAY = 86_400


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app.py").write_text(ASKING)
    return f"{tmp_path / 'app.py'}:workflow"


def run(*arguments: str | Path, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=input, prog_name="agent-host")


def done(*arguments: str | Path, input: bytes | None = None) -> str:
    result = run(*arguments, input=input)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    return result.output


def made_older(path: Path, days: float) -> None:
    """Let all responses of a store have been created earlier."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE responses SET created_at = created_at - ?", (int(days * DAY),))
    connection.close()


def answer(response: Any, value: str = "true") -> ResponseInputParam:
    return [{"type": "function_call_output", "call_id": response.output[0].call_id, "output": value}]


@pytest.fixture
def talked(serve: Any, app: str, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A store in which a chain, a conversation and a question were left, and their ids."""
    host = serve(app)
    failed = host.say("fail")
    one = host.say("one", failed.id)
    two = host.say("two", one.id)
    asked = host.say("ask", two.id)
    conversation = host.client.conversations.create()
    host.say("in", conversation=conversation.id)
    ask = host.say("ask", conversation=conversation.id)
    host.stop()
    ids = {"failed": failed.id, "one": one.id, "two": two.id, "asked": asked.id, "conversation": conversation.id}
    return tmp_path / "host.db", ids | {"call": asked.output[0].call_id, "ask": ask.output[0].call_id}


# --- info --------------------------------------------------------------------------------------------------------


def test_info(talked: tuple[Path, dict[str, str]]) -> None:
    """It tells the numbers, for people and for programs, and changes nothing."""
    path, ids = talked
    before = path.read_bytes()
    shown = done("store", "info", path)
    for line in ("responses         6, 2 of them wait for answers", "conversations     1", "users             1"):
        assert line in shown
    assert ids["conversation"] in shown
    found = json.loads(done("store", "info", f"sqlite:///{path}", "--json"))
    assert (found["responses"], found["pending"], found["in_flight"]) == (6, 2, 0)
    assert found["largest"][0][1] == ids["conversation"]
    assert found["size"] == len(before)
    assert path.read_bytes() == before


@pytest.mark.parametrize("verb", [["store", "info"], ["gc"], ["gc", "--dry-run"]])
def test_what_is_no_store(tmp_path: Path, verb: list[str]) -> None:
    """A file that is not there is not made, and one of another program is left alone."""
    assert "There is no store at" in refused(*verb, tmp_path / "none.db")
    assert "There is no store at sqlite://" in refused(*verb, "sqlite://")
    (tmp_path / "text.db").write_text("other " * 100)
    assert "not a SQLite database" in refused(*verb, tmp_path / "text.db")
    assert [path.name for path in tmp_path.iterdir()] == ["text.db"]


# --- gc ----------------------------------------------------------------------------------------------------------


def test_gc_forgets_what_is_old(talked: tuple[Path, dict[str, str]]) -> None:
    """A dry run tells to the byte what then goes; what waits for an answer, and conversations, stay."""
    path, _ = talked
    assert done("gc", path) == "Gone: nothing\n"
    made_older(path, 31)
    before = path.read_bytes()
    promised = json.loads(done("gc", path, "--dry-run", "--json"))
    assert path.read_bytes() == before
    assert done("gc", path, "--dry-run").startswith("Would go: 4 responses, ")
    gone = json.loads(done("gc", path, "--json"))
    assert gone == promised | {"dry_run": False}
    assert gone["responses"]["count"] == 4
    assert gone["commits"]["count"] == 3
    left = json.loads(done("store", "info", path, "--json"))
    assert (left["responses"], left["pending"], left["conversations"]) == (2, 2, 1)
    assert done("gc", path) == "Gone: nothing\n"


def test_gc_keeps_as_long_as_it_is_told(talked: tuple[Path, dict[str, str]]) -> None:
    """The age may be given; with `forever` no response goes."""
    path, _ = talked
    made_older(path, 2)
    assert done("gc", path, "--keep-responses", "3d") == "Gone: nothing\n"
    assert done("gc", path, "--keep-responses", "forever") == "Gone: nothing\n"
    assert done("gc", path, "--keep-responses", "47h").startswith("Gone: 4 responses, ")
    for unclear in ("soon", "0", "0d", "0.0s"):
        assert "is no time" in refused("gc", path, "--keep-responses", unclear)


def test_gc_forgets_what_a_server_keeps_for_a_day(serve: Any, app: str, tmp_path: Path) -> None:
    """The events of background turns that have ended, and idempotency keys; young ones stay."""
    host, path = serve(app), tmp_path / "host.db"
    one = host.say("one", background=True, extra_headers={"Idempotency-Key": "k"})
    while host.client.responses.retrieve(one.id).status != "completed":
        time.sleep(0.02)
    host.stop()
    assert "event log" not in done("gc", path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE responses SET log_ended_at = log_ended_at - ?", (2 * DAY,))
        connection.execute("UPDATE idempotency_keys SET created_at = created_at - ?", (2 * DAY,))
    connection.close()
    assert done("gc", path).startswith("Gone: 1 event log, 1 idempotency key, ")
    assert json.loads(done("store", "info", path, "--json"))["sizes"]["events"] == 0


def test_gc_gives_room_back_if_it_is_asked_to(talked: tuple[Path, dict[str, str]]) -> None:
    """Without --shrink the file keeps its size, and its room is used again; with it the file shrinks."""
    path, _ = talked
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE responses SET body = CAST(body || ? AS BLOB)", (b" " * 500_000,))
    connection.close()
    made_older(path, 31)
    size = path.stat().st_size
    done("gc", path)
    assert path.stat().st_size == size
    assert json.loads(done("store", "info", path, "--json"))["free"] > 1_000_000
    done("gc", path, "--shrink")
    assert path.stat().st_size < size / 2
    assert json.loads(done("store", "info", path, "--json"))["responses"] == 2


def test_beside_a_server(serve: Any, app: str, tmp_path: Path) -> None:
    """What only reads works; what writes says which process is in the way and what to do."""
    host, path = serve(app), tmp_path / "host.db"
    one = host.say("one")
    assert done("gc", path, "--dry-run") == "Would go: nothing\n"
    assert "responses         1" in done("store", "info", path)
    done("store", "backup", path, tmp_path / "copy.db")
    done("store", "export", path, one.id, tmp_path / "one.jsonl")
    message = refused("gc", path)
    assert f"in use by process {host.process.pid}" in message
    assert "--dry-run" in message
    assert f"in use by process {host.process.pid}" in refused("store", "import", path, tmp_path / "one.jsonl")
    assert host.say("two", one.id).output_text == "one two"


# --- backup ------------------------------------------------------------------------------------------------------


def test_a_backup_is_a_store(serve: Any, app: str, tmp_path: Path) -> None:
    """Made while the host serves, it holds what was answered until then, is private, and can be served."""
    host = serve(app)
    one = host.say("one")
    copy = tmp_path / "copy.db"
    done("store", "backup", tmp_path / "host.db", copy)
    two = host.say("two", one.id)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    other = serve(app, store=copy)
    assert other.say("three", one.id).output_text == "one three"
    assert host.say("four", two.id).output_text == "one two four"
    assert not list(tmp_path.glob("*.part*"))


def test_a_backup_replaces_nothing_by_itself(talked: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """A file that is there stays unless --force is given; the store itself is never replaced."""
    path, ids = talked
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    assert "is there already" in refused("store", "backup", path, copy)
    assert copy.read_text() == "precious"
    done("store", "backup", path, copy, "--force")
    assert "responses         6" in done("store", "info", copy)
    for own, words in (("host.db", "the store that is read"), ("host.db-wal", "a part of a store")):
        for verb in (["backup", path], ["export", path, ids["one"]]):
            assert words in refused("store", *verb, path.with_name(own), "--force")
    assert "responses         6" in done("store", "info", path)
    assert "cannot be used" in refused("store", "backup", path, tmp_path / "nowhere" / "copy.db")


def test_a_backup_of_a_damaged_store_leaves_nothing(talked: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """It says so, and no copy stands there that could be taken for a good one."""
    path, _ = talked
    broken = bytearray(path.read_bytes())
    for page in range(4096, len(broken), 4096):
        broken[page : page + 64] = b"\xff" * 64
    path.write_bytes(broken)
    assert "damaged" in refused("store", "backup", path, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy*"))


def test_a_store_is_brought_back(serve: Any, app: str, tmp_path: Path) -> None:
    """What a killed server has left behind is not played back into a backup, with restore and with --force."""
    path, copy, again = (tmp_path / name for name in ("host.db", "copy.db", "again.db"))
    host = serve(app)
    one = host.say("one")
    done("store", "backup", path, copy)
    for number in range(20):
        host.say(f"{number} {'x' * 2000}", one.id)
    host.kill()
    assert path.with_name("host.db-wal").stat().st_size > 20_000
    assert "--force" in refused("store", "restore", path, copy)
    done("store", "restore", path, copy, "--force")
    assert json.loads(done("store", "info", path, "--json"))["responses"] == 1
    host = serve(app)
    assert host.say("two", one.id).output_text == "one two"
    host.kill()
    path.unlink()
    done("store", "backup", copy, path)
    assert json.loads(done("store", "info", path, "--json"))["responses"] == 1
    host = serve(app)
    assert host.say("three", one.id).output_text == "one three"
    for verb in (["restore", path, copy], ["backup", copy, path]):
        message = refused("store", *verb, "--force")
        assert f"in use by process {host.process.pid}" in message
    assert host.say("four", one.id).output_text == "one four"
    host.stop()
    path.write_bytes(b"damaged" * 1000)
    done("store", "restore", f"sqlite:///{path}", copy, "--force")
    done("store", "restore", again, copy)
    for restored in (path, again):
        assert json.loads(done("store", "info", restored, "--json"))["responses"] == 1
    assert "There is no store at" in refused("store", "restore", path, tmp_path / "none.db", "--force")
    assert not list(tmp_path.glob("*.part"))


# --- export and import -------------------------------------------------------------------------------------------


def test_a_chain_goes_on_in_another_store(
    talked: tuple[Path, dict[str, str]], serve: Any, app: str, tmp_path: Path
) -> None:
    """Each of its responses can be continued there, the failed first one and the one that asks too."""
    path, ids = talked
    file, other = tmp_path / "chain.jsonl", tmp_path / "other.db"
    assert "4 responses" in done("store", "export", path, ids["asked"], file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    serve(app, store=other).stop()
    assert "4 responses" in done("store", "import", other, file)
    assert "was there already" in done("store", "import", other, file)
    host = serve(app, store=other)
    assert host.say("three", ids["two"]).output_text == "one two three"
    assert host.say("anew", ids["failed"]).output_text == "anew"
    asked = host.client.responses.retrieve(ids["asked"])
    told = host.client.responses.create(input=answer(asked), previous_response_id=asked.id)
    assert told.output_text == "True after one two ask"
    listed = host.client.responses.input_items.list(ids["two"])
    assert [item.content[0].text for item in listed.data] == ["two"]


def test_a_conversation_goes_on_in_another_store(
    talked: tuple[Path, dict[str, str]], serve: Any, app: str, tmp_path: Path
) -> None:
    """By its id, with its items, and its question can be answered there; the store is made for it."""
    path, ids = talked
    other = tmp_path / "other.db"
    exported = CliRunner().invoke(main, ["store", "export", str(path), ids["conversation"]]).stdout_bytes
    done("store", "import", other, "-", input=exported)
    host = serve(app, store=other)
    items = host.client.conversations.items.list(ids["conversation"], order="asc").data
    assert [item.type for item in items] == ["message", "message", "message", "function_call"]
    told = host.client.responses.create(
        input=[{"type": "function_call_output", "call_id": ids["ask"], "output": "false"}],
        conversation=ids["conversation"],
    )
    assert told.output_text == "False after in ask"


def test_users_are_apart(talked: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """What is another user's cannot be exported, and an import belongs to the user it is made for."""
    path, ids = talked
    file = tmp_path / "chain.jsonl"
    assert "'ann'" in refused("store", "export", path, ids["two"], file, "--user", "ann")
    assert not file.exists()
    done("store", "export", path, ids["two"], file)
    assert "is there already" in refused("store", "export", path, ids["two"], file)
    assert "3 responses" in done("store", "import", path, file, "--user", "ann")
    done("store", "export", path, ids["two"], file, "--user", "ann", "--force")
    assert json.loads(done("store", "info", path, "--json"))["users"] == 2


def damages() -> dict[str, Callable[[list[bytes]], list[bytes]]]:
    """What may be wrong with a file, by the words of the error."""

    def changed(lines: list[bytes], kind: bytes, old: bytes, new: bytes) -> list[bytes]:
        at = next(i for i, line in enumerate(lines) if b'"kind":"%s"' % kind in line)
        assert old in lines[at]
        return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]

    return {
        "no exported conversation": lambda lines: [b"hello\n"],
        "its version is 2": lambda lines: changed(lines, b"head", b'"version":1', b'"version":2'),
        "it was cut off": lambda lines: lines[:-1],
        "is broken": lambda lines: [*lines[:-1], lines[-1][:20]],
        "do not have their hash": lambda lines: changed(lines, b"response", b'"status":"', b'"status":"x'),
        "lines do not have": lambda lines: [lines[0], *lines[2:]],
        "line 2 is broken": lambda lines: changed(lines, b"commit", b'"seq":', b'"seq":"1","x":'),
        "behind its end": lambda lines: [*lines, lines[1]],
        "kind": lambda lines: changed(lines, b"commit", b'"kind":"commit"', b'"kind":"code"'),
        "commit_kind": lambda lines: changed(lines, b"commit", b'"commit_kind":"manual"', b'"commit_kind":"root"'),
    }


def test_a_broken_file_is_refused(talked: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The error says what is wrong with it, and nothing is stored."""
    path, ids = talked
    file = tmp_path / "chain.jsonl"
    done("store", "export", path, ids["two"], file)
    whole = file.read_bytes().splitlines(keepends=True)
    for words, damage in damages().items():
        file.write_bytes(b"".join(damage(whole)))
        message = refused("store", "import", path, file, "--user", "ann")
        assert words in message
        assert "Nothing was stored" in message
    assert json.loads(done("store", "info", path, "--json"))["users"] == 1


Line = dict[str, Any]


def written(file: Path, lines: list[Line]) -> Path:
    """The file with these lines and their right hash, as somebody else may make one."""
    encoded = [json.dumps(line).encode() + b"\n" for line in lines if line["kind"] != "end"]
    hash_ = b64encode(blake2b(b"".join(encoded), digest_size=32).digest()).decode()
    end = json.dumps({"kind": "end", "lines": len(encoded), "hash": hash_}).encode() + b"\n"
    file.write_bytes(b"".join([*encoded, end]))
    return file


def bytes_(text: str) -> str:
    return b64encode(text.encode()).decode()


LIES: dict[str, tuple[str, str, Line]] = {
    "a number": ("response", "record", {"created_at": 2**70}),
    "negative": ("response", "record", {"completed_at": -1}),
    "too large": ("commit", "", {"seq": 2**66}),
    "a broken cell": ("commit", "", {"delta": {"x": bytes_("\7abc")}}),
    "the id of a root": ("commit", "", {"id": "chk_root" + "0" * 40}),
    "Invalid enum value 'queued'": ("response", "record", {"status": "queued"}),
    "was truncated": ("response", "record", {"body": bytes_("{")}),
    "missing required field `model`": ("response", "record", {"body": bytes_("{}")}),
    "Expected `array`, got `int`": ("response", "record", {"input": bytes_("7")}),
    "missing required field `id`": ("response", "record", {"input": bytes_('[{"type": "message"}]')}),
    "'input[0].role'": ("response", "record", {"input": bytes_('[{"id": "msg_1", "type": "message"}]')}),
    "got `int`)": ("response", "record", {"delta_lengths": bytes_("\7")}),
    "conversation 'conv_": ("conversation", "conversation", {"metadata": bytes_("x")}),
    "it has another id": ("item", "item", {"body": bytes_('{"id": "msg_1", "type": "message"}')}),
    "is not in it": ("head", "", {"id": "\x1b[2J"}),
}


def test_a_file_that_lies_is_refused(talked: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """What no server could show, or what would take the place of something else, is named, and nothing is stored."""
    path, ids = talked
    file = tmp_path / "file.jsonl"
    done("store", "export", path, ids["conversation"], file)
    whole = file.read_text().splitlines()
    for words, (kind, within, change) in LIES.items():
        lines: list[Line] = [json.loads(line) for line in whole]
        lied = next(line for line in lines if line["kind"] == kind)
        (lied[within] if within else lied).update(change)
        message = refused("store", "import", path, written(file, lines), "--user", "ann")
        assert words in message
        assert "Nothing was stored" in message
        assert message.isprintable() or message.count("\n") == 1
        assert "\x1b" not in message
    assert json.loads(done("store", "info", path, "--json"))["users"] == 1


def test_a_file_whose_chain_goes_in_a_circle_is_refused(talked: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Each of its responses stands behind the one that it continues."""
    path, ids = talked
    file = tmp_path / "file.jsonl"
    done("store", "export", path, ids["two"], file)
    lines: list[Line] = [json.loads(line) for line in file.read_text().splitlines()]
    first = next(line for line in lines if line["kind"] == "response")
    first["record"]["previous_response_id"] = ids["two"]
    assert "does not stand before it" in refused("store", "import", path, written(file, lines), "--user", "ann")


def test_a_question_goes_along_without_its_response(
    talked: tuple[Path, dict[str, str]], serve: Any, app: str, tmp_path: Path
) -> None:
    """Where the response that asked was deleted, the conversation can be answered in the other store still."""
    path, _ = talked
    host = serve(app)
    conversation = host.client.conversations.create()
    asked = host.say("ask", conversation=conversation.id)
    host.client.responses.delete(asked.id)
    host.stop()
    done("store", "export", path, conversation.id, tmp_path / "file.jsonl")
    serve(app, store=tmp_path / "other.db").stop()
    done("store", "import", tmp_path / "other.db", tmp_path / "file.jsonl")
    told = serve(app, store=tmp_path / "other.db").client.responses.create(
        input=answer(asked), conversation=conversation.id
    )
    assert told.output_text == "True after ask"


def test_what_was_deleted_is_imported_again(
    talked: tuple[Path, dict[str, str]], serve: Any, app: str, tmp_path: Path
) -> None:
    """Into the store that it was taken from, where the rest of its chain is still."""
    path, ids = talked
    done("store", "export", path, ids["two"], tmp_path / "file.jsonl")
    host = serve(app)
    host.client.responses.delete(ids["two"])
    host.stop()
    assert "3 responses" in done("store", "import", path, tmp_path / "file.jsonl")
    assert serve(app).say("three", ids["two"]).output_text == "one two three"


# --- As programs call it -----------------------------------------------------------------------------------------


def test_as_a_process(
    talked: tuple[Path, dict[str, str]], run_cli: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    """The commands end with 0, and with 1 and one line on standard error."""
    path, _ = talked
    assert run_cli("gc", str(path), "--dry-run").stdout == "Would go: nothing\n"
    assert json.loads(run_cli("store", "info", str(path), "--json").stdout)["responses"] == 6
    failed = run_cli("store", "export", str(path), "resp_none")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1
    assert os.listdir(path.parent / "cwd") == []


def test_export_to_a_full_disk(talked: tuple[Path, dict[str, str]]) -> None:
    """It ends with one line that says so."""
    path, ids = talked
    with open("/dev/full", "wb") as full:
        failed = subprocess.run(
            [sys.executable, "-m", "agent_host", "store", "export", str(path), ids["one"]],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        )  # fmt: skip
    message = "Error: The conversation cannot be written: No space left on device. Send it elsewhere.\n"
    assert (failed.returncode, failed.stderr) == (1, message)


def test_times_in_words() -> None:
    """What is said about times can be read and is read."""
    assert [duration(text) for text in ("30d", "12h", "1.5m", "90", "forever")] == [30 * DAY, 12 * 3600, 90, 90, 0]
    words = [in_words(seconds) for seconds in (30 * DAY, DAY, 5400, 1, 0)]
    assert words == ["30 days", "1 day", "90 minutes", "1 second", "ever"]
