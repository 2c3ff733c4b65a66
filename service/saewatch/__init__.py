"""saewatch: watches what a serving language model represents, not only what it says."""

__version__ = "0.1.0"
