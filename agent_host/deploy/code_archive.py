"""The ZIP archive that a hosted agent is made of when there is no image.

The archive holds this very version of the package beside the program, so that what runs there is what ran here; what
both need stands in its requirements.txt, which the platform installs. The same files give the same bytes.
"""

import io
import re
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from agent_host.errors import DeployError

LARGEST = 250 * 1024 * 1024
EXTRAS = frozenset({"foundry", "otel"})
"""What a hosted agent needs besides the package: the platform's store, and what is told to its monitoring."""

_DISTRIBUTION = "workflow-agent-host"
_PACKAGE = Path(__file__).resolve().parent.parent
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "venv"})
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_READABLE_BY_ALL = 0o100644 << 16
"""The mode of every file: whoever runs it there need not be who has unpacked it."""


@dataclass(frozen=True, slots=True)
class CodeArchive:
    """The archive's bytes, and the names in it that come from the program's folder."""

    content: bytes
    files: tuple[str, ...]
    requirements: tuple[str, ...]


def pack(folder: Path) -> CodeArchive:
    """Pack the regular files of a folder, without what begins with a dot.

    Raises `DeployError` if one cannot be read, if one would stand in the place of this package, or if it is too much.
    """
    own = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if (folder / "agent_host").resolve() != _PACKAGE and any(name.startswith("agent_host/") for name in own):
        raise DeployError(
            f"{folder / 'agent_host'} has the name of the package that serves the program, which the archive holds "
            "beside it. Rename the folder, or deploy an image with --image."
        )
    told = own.pop("requirements.txt", None)
    wanted = tuple(merged(_content(told).decode("utf-8-sig", "replace").splitlines() if told else (), _needed()))
    package = {f"agent_host/{path.relative_to(_PACKAGE).as_posix()}": path for path in _files(_PACKAGE)}
    entries = {name: _content(path) for name, path in {**own, **package}.items()}
    entries["requirements.txt"] = "".join(f"{line}\n" for line in wanted).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(entries.items()):
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = _READABLE_BY_ALL
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    if packed.tell() > LARGEST:
        raise DeployError(
            f"The archive of {folder} has {packed.tell() >> 20} MB; the platform takes {LARGEST >> 20}. Move what the "
            "program does not need out of the folder, or deploy an image with --image."
        )
    return CodeArchive(packed.getvalue(), tuple(sorted(own)), wanted)


def _files(folder: Path, within: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The regular files below a folder; a link to one of the folders that it is `within` leads nowhere."""
    within |= {folder.resolve()}
    with _explained(folder):
        found = sorted(folder.iterdir())
    for path in found:
        if path.name.startswith(".") or path.name in _LEFT_OUT or path.suffix == ".pyc":
            continue
        with _explained(path):
            is_folder, is_file = path.is_dir(), path.is_file()
        if is_folder and path.resolve() not in within:
            yield from _files(path, within)
        elif is_file:
            yield path


def _content(path: Path) -> bytes:
    with _explained(path):
        return path.read_bytes()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(
            f"{path} cannot be read: {error.strerror}. Make it readable, or move it out of the folder."
        ) from None


def merged(own: Iterable[str], needed: Iterable[str]) -> Iterator[str]:
    """The program's requirements and then those of the package, which itself is in the archive and not installed."""
    for line in own:
        if re.sub(r"[-_.]+", "-", line.strip()).lower().startswith(_DISTRIBUTION):
            continue
        if line.strip():
            yield line
    yield from needed


def _needed() -> Iterator[str]:
    yield from sorted(_declared(_PACKAGE.parent / "pyproject.toml") or _installed())


def _declared(file: Path) -> list[str]:
    """What the package declares in its source tree: what is installed there may be that of an older state of it."""
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text())["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return []
    if project.get("name") != _DISTRIBUTION:
        return []
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]


def _installed() -> Iterator[str]:
    try:
        requirements = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        raise DeployError(
            f"What {_DISTRIBUTION} needs is not known here, as it is not installed. Install it with pip, or deploy an "
            "image with --image."
        ) from None
    for requirement in requirements:
        need, _, marker = requirement.partition(";")
        extra = re.search(r"""extra == ['"]([^'"]+)['"]""", marker)
        if extra is None or extra[1] in EXTRAS:
            yield need.strip()
