"""Rows as Parquet, with the types of their fields."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from saewatch.cli import rows
from saewatch.cli.parquet import ParquetFile
from saewatch.edge.pb import history_pb2


def test_types_and_pages(tmp_path: Path) -> None:
    for message in (history_pb2.StoredFiring, history_pb2.Bucket, history_pb2.RequestSummary):
        fields = rows.columns(message)
        file = ParquetFile(tmp_path / "f", fields)
        row = rows.row(message(), fields)
        file.write([row, row])
        file.write([row])
        file.close()
        found = pq.ParquetFile(tmp_path / "f")
        assert (found.metadata.num_rows, found.num_row_groups) == (3, 2)
        types = dict(zip(found.schema_arrow.names, found.schema_arrow.types, strict=True))
        assert list(types) == [field.name for field in fields]
        assert all(types[name] == pa.timestamp("ns", tz="UTC") for name in rows.TIMES if name in types)
        found.close()
    assert types["features"] == pa.list_(
        pa.struct([("feature_id", pa.string()), ("count", pa.uint64()), ("max_value", pa.float32())])
    )


def test_a_file_without_rows_has_its_columns(tmp_path: Path) -> None:
    file = ParquetFile(tmp_path / "f", rows.columns(history_pb2.Bucket, ["group"]))
    file.close()
    assert pq.read_table(tmp_path / "f").schema.names == ["group"]
