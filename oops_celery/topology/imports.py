"""Import the Python objects that a topology file names, and check them."""

from __future__ import annotations

import os
import reprlib
import textwrap
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from celery.utils.imports import import_from_cwd

from oops_celery.errors import UnusableImport
from oops_celery.topology.document import Reference, references
from oops_celery.topology.problems import Problem
from oops_celery.topology.signatures import wrong_with_consumer, wrong_with_handler

#: Most characters of an exception's text.
MAX_TEXT = 300

_T = TypeVar("_T")


def import_object(target: str) -> Any:
    """Return ``package.module:name``, importable from the current folder.

    Raises:
        Exception: Whatever the module raises.
    """
    module, _, name = target.partition(":")
    return getattr(import_from_cwd(module), name)


def check_imports(text: bytes) -> list[Problem]:
    """Import the startup handler and the consumers; return the problems.

    This runs the code of their modules, each once. Malformed entries are left out:
    `oops_celery.topology.checks` reports them.

    Args:
        text: A topology file, whatever other mistakes it has.
    """
    imported = cache(_imported)
    return [
        Problem(reference.path, reference.line, complaint)
        for reference in references(text)
        for complaint in _complaints(reference, imported)
    ]


def _complaints(
    reference: Reference, imported: Callable[[str], ModuleType | UnusableImport]
) -> list[str]:
    module_name, _, name = reference.target.partition(":")
    module = imported(module_name)
    if isinstance(module, UnusableImport):
        return [str(module)]
    is_handler = reference.path == "startup_handler"
    wrong_with = wrong_with_handler if is_handler else wrong_with_consumer
    try:
        thing = guarded(name, lambda: _attribute(module, module_name, name))
        return guarded(name, lambda: list(wrong_with(name, thing)))
    except UnusableImport as error:
        return [str(error)]


def _imported(name: str) -> ModuleType | UnusableImport:
    try:
        return guarded(f"importing {name}", lambda: _import(name))
    except UnusableImport as error:
        return error


def _import(name: str) -> ModuleType:
    try:
        return import_from_cwd(name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if error.name is None:
            raise
        if f"{name}.".startswith(f"{error.name}."):
            text = f"there is no module {name} in the current folder or on PYTHONPATH"
        else:
            text = f"{name} needs the module {error.name}, which is not there"
        raise UnusableImport(text) from None


def guarded(what: str, call: Callable[[], _T]) -> _T:
    """Call a function that runs other people's code, which may raise anything.

    Raises:
        UnusableImport: It raised something; the text gives `what`, and where.
    """
    try:
        return call()
    except (UnusableImport, KeyboardInterrupt):
        raise
    except SystemExit as error:
        code = reprlib.repr(error.code)
        raise UnusableImport(f"{what} calls sys.exit({code}); it must not") from None
    except BaseException as error:
        raise UnusableImport(f"{what} raises {_exception_in_words(error)}") from None


def _exception_in_words(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = textwrap.shorten(str(error), MAX_TEXT, placeholder=" ...")
    except Exception:  # an exception's __str__ is code too
        text = ""
    said = f"{name}: {text}" if text else name
    last = traceback.extract_tb(error.__traceback__)[-1]
    if last.filename.startswith("<"):  # the importer: SyntaxErrors have a line
        return said
    return f"{said} ({os.path.relpath(last.filename)}, line {last.lineno})"


def _attribute(module: Any, module_name: str, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        close = get_close_matches(name, dir(module), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UnusableImport(f"module {module_name} has no {name}{hint}") from None
