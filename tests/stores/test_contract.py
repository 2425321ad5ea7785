"""Every store keeps every rule, and every rule has a test."""

import inspect
import re
from pathlib import Path

from agent_host.stores import Store, base, open_store
from agent_host.testing.store_contract import StoreContract

# Crashes are tested on a real process in test_crash.py, because a test inside it would not survive them.


class TestSqliteFile(StoreContract):
    async def make_store(self, tmp_path: Path) -> Store:
        return open_store(f"sqlite:///{tmp_path}/store.db")


class TestSqliteMemory(StoreContract):
    async def make_store(self, tmp_path: Path) -> Store:
        return open_store("sqlite://")


def test_every_rule_has_a_test() -> None:
    """The numbers in the docstrings of the two protocols and of the suite are the same."""
    promises = "\n".join(inspect.cleandoc(protocol.__doc__ or "") for protocol in (base.Store, base.CommitLog))
    rules = set(re.findall(r"^(R\d+) ", promises, re.MULTILINE))
    tests = [test.__doc__ for name, test in inspect.getmembers(StoreContract) if name.startswith("test_")]
    assert {doc.split(":")[0] for doc in tests} == rules
