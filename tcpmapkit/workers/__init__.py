"""Several processes that serve: a parent that listens and deals connections out to its workers."""
