"""The Prefect integration: sessions, events, cards, progress, suspension, assets."""
