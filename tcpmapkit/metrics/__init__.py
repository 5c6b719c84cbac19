"""What the server has done and holds, for Prometheus.

`catalogue` says which metrics there are, `snapshot` reads one process's values, `samples` makes one of
several processes', `text` writes them down. Nothing here is imported before somebody asks.
"""
