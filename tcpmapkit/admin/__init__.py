"""The endpoint for whoever runs the server: its state, its metrics, and what it can be told to do.

Imported only where a configuration has ``[admin]``; aiohttp only when the endpoint starts.
"""
