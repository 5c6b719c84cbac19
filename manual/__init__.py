"""What a package ships beside the program and nobody writes by hand: man pages and shell completion.

Not part of the distribution. ``./dev manual`` writes the files anew; a test compares them.
"""
