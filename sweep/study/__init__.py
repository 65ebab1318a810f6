"""The record of all trials in the journal, and all decisions on them; knows Optuna, neither torch nor Ray."""
