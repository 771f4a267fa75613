"""`prefect-genmedia --install-completion`, and then the Tab key in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETE = """
. ~/.bashrc
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
$(complete -p prefect-genmedia | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in whose bash the completion is installed, as the documentation says."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    folder = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "prefect_genmedia.cli", "--install-completion"]
    subprocess.run(command, env=with_home(folder), check=True, stdout=subprocess.DEVNULL)
    return folder


def with_home(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder), "SHELL": "/bin/bash"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("si", {"simulator"}),
        ("jobs a", {"adopt", "abandon"}),
        ("deploy --che", {"--check"}),
        ("deploy --provider je", {"jenius"}),
        ("jobs list --state unk", {"unknown"}),
    ],
)
def test_the_tab_key_knows_commands_options_and_choices(home: Path, typed: str, offered: set[str]) -> None:
    command = ["bash", "-c", COMPLETE, "bash", "prefect-genmedia", *typed.split()]
    said = subprocess.run(command, env=with_home(home), capture_output=True, text=True, check=True).stdout
    assert set(said.split()) == offered
