"""The verbs of the `red10` command, grouped as its help shows them."""
