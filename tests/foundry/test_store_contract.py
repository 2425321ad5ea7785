"""The store in a project's storage keeps every rule of stores."""

from pathlib import Path

import pytest

from agent_host.stores import Store
from agent_host.testing.store_contract import StoreContract
from tests.foundry.platform_store import platform_store
from tests.foundry.stand_in import Project


class TestFoundryStore(StoreContract):
    """Each rule, with the platform at the other end of a socket."""

    @pytest.fixture(autouse=True)
    def _project(self, platform: Project) -> None:
        self.project = platform
        self.made = 0

    async def make_store(self, tmp_path: Path) -> Store:
        return platform_store(self.project, cache=tmp_path / "cache")
