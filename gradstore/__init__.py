"""gradstore: a gradient feature store for refusal-aware fine-tuning data.

Importing this package imports neither torch nor lancedb; every room is imported by its own name, for
example ``from gradstore.store import GradientStore``.
"""

__version__ = "0.1.0"
