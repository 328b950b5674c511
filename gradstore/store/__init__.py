"""The store: one directory or object-store prefix, one LanceDB database. No other folder imports Lance."""

from gradstore.store.database import GradientStore, Written
from gradstore.store.sql import query, run_query

__all__ = ["GradientStore", "Written", "query", "run_query"]
