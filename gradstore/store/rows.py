"""What rows must be before they are written: the columns and types of their table, one row a key, finite vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gradstore.errors import SchemaError
from gradstore.schemas import Table


def as_table(rows: Any, schema: pa.Schema) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    batches = [rows] if isinstance(rows, pa.RecordBatch) else list(rows)
    return pa.Table.from_batches(batches) if batches else schema.empty_table()


def conform(rows: pa.Table, table: Table) -> pa.Table:
    """Order and type the columns as the table has them; say what does not fit."""
    missing = [f.name for f in table.schema if f.name not in rows.schema.names and not f.nullable]
    unknown = [n for n in rows.schema.names if n not in table.schema.names]
    if missing or unknown:
        raise SchemaError(f"rows for {table.name}: columns missing {missing}, not in the table {unknown}")
    arrays = []
    for field in table.schema:
        if field.name not in rows.schema.names:
            arrays.append(pa.nulls(rows.num_rows, field.type))
            continue
        values = rows[field.name].combine_chunks()
        if not field.nullable and values.null_count:
            raise SchemaError(f"{table.name}.{field.name} may not be null, {values.null_count} nulls came")
        try:
            arrays.append(values.cast(field.type))
        except pa.ArrowInvalid as error:
            raise SchemaError(f"{table.name}.{field.name} takes {field.type}, {values.type} came: {error}") from None
        except pa.ArrowNotImplementedError:
            raise SchemaError(f"{table.name}.{field.name} takes {field.type}, {values.type} came") from None
    return pa.Table.from_arrays(arrays, schema=table.schema)


def first_of_each(rows: pa.Table, key: str) -> tuple[pa.Table, int]:
    """Keep the first row of each key; Lance refuses a merge whose source repeats one."""
    _, first = np.unique(rows[key].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    if len(first) == rows.num_rows:
        return rows, 0
    return rows.take(pa.array(np.sort(first))), rows.num_rows - len(first)


def check_vectors(rows: pa.Table) -> None:
    """Rows whose status is ok must hold finite vectors: float16 overflows above 65504."""
    good = rows.filter(pa.compute.equal(rows["status"], "ok"))
    if good.num_rows == 0:
        return
    if good["vector"].null_count:
        raise SchemaError("gradients: a row with status ok came without a vector")
    values = good["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=True)
    finite = np.isfinite(values).reshape(good.num_rows, -1).all(axis=1)
    if not finite.all():
        first = good["sample_id"][int(np.argmin(finite))].as_py()
        raise SchemaError(f"gradients: {(~finite).sum()} rows with status ok are not finite, first sample {first}")
