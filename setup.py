"""Which folders become which packages: the one thing that pyproject.toml cannot say.

The flows live once, in `flows/`. The wheel and an editable install both offer that same folder as
`prefect_genmedia.flows`: a deployment's entrypoint works as a path in a checkout and as a module path elsewhere.
`deployments/` and `blocks/`, which `prefect-genmedia deploy` reads, go the same way.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "prefect_genmedia.flows": "flows",
    "prefect_genmedia.deployments": "deployments",
    "prefect_genmedia.block_documents": "blocks",
}

setup(
    packages=[*find_packages("src"), *FOLDERS],
    package_dir={"": "src", **FOLDERS},
    py_modules=["pytest_genmedia"],  # pytest loads it in every session: outside of the package, which imports Prefect
)
