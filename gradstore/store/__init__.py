"""The store: one directory or object-store prefix, one LanceDB database. No other folder imports Lance."""

from gradstore.store.cache import cached_vectors, clear_cache, read_vectors
from gradstore.store.database import GradientStore, Written
from gradstore.store.lookup import find_sample
from gradstore.store.measuring import explain_query
from gradstore.store.sql import influence, query, reading, run_query
from gradstore.store.texts import as_csv

__all__ = [
    "GradientStore",
    "Written",
    "as_csv",
    "cached_vectors",
    "clear_cache",
    "explain_query",
    "find_sample",
    "influence",
    "query",
    "read_vectors",
    "reading",
    "run_query",
]
