"""Where a study's files lie, in a folder or in an object store, and how each is written whole."""
