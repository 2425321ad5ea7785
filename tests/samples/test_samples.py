"""The samples do what their pages say."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, run_page

SAMPLES = sorted(path.name for path in (ROOT / "samples").iterdir() if path.is_dir())


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_commands_of_a_sample_give_the_output_its_page_shows(sample: str, tmp_path: Path) -> None:
    """Whoever follows a sample's page from the repository's root sees what it shows, restart and all."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    done = run_page(f"samples/{sample}/README.md", tmp_path)
    assert len(done) >= 2
    for command, shown, real in done:
        assert real == shown, f"$ {command}"


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_is_short(sample: str) -> None:
    """A sample can be read at one glance: fewer than 60 lines."""
    assert len((ROOT / "samples" / sample / "app.py").read_text().splitlines()) < 60
