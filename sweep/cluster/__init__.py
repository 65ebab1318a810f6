"""Ray: connecting, Tune as the porter of trials, and what a worker does."""
