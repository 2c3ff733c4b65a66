"""The checks of `saewatch doctor`, by what they examine: a module looks once, and its ``CHECKS`` judge what it saw."""
