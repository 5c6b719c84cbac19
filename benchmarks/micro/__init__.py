"""Micro-benchmarks: what each layer of a lookup costs. Not collected by the tests; see pytest.ini here."""
