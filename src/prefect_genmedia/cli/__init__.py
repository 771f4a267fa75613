"""The command line: `prefect-genmedia …`."""
