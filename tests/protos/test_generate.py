"""How the stubs are moved and compared; `make test` runs the generator itself."""

from __future__ import annotations

import pytest

from protos import generate

MADE = {
    "saewatch/v1/a_pb2.py": "from saewatch.v1 import b_pb2 as x\n_builder.Build(D, 'saewatch.v1.a_pb2', g)\n",
    "saewatch/v1/a_pb2.pyi": "import saewatch.v1.b_pb2\nx: saewatch.v1.b_pb2.Thing\n",
    "saewatch/v1/a_pb2_grpc.py": "import grpc\nclass AStub: call = '/saewatch.v1.A/Get'\n",
    "saewatch/v1/b_pb2_grpc.py": "import grpc\n",
    "saewatch/v1/b_pb2_grpc.pyi": "import grpc\n",
}
HOME = "saewatch.edge.pb.saewatch.v1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a_pb2.py", f"from {HOME} import b_pb2 as x\n_builder.Build(D, '{HOME}.a_pb2', g)\n"),
        ("a_pb2.pyi", f"import {HOME}.b_pb2\nx: {HOME}.b_pb2.Thing\n"),
        ("a_pb2_grpc.py", MADE["saewatch/v1/a_pb2_grpc.py"]),  # names on the wire stay
    ],
)
def test_imports_move_and_names_on_the_wire_stay(name: str, text: str) -> None:
    assert generate.rewritten(name, MADE[f"saewatch/v1/{name}"]) == text


def test_grpc_module_without_a_service_is_left_out() -> None:
    kept = {name.rpartition("/")[2] for name in MADE if generate.keeps(name, MADE)}
    assert kept == {"a_pb2.py", "a_pb2.pyi", "a_pb2_grpc.py"}


def test_stubs_that_are_not_current_are_named() -> None:
    fresh = {"a": "1", "b": "2", "c": "3"}
    assert generate.differences(fresh, dict(fresh)) == []
    found = generate.differences(fresh, {"a": "1", "b": "old", "d": "4"})
    assert found == ["b: not current", "c: missing", "d: left over"]
