"""World-model agents for continuous control."""

__version__ = "0.1.0"
