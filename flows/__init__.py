"""The flows, one file each; an installed package offers them as `prefect_genmedia.flows`."""
