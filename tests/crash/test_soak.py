"""The short form of the soak; `python -m tests.crash.soak --minutes 20` is the long one."""

from pathlib import Path

from tests.crash.soak import soak


def test_random_deaths_lose_nothing(tmp_path: Path) -> None:
    """For a quarter of a minute clients of all kinds use a host that dies every second; what they were told holds."""
    summary = soak(tmp_path, 15, seed=1, pause=(0.1, 1.0))
    assert summary.found == [], str(summary)
    assert sum(summary.deaths.values()) > 3, str(summary)
