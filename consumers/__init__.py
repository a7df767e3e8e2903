"""What reads the log: bars, features, labels, scorer, policy, trainer."""
