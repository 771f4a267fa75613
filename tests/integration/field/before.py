"""Which field cases fail with an earlier version: `make field-before`.

The tests of this folder run against an installed wheel of that version, with the shared fixtures of its own tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from field_cases import all_cases


def main(python: str, source: str) -> None:
    """List the cases, each with how its tests ended.

    Args:
        python: the interpreter of the environment that has the wheel.
        source: a checkout of the version.
    """
    here = Path(source) / "tests" / "integration" / "field"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(FOLDER, here, ignore=shutil.ignore_patterns("__pycache__"))
    report = Path(source) / "field.xml"
    command = [str(Path(python).with_name("pytest")), "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command += [f"--junitxml={report}", str(here)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=source, env=env, stdout=subprocess.DEVNULL, check=False)
    ended: dict[str, list[bool]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = f"{case.get('classname', '').rpartition('.')[2]}.py"
        fine = case.find("failure") is None and case.find("error") is None
        ended.setdefault(f"{file}::{case.get('name', '')}", []).append(fine)
        if "[" in case.get("name", ""):
            ended.setdefault(f"{file}::{case.get('name', '').partition('[')[0]}", []).append(fine)
    failed = 0
    for each in all_cases():
        results = ended.get(each.test, [])
        passed = bool(results) and all(results)
        failed += not passed
        reported = f"{sum(results)} of {len(results)} pass" if results else "cannot run"
        print(f"{'passes' if passed else 'FAILS ':<7} {each.id:<32} {reported}")
    print(f"{failed} of {len(all_cases())} cases fail.")


if __name__ == "__main__":
    main(*sys.argv[1:])
