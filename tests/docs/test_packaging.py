"""What is published: the source archive, the wheel that is built from it, its metadata, and the Blocks it registers.

Built in a fresh folder from the files that git knows or would take: what lies about in a checkout must not matter.
(`test_first_hour.py` installs the wheel into an empty environment.)
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest
from clean_machine import copy_of_the_repository
from prefect.settings import get_current_settings

from prefect_genmedia._prefect.session import credentials_types

ROOT = Path(__file__).parents[2]
MAPPED = {"flows": "flows", "deployments": "deployments", "blocks": "block_documents"}
"""Folders at the top level, and what the wheel calls them."""
BUILT_FROM = {
    *("LICENSE", "README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("MANIFEST.in", "pyproject.toml", "setup.py"),
}
FOLDERS = ("src/", *(f"{folder}/" for folder in MAPPED))
RUBBISH = re.compile(
    r"(^|/)(__pycache__|\.venv|\.git|\.hypothesis|\.pytest_cache|\.mypy_cache|\.ruff_cache|build|dist|demo-output)/"
    r"|\.pyc$|\.db$|\.log$|\.env$"
)
OURS = re.compile(
    rb"/(?:work|root)/|/home/[a-z]+/|file:///|\bsk-(?!simulator|your-key|one|two|wrong|\W)[A-Za-z0-9]{8,}"
)
"""Paths of a machine, and what looks like a real key."""


pytestmark = pytest.mark.timeout(1200)  # each build installs what it needs into an environment of its own


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository at one moment: whoever works in the repository meanwhile changes nothing here."""
    return copy_of_the_repository(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def files(source: Path) -> list[str]:
    """The names of the files in the copy, before a build adds its own."""
    return [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def built(source: Path, files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from that archive alone."""
    pytest.importorskip("build")
    output = tmp_path_factory.mktemp("built")
    commit(source)
    env = {**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION": "1.2.3"}
    command = [sys.executable, "-m", "build", "--outdir", str(output), str(source)]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return output


def commit(folder: Path) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "--no-verify", "-m", "source"]):
        subprocess.run([*git, *command], cwd=folder, check=True)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    return email.message_from_string(wheel.read(name).decode())


def test_the_wheel_has_every_module_and_asset_and_nothing_else(wheel: zipfile.ZipFile, files: list[str]) -> None:
    wanted = {"pytest_genmedia.py"}
    for folder, name in {"src/prefect_genmedia": ".", **MAPPED}.items():
        inside = [PurePosixPath(file).relative_to(folder) for file in files if file.startswith(f"{folder}/")]
        wanted |= {str(PurePosixPath("prefect_genmedia", name, path)) for path in inside}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == wanted


def test_the_source_archive_has_what_the_wheel_is_built_from_and_nothing_else(built: Path, files: list[str]) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    wanted = {name for name in files if name in BUILT_FROM or name.startswith(FOLDERS)}
    assert {name for name in names - made if ".egg-info/" not in name} == wanted


def test_no_cache_no_machine_and_no_key_is_in_what_is_published(built: Path, wheel: zipfile.ZipFile) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    assert [name for name in [*names, *wheel.namelist()] if RUBBISH.search(name)] == []
    telling = [
        name for name in wheel.namelist() if OURS.search(wheel.read(name)) and not name.endswith((".mp3", ".png"))
    ]
    assert telling == []


def test_the_metadata_is_complete(metadata: Message) -> None:
    assert metadata["Name"] == "prefect-genmedia"
    assert metadata["Version"] == "1.2.3"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()) == (ROOT / "README.md").read_text("utf-8")
    assert "Framework :: AsyncIO" in metadata.get_all("Classifier", [])
    assert {"parquet", "s3", "docs", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    needed = " ".join(metadata.get_all("Requires-Dist", []))
    assert "prefect<4,>=3.8.8" in needed
    assert " @ " not in needed, "a dependency is bound to a place"


def version_of(folder: Path) -> str:
    return str(pytest.importorskip("build.util").project_wheel_metadata(folder)["Version"])


def test_an_archive_of_a_tag_has_the_tags_version(tmp_path: Path) -> None:
    source = copy_of_the_repository(tmp_path / "source")
    commit(source)
    subprocess.run(["git", "tag", "v7.8.9"], cwd=source, check=True)
    subprocess.run(["git", "archive", "-o", tmp_path / "release.tar", "v7.8.9"], cwd=source, check=True)
    with tarfile.open(tmp_path / "release.tar") as archive:
        archive.extractall(tmp_path / "release")
    assert version_of(tmp_path / "release") == "7.8.9"


def test_a_copy_without_git_or_tags_has_the_version_of_the_changelog(tmp_path: Path) -> None:
    copy = copy_of_the_repository(tmp_path)
    changelog = (copy / "CHANGELOG.md").read_text("utf-8")
    (copy / "CHANGELOG.md").write_text(changelog.replace("## [0.1.0] - ", "## [0.4.0] - 2027-02-01\n\n## [0.1.0] - "))
    assert version_of(copy).startswith("0.4.0.dev")


def test_a_shallow_clone_without_tags_has_a_version(tmp_path: Path) -> None:
    source = copy_of_the_repository(tmp_path / "source")
    commit(source)
    command = ["git", "clone", "-q", "--depth", "1", f"file://{source}", tmp_path / "shallow"]
    subprocess.run(command, check=True)
    assert version_of(tmp_path / "shallow").startswith("0.1.0.dev")


def test_the_command_and_prefects_entry_point_are_declared(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/entry_points.txt"))
    text = wheel.read(name).decode()
    assert "prefect-genmedia = prefect_genmedia.cli:main" in text
    assert "[prefect.collections]\nprefect_genmedia = prefect_genmedia" in text


@pytest.mark.usefixtures("prefect_server")
def test_prefect_registers_every_block_of_the_package() -> None:
    env = {**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)}
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_genmedia"]
    said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    for block in credentials_types().values():
        assert block._block_type_name in said
