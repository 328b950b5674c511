"""The columns of every table, as Arrow schemas; the ``*.json`` files beside are their printed form."""

from gradstore.schemas.tables import TABLES, Table, gradients

__all__ = ["TABLES", "Table", "gradients"]
