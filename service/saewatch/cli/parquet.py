"""Rows as a Parquet file, a row group for each page. Needs pyarrow, which the extra ``tables`` brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.descriptor import FieldDescriptor

from saewatch.cli.rows import TIMES, Row

_TYPES: Mapping[int, Any] = {
    FieldDescriptor.CPPTYPE_BOOL: pa.bool_(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_ENUM: pa.string(),
    FieldDescriptor.CPPTYPE_FLOAT: pa.float32(),
    FieldDescriptor.CPPTYPE_STRING: pa.string(),
    FieldDescriptor.CPPTYPE_UINT32: pa.uint32(),
    FieldDescriptor.CPPTYPE_UINT64: pa.uint64(),
}


class ParquetFile:
    """A file that rows are written to; whole only after `close`."""

    def __init__(self, path: Path, fields: Sequence[Any]) -> None:
        self._schema = pa.schema([(field.name, _type(field)) for field in fields])
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """Adds rows."""
        told = [{key: list(one.items()) if isinstance(one, dict) else one for key, one in row.items()} for row in rows]
        self._writer.write_table(pa.Table.from_pylist(told, schema=self._schema))

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()


def _type(field: Any) -> Any:
    if field.name in TIMES:
        return pa.timestamp("ns", tz="UTC")
    if field.name == "missed":
        return pa.map_(pa.string(), pa.uint64())
    if field.message_type is not None:
        return pa.list_(pa.struct([(one.name, _TYPES[one.cpp_type]) for one in field.message_type.fields]))
    return _TYPES[field.cpp_type]
