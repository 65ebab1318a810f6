"""How good the search is, measured on recorded curves: the record, what predicts from it, and the replay."""
