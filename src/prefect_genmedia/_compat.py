"""Old module paths, kept as aliases for one minor release: stored results, pickles and imports name them.

An old path gives a module that looks every name up in the new one, and warns once. Everything about old paths stands in
this file; delete it, and its call in `__init__`, when the aliases end.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOT = __name__.partition(".")[0]

PACKAGES = {"jobs": "_core", "inputs": "_inputs", "transport": "_transport", "deploying": "deploy", "blocks": ""}
"""Packages that have moved. A module of theirs that is not in `MODULES` has kept its name."""

MODULES: dict[str, str] = {
    "artifacts": "_prefect.cards",
    "batch.budget": "_core.budgets",
    "batch.conduct": "batch.spec",
    "batch.keeper": "batch.supervisor",
    "batch.lives": "batch.row_task",
    "batch.run": "batch.scheduler",
    "blocks": "",
    "blocks.base": "providers.credentials",
    "blocks.hidream": "providers.hidream.block",
    "blocks.jenius": "providers.jenius.block",
    "blocks.tokenops": "providers.tokenops.block",
    "inputs.looking": "_inputs.inspect",
    "inputs.preflight": "_inputs.validate",
    "jobs.landing": "_media.staged",
    "jobs.media": "_media.verify",
    "jobs.places": "_core.limits",
    "jobs.storage": "_media.storage",
    "jobs.wait": "_core.polling",
    "lineage": "_prefect.assets",
    "providers.prices": "prices",
    "providers.registry": "providers.plugin",
    "targets": "_prefect.targets",
    "tasks.ask": "providers.tokenops.ask",
    "tasks.generate": "generate",
    "tasks.jobs": "tasks",
    "tasks.receiver": "callbacks.app",
    "tasks.reconcile": "tasks",
    "tasks.subjects": "providers.tokenops.tasks",
    "tasks.suspend": "_prefect.suspension",
}
"""Modules that have moved, below the package."""

NAMES = {
    "tasks": dict.fromkeys(("detect_subjects", "recognize_subject", "select_subject"), "providers.tokenops.tasks"),
}
"""Names that have left a module which still exists: by module, where each is now."""


def install() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())


def moved_name(module: str, name: str) -> Any:
    """A name that has left a module which still exists; for that module's `__getattr__`.

    Args:
        module: the module's full name.
        name: the name.

    Raises:
        AttributeError: the module never had it.
    """
    target = NAMES.get(module.removeprefix(f"{_ROOT}."), {}).get(name)
    if target is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{_ROOT}.{target}"), name)


def new_path(old: str) -> str | None:
    """Where a module is now; None if it has not moved.

    Args:
        old: its old full name.
    """
    if not old.startswith(f"{_ROOT}."):
        return None
    below = old.removeprefix(f"{_ROOT}.")
    if below in MODULES:
        return f"{_ROOT}.{MODULES[below]}".rstrip(".")
    package, dot, rest = below.partition(".")
    return f"{_ROOT}.{PACKAGES[package]}{dot}{rest}" if package in PACKAGES else None


class _OldPaths(MetaPathFinder, Loader):
    """Finds modules by their old paths. It stands last: only what no other finder knows gets here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The alias of a module that has moved."""
        if new_path(fullname) is None:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module of its own: that of the new path must keep its own spec."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Look each name up in the new module when it is asked for."""
        old, new = module.__name__, new_path(module.__name__)
        warnings.warn(f"{old} has moved to {new}; the old path ends with 0.2", DeprecationWarning, stacklevel=2)
        assert new is not None  # else it was not found

        def look_up(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {old!r} has no attribute {name!r}")
            return getattr(importlib.import_module(new), name)

        module.__getattr__ = look_up  # type: ignore[method-assign] # PEP 562
