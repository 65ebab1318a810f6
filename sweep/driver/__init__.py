"""Running a study: opening it, searching, and what it publishes while it goes on."""
