"""The dialects: one folder per provider, all under one protocol."""
