"""Which folders become which packages: the one thing that pyproject.toml cannot say.

The flows live once, in `flows/`. The wheel and an editable install both offer that same folder as
`prefect_genmedia.flows`: a deployment's entrypoint works as a path in a checkout and as a module path elsewhere.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "prefect_genmedia.flows"],
    package_dir={"": "src", "prefect_genmedia.flows": "flows"},
)
