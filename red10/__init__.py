"""Red10: streaming machine learning on Redis. The public names."""
