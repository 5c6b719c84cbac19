"""The configuration file: read, structured into frozen classes, every mistake told with its place."""

from tcpmapkit.config.document import Document, locate, read_document
from tcpmapkit.config.model import Config, ListenerConfig, MapConfig, MapTest, PolicyTest, StepConfig
from tcpmapkit.config.process import AdminConfig, LogConfig, PluginsConfig, ServerConfig
from tcpmapkit.config.scalars import Endpoint
from tcpmapkit.config.structure import admin_config, plugins_config, structure

__all__ = [
    "AdminConfig",
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
    "admin_config",
    "locate",
    "plugins_config",
    "read_document",
    "structure",
]
