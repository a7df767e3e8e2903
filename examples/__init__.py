"""Short programs that show how Red10 is used; a test runs each."""
