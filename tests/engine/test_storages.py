"""Every commit log and every checkpoint storage there is passes the whole suite."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agent_host import FileCheckpointStorage, InMemoryCheckpointStorage, open_store
from agent_host.engine.ports import CommitLog
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.file_log import FileLog
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.sealed_log import SealedLog
from agent_host.testing.checkpoint_storage_contract import CheckpointStorageContract
from agent_host.testing.commit_log_contract import CommitLogContract
from tests.engine.sealing import Scrambler

StorageMaker = Callable[[], Awaitable[CheckpointStorage]]


@asynccontextmanager
async def sqlite_log(path: Path) -> AsyncIterator[CommitLog]:
    store = open_store(str(path))
    await store.open()
    yield store.commit_log("ann")
    await store.aclose()


class TestMemoryLog(CommitLogContract):
    @pytest.fixture
    async def log(self) -> CommitLog:
        return MemoryLog()


class TestFileLog(CommitLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> CommitLog:
        return FileLog(tmp_path / "log")


class TestSealedMemoryLog(CommitLogContract):
    @pytest.fixture
    async def log(self) -> CommitLog:
        return SealedLog(MemoryLog(), Scrambler())


class TestSealedFileLog(CommitLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> CommitLog:
        return SealedLog(FileLog(tmp_path / "log"), Scrambler())


class TestSqliteLog(CommitLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[CommitLog]:
        async with sqlite_log(tmp_path / "a.db") as log:
            yield log


class TestSealedSqliteLog(CommitLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[CommitLog]:
        async with sqlite_log(tmp_path / "a.db") as log:
            yield SealedLog(log, Scrambler())


class TestInMemoryCheckpointStorage(CheckpointStorageContract):
    @pytest.fixture
    async def make_storage(self) -> StorageMaker:
        async def make() -> CheckpointStorage:
            return InMemoryCheckpointStorage()

        return make


class TestFileCheckpointStorage(CheckpointStorageContract):
    @pytest.fixture
    async def make_storage(self, tmp_path: Path) -> StorageMaker:
        made = iter(range(100))

        async def make() -> CheckpointStorage:
            return FileCheckpointStorage(tmp_path / str(next(made)))

        return make


class TestSealedFileCheckpointStorage(CheckpointStorageContract):
    @pytest.fixture
    async def make_storage(self, tmp_path: Path) -> StorageMaker:
        made = iter(range(100))

        async def make() -> CheckpointStorage:
            return FileCheckpointStorage(tmp_path / str(next(made)), wrapper=Scrambler())

        return make


class TestSqliteCheckpointStorage(CheckpointStorageContract):
    @pytest.fixture
    async def make_storage(self, tmp_path: Path) -> AsyncIterator[StorageMaker]:
        made = iter(range(100))
        async with AsyncExitStack() as opened:

            async def make() -> CheckpointStorage:
                return CheckpointStorage(await opened.enter_async_context(sqlite_log(tmp_path / f"{next(made)}.db")))

            yield make


class TestSealedSqliteCheckpointStorage(CheckpointStorageContract):
    @pytest.fixture
    async def make_storage(self, tmp_path: Path) -> AsyncIterator[StorageMaker]:
        made = iter(range(100))
        async with AsyncExitStack() as opened:

            async def make() -> CheckpointStorage:
                log = await opened.enter_async_context(sqlite_log(tmp_path / f"{next(made)}.db"))
                return CheckpointStorage(log, wrapper=Scrambler())

            yield make
