"""What the tests do not look at before a release: version, licences of all that is installed with it, and the SBOM.

Run by `make release-check`, after the tests of the archives and the documents. Writes `build/release/sbom.cdx.json`, in
CycloneDX's format, and `build/release/licences.csv`.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "build" / "release"
PACKAGE = "prefect-genmedia"
EXTRAS = ("excel", "heic", "parquet", "s3", "socks", "sql")
"""What users may install beside the package; the other extras are for those who change it."""

LICENCES = {
    "Apache-2.0": r"apache",
    "MPL-2.0": r"mpl|mozilla public",
    "LGPL": r"lgpl|lesser general public",
    "GPL": r"gpl|general public",
    "Artistic-1.0": r"artistic",
    "BSD-3-Clause": r"bsd",
    "MIT": r"\bmit\b|expat",
    "ISC": r"\bisc\b",
    "PSF-2.0": r"psf|python software foundation|cnri",
    "HPND": r"hpnd|historical permission",
    "Zlib": r"\bzlib\b",
    "Unlicense": r"unlicense|public domain|cc0",
}
"""Families of licences, the first that is found: SPDX's name where there is one, and how packages write it."""
ALLOWED = set(LICENCES) - {"GPL", "LGPL"}


def requirements_of(found: Distribution, extras: Sequence[str]) -> Iterator[Requirement]:
    """The requirements that hold here, for the extras that are asked for.

    Args:
        found: the distribution.
        extras: its extras.
    """
    for text in found.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def closure() -> dict[str, Distribution]:
    """All that is installed with the package and its extras for users, by canonical name, itself included."""
    found: dict[str, Distribution] = {}
    done: set[tuple[str, str]] = set()
    todo: list[tuple[str, tuple[str, ...]]] = [(PACKAGE, EXTRAS)]
    while todo:
        name, extras = todo.pop()
        new = [extra for extra in ("", *extras) if (name, extra) not in done]
        done |= {(name, extra) for extra in new}
        if not new:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed: run `make release-check`, which installs every extra") from None
        todo += [(canonicalize_name(each.name), tuple(each.extras)) for each in requirements_of(found[name], extras)]
    return found


def licence_of(found: Distribution) -> tuple[str, str]:
    """The family of a distribution's licence, and the text that states it; the family is empty if it is unknown.

    Args:
        found: the distribution.
    """
    data = found.metadata
    classified = [each.split("::")[-1] for each in data.get_all("Classifier", []) if each.startswith("License ::")]
    stated = (data.get("License-Expression") or "", *classified, (data.get("License") or "").splitlines()[:1])
    words = "; ".join(text if isinstance(text, str) else " ".join(text) for text in stated if text)
    for choice in re.split(r"\bOR\b|;", words):  # of several, one may be chosen; what is joined by AND holds together
        families = [family_of(each) for each in re.split(r"\bAND\b", choice) if each.strip()]
        if families and ALLOWED.issuperset(families):
            return families[0], words
    return family_of(words), words


def family_of(text: str) -> str:
    """The family of a licence, or an empty text.

    Args:
        text: how a package writes it.
    """
    return next((name for name, pattern in LICENCES.items() if re.search(pattern, text, re.IGNORECASE)), "")


def sbom(found: dict[str, Distribution]) -> dict[str, Any]:
    """The bill of materials, in CycloneDX 1.5. The same packages give the same text.

    Args:
        found: the distributions, by name.
    """

    def component(name: str) -> dict[str, Any]:
        family, words = licence_of(found[name])
        purl = f"pkg:pypi/{name}@{found[name].version}"
        named = {"id": family} if family in ALLOWED else {"name": words[:100] or "not stated"}
        kind = "application" if name == PACKAGE else "library"
        about = {"type": kind, "bom-ref": purl, "name": name, "version": found[name].version, "purl": purl}
        return {**about, "licenses": [{"license": named}]}

    def ref(name: str) -> str:
        return f"pkg:pypi/{name}@{found[name].version}"

    def needs(name: str) -> list[str]:
        extras = EXTRAS if name == PACKAGE else ()
        names = {canonicalize_name(each.name) for each in requirements_of(found[name], extras)}
        return sorted(ref(each) for each in names & found.keys())

    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(PACKAGE)},
        "components": [component(name) for name in sorted(found) if name != PACKAGE],
        "dependencies": [{"ref": ref(name), "dependsOn": needs(name)} for name in sorted(found)],
    }


def version_problems(changelog: str, tags: Sequence[str], installed: str) -> list[str]:
    """What is wrong with the version: tag, newest version of the changelog and package must agree.

    Args:
        changelog: the text of CHANGELOG.md.
        tags: the version tags of the commit; none before a release.
        installed: the version of the package that is installed.
    """
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    if not releases:
        return ["CHANGELOG.md has no version"]
    newest, problems = releases[0], []
    if releases != sorted(releases, key=Version, reverse=True):
        problems.append(f"the changelog's versions are not in descending order: {', '.join(releases)}")
    for tag in tags:
        if tag != f"v{newest}":
            problems.append(f"the tag {tag} is not the changelog's newest version {newest}")
        elif installed != newest:
            problems.append(f"{newest} is tagged, and the package that is installed has the version {installed}")
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## ")[0]
    entries = [line for line in unreleased.splitlines() if line.strip() and not line.startswith("#")]
    if tags and entries:
        problems.append(f"{newest} is tagged, and the changelog has entries that are not in it: {entries[0][:80]}")
    return problems


def version_tags() -> list[str]:
    """The version tags of this commit."""
    command = ["git", "tag", "--points-at", "HEAD", "--list", "v[0-9]*"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - a constant
    return listed.stdout.split()


def main() -> int:
    """Check, write, and say what was found; the status is 1 if there is a problem."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    found = closure()
    licences = {name: licence_of(each) for name, each in sorted(found.items())}
    problems = [
        f"licence of {name} {found[name].version}: {words or 'not stated'}"
        for name, (family, words) in licences.items()
        if family not in ALLOWED
    ]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    problems += version_problems(changelog, version_tags(), found[PACKAGE].version)
    with (OUTPUT / "licences.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["package", "version", "family", "stated"])
        writer.writerows([name, found[name].version, *licence] for name, licence in licences.items())
    (OUTPUT / "sbom.cdx.json").write_text(json.dumps(sbom(found), indent=2) + "\n", "utf-8")
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    families = sorted({family for family, _ in licences.values()})
    sys.stdout.write(f"{len(found)} packages: {', '.join(families)}; {OUTPUT.relative_to(ROOT)}/sbom.cdx.json\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
