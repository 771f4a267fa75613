"""The Block documents, as code; an installed package offers them as `prefect_genmedia.block_documents`."""
