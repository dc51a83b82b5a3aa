"""The settings: one document, declared once, read from TOML, environment and flags."""

from cortexd.config.canonical import canonical, content_hash
from cortexd.config.document import (
    Alias,
    Cache,
    Document,
    Engine,
    Lifecycle,
    Limits,
    Memory,
    Model,
    ModelLimits,
    Models,
    ModelSampling,
    Sampling,
    Server,
    Settings,
)
from cortexd.config.inheritance import effective
from cortexd.config.paths import Paths, default_paths, usual_file
from cortexd.config.reading import Reading, load_settings, read_settings, settings_from_document
from cortexd.config.secret import Secret
from cortexd.config.sources import Sources

__all__ = [
    "Alias",
    "Cache",
    "Document",
    "Engine",
    "Lifecycle",
    "Limits",
    "Memory",
    "Model",
    "ModelLimits",
    "ModelSampling",
    "Models",
    "Paths",
    "Reading",
    "Sampling",
    "Secret",
    "Server",
    "Settings",
    "Sources",
    "canonical",
    "content_hash",
    "default_paths",
    "effective",
    "load_settings",
    "read_settings",
    "settings_from_document",
    "usual_file",
]
