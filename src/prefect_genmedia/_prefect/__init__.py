"""What runs inside of Prefect: sessions of a run, cards, assets, progress, suspension."""
