"""The configuration file: read, structured into frozen classes, every mistake told with its place."""

from tcpmapkit.config.document import Document, locate, read_document
from tcpmapkit.config.model import (
    Config,
    ListenerConfig,
    LogConfig,
    MapConfig,
    MapTest,
    PluginsConfig,
    PolicyTest,
    ServerConfig,
    StepConfig,
)
from tcpmapkit.config.scalars import Endpoint
from tcpmapkit.config.structure import plugins_config, structure

__all__ = [
    "Config",
    "Document",
    "Endpoint",
    "ListenerConfig",
    "LogConfig",
    "MapConfig",
    "MapTest",
    "PluginsConfig",
    "PolicyTest",
    "ServerConfig",
    "StepConfig",
    "locate",
    "plugins_config",
    "read_document",
    "structure",
]
