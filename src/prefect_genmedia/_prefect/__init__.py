"""What is Prefect's own: sessions of a run, events, cards, progress, suspension, assets."""
