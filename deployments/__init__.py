"""What a team applies to its Prefect server; an installed package offers it as `prefect_genmedia.deployments`.

`prefect-genmedia deploy` applies all of it.
"""
