"""Bytes become records with the line each starts on; one that cannot be read says so and harms no other."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradstore.datasets.records import LETTERS
from gradstore.datasets.text import brief, is_encodable, printable
from gradstore.errors import InputFileError

SUFFIXES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")
PACKED = {b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}
# A CSV row: its first line from 0, the line after it, and its cells or what is wrong with them.
Row = tuple[int, int, list[str] | str]
BAD_BYTES = "bytes that are not UTF-8"


@dataclass(frozen=True)
class Record:
    """One record: where it starts (from 1), its fields, and its text where the file has lines.

    ``fault`` says why there are no fields.
    """

    line: int
    fields: Mapping[str, Any] | None
    text: str | None = None
    fault: str | None = None

    @property
    def raw(self) -> str:
        if self.text is not None:
            return self.text
        return json.dumps(self.fields, ensure_ascii=False, default=str)


def read_records(path: Path, name: str, headerless: Sequence[str]) -> list[Record]:
    """Read a file by its suffix; ``headerless`` are the columns of a CSV file without a header row.

    Raises InputFileError, under the name the caller gave, where the file as a whole cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputFileError(
            f"{name}: files of {', '.join(SUFFIXES)} are read, not {suffix or 'a name without suffix'}"
        )
    records = _parquet(path, name) if suffix == ".parquet" else _text_records(path, name, suffix, headerless)
    if not records:
        raise InputFileError(f"{name} is empty: it holds no records, at least one was expected; pass another file")
    return records


def _text_records(path: Path, name: str, suffix: str, headerless: Sequence[str]) -> list[Record]:
    text = _decoded(path, name)
    if suffix == ".csv":
        return _csv(text, name, headerless)
    return _json(text, name) if suffix == ".json" else list(_json_lines(text))


def _decoded(path: Path, name: str) -> str:
    """Decode UTF-8, with or without a BOM; bad bytes become surrogates, which are found record by record."""
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputFileError(f"{name} cannot be read ({error.strerror}): pass a file that can") from error
    kind = next((kind for magic, kind in PACKED.items() if data.startswith(magic)), None)
    if kind is None and _looks_binary(data[:8192]):
        kind = "binary, or text in another encoding"
    if kind is not None:
        raise InputFileError(f"{name} is {kind}, UTF-8 text was expected by its suffix: unpack, convert or rename it")
    return data.decode("utf-8", "surrogateescape")


def _looks_binary(head: bytes) -> bool:
    """Say whether over 30 % of the characters are control characters or bad bytes; a stray NUL passes."""
    text = head.decode("utf-8", "replace")
    return sum(c == "�" or (c < " " and not c.isspace()) for c in text) > 0.3 * len(text)


def _json_lines(text: str) -> Iterator[Record]:
    """Read one object a line. Only \\n ends a line: JSON strings may hold U+2028 and its like."""
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip():
            yield _json_line(number, line)


def _json_line(number: int, line: str) -> Record:
    if not is_encodable(line):
        return Record(number, None, line, BAD_BYTES)
    try:
        return _object(number, _loads(line), line)
    except (ValueError, RecursionError) as error:
        return Record(number, None, line, f"not JSON: {getattr(error, 'msg', error)}")


def _json(text: str, name: str) -> list[Record]:
    """Read an array of objects, the array under "Data" (TriviaQA), or JSON lines under the name .json."""
    try:
        whole = _loads(text)
    except (ValueError, RecursionError) as error:
        lines = list(_json_lines(text))
        # More than one good line: this is JSONL by another name, and its bad lines are rejects.
        if sum(record.fields is not None for record in lines) > 1:
            return lines
        if not lines:
            return []
        raise InputFileError(f"{name} is not JSON ({error}): pass a file that parses as a whole") from error
    if isinstance(whole, dict):
        whole = whole["Data"] if isinstance(whole.get("Data"), list) else [whole]
    entries = whole if isinstance(whole, list) else [whole]
    return [_object(number, entry) for number, entry in enumerate(entries, start=1)]


def _loads(text: str) -> Any:
    """Parse JSON; numbers with a fraction stay as they are written, so that 3.10 is answered "3.10"."""
    return json.loads(text, parse_float=str)


def _object(number: int, value: Any, text: str | None = None) -> Record:
    written = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict):
        return Record(number, None, text or written, f"a JSON {type(value).__name__}, an object was expected")
    if not is_encodable(written):
        return Record(number, None, text or written, f"{BAD_BYTES}, or half of a \\u pair")
    return Record(number, value, text)


def _csv(text: str, name: str, headerless: Sequence[str]) -> list[Record]:
    lines = list(io.StringIO(text, newline=""))
    rows = list(_csv_rows(lines))
    if not rows:
        return []
    columns = _columns(rows, name, headerless)
    if columns is None:
        columns, body = list(headerless), rows
    else:
        body = rows[1:]
    return [_csv_record(start, row, "".join(lines[start:end]), columns) for start, end, row in body]


def _csv_rows(lines: list[str]) -> Iterator[Row]:
    """Read the rows between blank lines.

    A quote that is never closed costs its own line only: reading goes on with the line after.
    """
    start = 0
    while start < len(lines):
        reader, base = csv.reader(islice(lines, start, None), strict=True), start
        try:
            for row in reader:
                end = base + reader.line_num
                if "".join(lines[start:end]).strip():
                    yield start, end, row
                start = end
        except csv.Error as error:
            yield start, start + 1, f"not CSV: {error}"
            start += 1


def _columns(rows: list[Row], name: str, headerless: Sequence[str]) -> list[str] | None:
    """Read the header row. None for a file of ``headerless`` columns, whose rows end in an option letter."""
    first = rows[0][2]
    header = [cell.strip() for cell in first] if isinstance(first, list) else []
    if "question" not in header and any(_is_lettered(row, len(headerless)) for _, _, row in rows):
        return None
    if isinstance(first, str):
        raise InputFileError(f"{name}: the header row is {first}; name each column in the first row")
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise InputFileError(f"{name}: columns named twice: {printable(', '.join(twice))}; name each column once")
    return header


def _is_lettered(row: list[str] | str, width: int) -> bool:
    return isinstance(row, list) and len(row) == width > 0 and row[-1].strip() in tuple(LETTERS[:4])


def _csv_record(start: int, row: list[str] | str, text: str, columns: list[str]) -> Record:
    text = text.rstrip("\r\n")
    if isinstance(row, str):
        return Record(start + 1, None, text, row)
    if not is_encodable(text):
        return Record(start + 1, None, text, BAD_BYTES)
    if len(row) != len(columns):
        return Record(start + 1, None, text, f"{len(row)} fields, {len(columns)} expected")
    return Record(start + 1, dict(zip(columns, row, strict=True)), text)


def _parquet(path: Path, name: str) -> list[Record]:
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read().to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputFileError(f"{name} cannot be read as Parquet ({brief(str(error))}): pass another file") from error
    return [Record(number, row) for number, row in enumerate(rows, start=1)]
