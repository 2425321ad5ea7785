"""Load the workflow that a command names: `package.module:attribute` or `path/to/file.py:attribute`."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from agent_host.engine.workflow import Workflow
from agent_host.errors import TargetError

DEFAULT_ATTRIBUTE = "workflow"


def load_workflow(target: str) -> Workflow:
    """The workflow a target names; a function without parameters is called for it.

    Raises `TargetError` saying what is missing and where it was looked for. An error inside the user's own file is
    shown with the lines of that file it comes from.
    """
    place, separator, attribute = target.rpartition(":")
    if not target.strip(":"):
        raise TargetError(f"{target!r} names nothing. Name a workflow like app.py:workflow or package.module:workflow.")
    if not separator or (len(place) == 1 and place.isalpha()):  # `C:\flow.py` has a colon of its own
        place, attribute = target, DEFAULT_ATTRIBUTE
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise TargetError(f"{place!r} has no {attribute!r}.{_candidates(module)}")
        found = getattr(found, name)
    if callable(found) and not isinstance(found, Workflow):
        found = _run(lambda: found(), target)
    if not isinstance(found, Workflow):
        raise TargetError(
            f"{target!r} is a {type(found).__name__}, not a workflow. Name the result of WorkflowBuilder(...).build(), "
            f"or a function that returns it.{_candidates(module)}"
        )
    return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"There is no file {str(path)!r} below {Path.cwd()}.")
    name = path.stem
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    _run(lambda: loader.exec_module(module), str(path))
    return module


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    # Looking for a submodule imports the packages above it, which are the user's code too.
    if name.startswith(".") or _run(lambda: _is_there(name), name) is False:
        raise TargetError(
            f"There is no module {name!r}. Name a module that can be imported from {Path.cwd()}, "
            "or the path of a file that ends in .py."
        )
    module: ModuleType = _run(lambda: importlib.import_module(name), name)
    return module


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        # A package above it is not there, or is a plain module. Anything else is missing in the user's own code.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return False
        raise
    except ValueError:  # such as `__main__`, which has no specification
        return False


def _run(load: Callable[[], Any], what: str) -> Any:
    """Run the user's own code; its errors are shown with the user's lines only."""
    try:
        return load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code does is the message
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
        shown = traceback.format_list(frames[-3:])
        if isinstance(error, SyntaxError):
            shown += traceback.format_exception_only(error)[:-1]  # the file and line it was found in
        where = "".join(shown)
        raise TargetError(f"{what!r} could not be loaded: {type(error).__name__}: {error}\n{where}".rstrip()) from None


def _is_users(filename: str) -> bool:
    own = str(Path(__file__).parent.parent)
    return not filename.startswith((own, "<frozen", str(Path(importlib.__file__).parent)))


def _candidates(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Workflow)]
    return f" It has these workflows: {', '.join(names)}." if names else ""
