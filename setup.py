"""Which folders become which packages, and the version of a copy without tags: pyproject.toml can say neither.

The flows live once, in `flows/`. The wheel and an editable install both offer that same folder as
`prefect_genmedia.flows`: a deployment's entrypoint works as a path in a checkout and as a module path elsewhere.
`deployments/` and `blocks/`, which `prefect-genmedia deploy` reads, go the same way.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = {
    "prefect_genmedia.flows": "flows",
    "prefect_genmedia.deployments": "deployments",
    "prefect_genmedia.block_documents": "blocks",
}


def newest_release() -> str:
    """Returns the newest version of the changelog: a copy without git, or a clone without tags, is its forerunner."""
    changelog = (Path(__file__).parent / "CHANGELOG.md").read_text("utf-8")
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\] - ", changelog, re.MULTILINE)[0]


setup(
    use_scm_version={"fallback_version": f"{newest_release()}.dev0"},
    packages=[*find_packages("src"), *FOLDERS],
    package_dir={"": "src", **FOLDERS},
    py_modules=["pytest_genmedia"],  # pytest loads it in every session: outside of the package, which imports Prefect
)
