"""Linear probes: logistic regressions on features, with the strength of the penalty chosen on held-out examples."""
