"""Proofs of trust: every crash point, races, and readers that never stop reading."""
