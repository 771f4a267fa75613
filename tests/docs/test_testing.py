"""`prefect_genmedia.testing` costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import prefect_genmedia.testing


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_pytest_plugin_loads_neither_the_package_nor_prefect() -> None:
    run("import sys, pytest_genmedia; assert not {'prefect', 'prefect_genmedia'} & set(sys.modules)")


def test_all_but_the_suite_works_without_pytest() -> None:
    run(
        "import sys; sys.modules['pytest'] = None\n"
        "import prefect_genmedia.testing as testing\n"
        "for name in set(testing.__all__) - {'ConformanceSuite'}: getattr(testing, name)\n"
    )


def test_every_name_can_be_imported() -> None:
    assert dir(prefect_genmedia.testing) == sorted(prefect_genmedia.testing.__all__)
    for name in prefect_genmedia.testing.__all__:
        assert getattr(prefect_genmedia.testing, name) is not None
