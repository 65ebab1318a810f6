"""From a raw interaction log to sequences in shards, and the views that training and evaluation use."""
