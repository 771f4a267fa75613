"""Building a provider package of this repository, and installing its wheel beside this package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def installed_wheel(package: Path, folder: Path) -> Path:
    """Build a package as its users do and install its wheel; returns the folder to put on `PYTHONPATH`."""
    shutil.copytree(package, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder / "dist", folder / "source"], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run_tests(tests: Path, site: Path) -> None:
    """Run a package's own tests with its wheel, and without the tests' configuration here."""
    words = ["-p", "no:cacheprovider", "--noconftest", "-q", str(tests)]
    env = {**os.environ, "PYTHONPATH": str(site), "PREFECT_HOME": str(site.parent / "prefect")}
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
