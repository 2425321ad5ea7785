"""The ZIP archive that a hosted agent is made of when there is no image.

The archive holds this very version of the package beside the program, so that what runs there is what ran here; what
both need stands in its requirements.txt, which the platform installs. The same files give the same bytes.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from agent_host.errors import DeployError

LARGEST = 250 * 1024 * 1024
EXTRAS = frozenset({"foundry", "otel"})
"""What a hosted agent needs besides the package: the platform's store, and what is told to its monitoring."""

_DISTRIBUTION = "workflow-agent-host"
_PACKAGE = Path(__file__).parent.parent
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "venv"})
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class CodeArchive:
    """The archive's bytes, and the names in it that come from the program's folder."""

    content: bytes
    files: tuple[str, ...]
    requirements: tuple[str, ...]


def pack(folder: Path) -> CodeArchive:
    """Pack a folder, without what begins with a dot. Raises `DeployError` if it is too large."""
    own = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    told = own.pop("requirements.txt", None)
    wanted = tuple(merged(told.read_text().splitlines() if told else (), _needed()))
    package = {f"agent_host/{path.relative_to(_PACKAGE).as_posix()}": path for path in _files(_PACKAGE)}
    entries = {name: path.read_bytes() for name, path in {**own, **package}.items()}
    entries["requirements.txt"] = "".join(f"{line}\n" for line in wanted).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(entries.items()):
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), content, zipfile.ZIP_DEFLATED)
    if packed.tell() > LARGEST:
        raise DeployError(
            f"The archive of {folder} has {packed.tell() >> 20} MB; the platform takes {LARGEST >> 20}. Move what the "
            "program does not need out of the folder, or deploy an image with --image."
        )
    return CodeArchive(packed.getvalue(), tuple(sorted(own)), wanted)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _LEFT_OUT or path.suffix == ".pyc":
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def merged(own: Iterable[str], needed: Iterable[str]) -> Iterator[str]:
    """The program's requirements and then those of the package, which itself is in the archive and not installed."""
    for line in own:
        if re.sub(r"[-_.]+", "-", line.strip()).lower().startswith(_DISTRIBUTION):
            continue
        if line.strip():
            yield line
    yield from needed


def _needed() -> Iterator[str]:
    try:
        requirements = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        raise DeployError(
            f"What {_DISTRIBUTION} needs is not known here, as it is not installed. Install it with pip, or deploy an "
            "image with --image."
        ) from None
    for requirement in sorted(requirements):
        need, _, marker = requirement.partition(";")
        extra = re.search(r"""extra == ['"]([^'"]+)['"]""", marker)
        if extra is None or extra[1] in EXTRAS:
            yield need.strip()
