"""`python -m prefect_genmedia.cli`: the same as `prefect-genmedia`."""

from prefect_genmedia.cli.app import main

main()
