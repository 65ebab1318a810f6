"""One training and one ranking; knows torch, neither Optuna nor Ray."""
