"""The folder best/ of a study, read and put to use."""
