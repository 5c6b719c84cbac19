"""Postfix's configuration: the lines that belong into it, and what the one that is there says."""
