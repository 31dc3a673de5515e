"""Years in seconds: the real handler and store, with a simulated clock, secret, API and people."""
