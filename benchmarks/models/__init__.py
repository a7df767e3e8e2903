"""Ten thousand models."""
