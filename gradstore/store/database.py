"""Open, write and read a store. Writes are idempotent by key; vectors are read in bounded memory.

Rows of different recipes live in tables of their own (``gradients_<recipe_id>``), because their vectors may
have different dimensions; readers see one view, ``gradients`` (:mod:`gradstore.store.views`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import polars_pylance
import pyarrow as pa
import pyarrow.compute
from lancedb.index import BTree

from gradstore.errors import SchemaError, StoreError
from gradstore.schemas import TABLES, Table, gradients
from gradstore.store.rows import as_table, check_vectors, conform, first_of_each
from gradstore.store.warm import WarmColumns

FORMAT = "1"
FORMAT_KEY = b"gradstore.format"
STORAGE_VERSION = "2.2"  # the newest that both Lance cores in use can read
COMMIT_ROWS = 1024
VECTOR_PREFIX = "gradients_"
WIDE = polars_pylance.LanceScanOptions(batch_size=1024)  # the default, 25,000 rows, is 400 MB of vectors
PLAIN_TABLES = [name for name in TABLES if name != "gradients"]


@dataclass(frozen=True)
class Written:
    """What a write did: rows that were new, and rows whose key was already there."""

    new: int = 0
    skipped: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.new + other.new, self.skipped + other.skipped)


class GradientStore:
    """One open store. Make it with :meth:`create` or :meth:`open`; it holds no lock and may be opened often."""

    def __init__(self, uri: str, database: Any) -> None:
        self.uri = uri
        self.warm = WarmColumns()
        self._database = database

    @classmethod
    def create(cls, uri: str | Path) -> GradientStore:
        """Make an empty store at a path or URI, or open the one that is there.

        Raises StoreError where something else is in the way.
        """
        uri = str(uri)
        if _is_store(uri):
            return cls.open(uri)
        if "://" not in uri and _in_the_way(Path(uri)):
            raise StoreError(f"{uri} is not a store, and not an empty folder: give a new path for the store")
        store = cls(uri, lancedb.connect(uri))
        # `runs` comes last: it is what makes the folder a store, so a killed create is simply done again.
        for name in sorted(PLAIN_TABLES, key=lambda n: n == "runs"):
            store._create_table(name, TABLES[name])
        return store

    @classmethod
    def open(cls, uri: str | Path) -> GradientStore:
        """Open the store at ``uri``. Raises StoreError where there is none, or one of another format."""
        uri = str(uri)
        if not _is_store(uri):
            raise StoreError(f"no store at {uri}: `gradstore ingest {uri} FILE --preset …` makes one")
        store = cls(uri, lancedb.connect(uri))
        found = (store._table("runs").schema.metadata or {}).get(FORMAT_KEY, b"?").decode()
        if found != FORMAT:
            raise StoreError(f"{uri} has store format {found}, this version reads {FORMAT}: use another version")
        store._gain()
        return store

    # -- what is here -------------------------------------------------------------------------------------

    def recipe_ids(self) -> list[str]:
        """The recipes that have a gradient table, sorted."""
        return sorted(n.removeprefix(VECTOR_PREFIX) for n in self._names() if n.startswith(VECTOR_PREFIX))

    def present(self, tables: Iterable[str]) -> list[str]:
        """Those of ``tables`` that are there; the gradient table of a recipe comes with its first row."""
        there = self._names()
        return [name for name in tables if name in there]

    def versions(self, tables: Iterable[str] | None = None) -> dict[str, int]:
        """The Lance version of each table (all by default)."""
        return {name: self._table(name).version for name in sorted(tables or self._names())}

    def tag(self, name: str, tables: Iterable[str]) -> None:
        """Tag the present version of ``tables``, so that cleaning up keeps it."""
        for table in tables:
            tags, version = self._table(table).tags, self._table(table).version
            try:
                tags.create(name, version)
            except (RuntimeError, ValueError, OSError):  # it is there: from before, or by another process just now
                tags.update(name, version)

    # -- writing ------------------------------------------------------------------------------------------

    def write(
        self, table: str, rows: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch], *, replace: bool = False
    ) -> Written:
        """Insert the rows whose key is not there yet; with ``replace``, overwrite those that are.

        ``table`` is a name of ``TABLES``; rows of ``gradients`` go to the table of their recipe. The rows are
        checked before the first is written; a commit holds at most 1024 rows. Raises SchemaError.
        """
        data = as_table(rows, TABLES[table].schema)
        if table == "gradients":
            return self._write_gradients(data)
        return self._merge(self._grown(table), conform(data, TABLES[table]), TABLES[table].key, replace)

    def delete(self, table: str, where: str) -> None:
        """Delete the rows of a derived table that match a SQL predicate; measured tables are never deleted from."""
        if table not in ("selections", "groups", "influence", "evaluations", "metrics"):
            raise StoreError(f"{table} holds measurements, which are immutable: only derived rows can be deleted")
        self._table(table).delete(where)

    def _write_gradients(self, data: pa.Table) -> Written:
        kind = data.schema.field("vector").type if "vector" in data.schema.names else pa.null()
        if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float16():
            raise SchemaError(f"gradients.vector came as {kind}, expected fixed_size_list<float16>[dim]")
        table = gradients(kind.list_size)
        data = conform(data, table)
        check_vectors(data)
        recipes, there = pa.compute.unique(data["recipe_id"]).to_pylist(), self.recipe_ids()
        for recipe in recipes:
            stored = self._table(VECTOR_PREFIX + recipe).schema.field("vector").type if recipe in there else kind
            if stored.list_size != kind.list_size:
                raise SchemaError(f"recipe {recipe} holds vectors of {stored.list_size} floats, {kind.list_size} came")
        written = Written()
        for recipe in recipes:
            name = VECTOR_PREFIX + recipe
            lance = self._table(name) if recipe in there else self._create_table(name, table)
            rows = data.filter(pa.compute.equal(data["recipe_id"], recipe))
            written += self._merge(lance, rows, table.key, replace=False)
        return written

    def _merge(self, table: Any, rows: pa.Table, key: str, replace: bool) -> Written:
        rows, repeated = first_of_each(rows, key)
        written = Written(skipped=repeated)
        for start in range(0, rows.num_rows, COMMIT_ROWS):
            chunk = rows.slice(start, COMMIT_ROWS)
            total = chunk.num_rows
            if not replace:
                chunk = _absent(table, chunk, key)  # a write that adds nothing makes no new version
            # Through Lance itself: LanceDB's own merge refuses a vector column with nulls.
            merge = table.to_lance().merge_insert(key).when_not_matched_insert_all()
            if replace:
                merge = merge.when_matched_update_all()
            new = merge.execute(chunk)["num_inserted_rows"] if chunk.num_rows else 0
            written += Written(new, total - new)
        return written

    # -- reading ------------------------------------------------------------------------------------------

    def scan(self, table: str, *, version: int | None = None) -> pl.LazyFrame:
        """Read a table lazily; predicates, projections and limits reach Lance, unread columns stay on disk."""
        if table not in self._names():
            if table in PLAIN_TABLES:  # it came after this store was made, which cannot be written
                return pl.LazyFrame(pl.from_arrow(TABLES[table].schema.empty_table()))
            raise StoreError(f"no table {table!r} in {self.uri}: there are {', '.join(sorted(self._names()))}")
        options = WIDE if table.startswith(VECTOR_PREFIX) else None
        return polars_pylance.scan_lance(f"{self.uri}/{table}.lance", version=version, options=options)

    def sql(self, text: str) -> pl.LazyFrame:
        """Plan one SELECT over the tables and views (:func:`gradstore.store.sql.query`); ``.collect()`` runs it."""
        from gradstore.store.sql import query  # the other way round it is built on this class

        return query(self, text)

    def keys(self, table: str, *, version: int | None = None) -> set[str]:
        """The keys that a table holds (now, or at a version); ``gradients`` means the union over recipes."""
        if table == "gradients":
            return set().union(*(self.keys(VECTOR_PREFIX + r) for r in self.recipe_ids()))
        key = self._table(table).schema.names[0]
        return set(self.scan(table, version=version).select(key).collect()[key])

    def held(self, recipe_id: str, keys: Sequence[str]) -> set[str]:
        """Which of these row ids the gradient table of a recipe holds at this moment."""
        if VECTOR_PREFIX + recipe_id not in self._names():
            return set()
        return set(_held(self._table(VECTOR_PREFIX + recipe_id), keys, "row_id").to_pylist())

    def row_counts(self) -> dict[str, int]:
        """Rows of each table; ``gradients`` is the sum over recipes."""
        counts = {name: self._table(name).count_rows() for name in self.present(PLAIN_TABLES)}
        return counts | {"gradients": sum(self._table(VECTOR_PREFIX + r).count_rows() for r in self.recipe_ids())}

    def count_vectors(self, recipe_id: str, where: str, version: int | None = None) -> int:
        """Rows that :meth:`blocks` would stream."""
        return int(self._vectors(recipe_id, version).count_rows(_usable(where)))

    def blocks(
        self,
        recipe_id: str,
        *,
        where: str | None = None,
        columns: Sequence[str] = (),
        rows: int = 1024,
        version: int | None = None,
    ) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Stream the vectors of one recipe: (scalar columns, block) with block (b, dim) uint16, b ≤ ``rows``.

        The uint16 are the bits of float16 values (:mod:`gradstore.kernels` decodes them). Only rows whose
        status is ok are read; ``where`` narrows them further, in SQL. Memory stays near rows·dim·2 bytes.
        """
        scanner = self._vectors(recipe_id, version).scanner(
            columns=["sample_id", *columns, "vector"],
            filter=_usable(where),
            batch_size=rows,
            batch_readahead=2,
            io_buffer_size=64 << 20,  # Lance's default reads hundreds of MB ahead on a wide column
            scan_in_order=True,
        )
        for batch in scanner.to_batches():
            vectors = batch.column("vector")
            block = vectors.flatten().to_numpy(zero_copy_only=True).view(np.uint16)
            # Copied: a column of a batch keeps all of it alive, and a caller that keeps ids would keep the vectors.
            scalars = batch.drop_columns(["vector"]).take(pa.array(range(batch.num_rows), pa.int32()))
            yield scalars, block.reshape(-1, vectors.type.list_size)

    # -- tables -------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return list(self._database.list_tables(limit=10_000).tables)

    def _table(self, name: str) -> Any:
        return self._database.open_table(name)

    def _vectors(self, recipe_id: str, version: int | None) -> Any:
        name = VECTOR_PREFIX + recipe_id
        if name not in self._names():
            raise StoreError(f"no gradients of recipe {recipe_id} in {self.uri}: run `gradstore extract` first")
        lance = self._table(name).to_lance()
        return lance if version is None else lance.checkout_version(version)

    def _grown(self, name: str) -> Any:
        """A table to write to; nullable columns that came after it was made are added to it, as nulls."""
        lance = self._table(name)
        later = [f for f in TABLES[name].schema if f.nullable and f.name not in lance.schema.names]
        if later:
            lance.add_columns(later)
            lance = self._table(name)
        return lance

    def _gain(self) -> None:
        """Make the tables that came after this store was made; where it cannot be written they read as empty."""
        for name in sorted(set(PLAIN_TABLES) - set(self._names())):
            with contextlib.suppress(OSError, RuntimeError):  # or another process is making it just now
                self._create_table(name, TABLES[name])

    def _create_table(self, name: str, table: Table) -> Any:
        schema = table.schema.with_metadata({FORMAT_KEY: FORMAT.encode()})
        options = {"new_table_data_storage_version": STORAGE_VERSION}
        lance = self._database.create_table(name, schema=schema, storage_options=options, exist_ok=True)
        lance.create_index(table.key, config=BTree())
        return lance


def _usable(where: str | None) -> str:
    return "status = 'ok'" + (f" AND ({where})" if where else "")


def _is_store(uri: str) -> bool:
    if "://" not in uri:
        return (Path(uri) / "runs.lance").is_dir()
    return "runs" in lancedb.connect(uri).list_tables(limit=10_000).tables


def _in_the_way(path: Path) -> bool:
    """Whether something is at ``path`` besides what a killed create may have left there."""
    if not path.is_dir():
        return path.exists()
    return not {p.name for p in path.iterdir()} <= {f"{name}.lance" for name in PLAIN_TABLES}


def _absent(table: Any, rows: pa.Table, key: str) -> pa.Table:
    """The rows whose key the table does not hold; looked up through its BTREE."""
    held = _held(table, rows[key].to_pylist(), key)
    if len(held) == 0:
        return rows
    return rows.filter(pa.compute.invert(pa.compute.is_in(rows[key], value_set=held.combine_chunks())))


def _held(table: Any, keys: Sequence[str], key: str) -> pa.ChunkedArray:
    wanted = ", ".join("'" + k.replace("'", "''") + "'" for k in keys)
    return table.to_lance().to_table(columns=[key], filter=f"{key} IN ({wanted})")[key]
