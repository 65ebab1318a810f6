"""Reading: what a log is taken for, and how each format becomes columns of users, items and times."""
