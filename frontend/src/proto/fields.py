"""Writes fields.txt, what the `onnx` package says about every message: `python fields.py > fields.txt`."""

import onnx
from onnx import onnx_data_pb2, onnx_ml_pb2

SCALARS = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 9: "string", 12: "bytes"}


def fields(message):
    for field in sorted(message.fields, key=lambda f: f.number):
        if field.message_type:
            kind = field.message_type.full_name.removeprefix("onnx.")
        else:
            kind = "int32" if field.enum_type else SCALARS[field.type]
        label = ("packed" if field.is_packed else "repeated") if field.is_repeated else "single"
        print(message.full_name.removeprefix("onnx."), field.number, field.name, kind, label)
    for nested in message.nested_types:
        fields(nested)


print(f"# Written by fields.py from onnx {onnx.__version__}: message, field number, name, type, label.")
for module in (onnx_ml_pb2, onnx_data_pb2):
    for message in module.DESCRIPTOR.message_types_by_name.values():
        fields(message)
