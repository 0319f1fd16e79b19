"""What fits: pure functions from facts, catalogue and request to a plan. No I/O of any kind."""
