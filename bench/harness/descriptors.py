"""The descriptor set of `bench.Bench`: which methods may be made twice.

`Read` may, `Write` may not, `Watch` is a stream. Made here, since building it
from a `.proto` would need a compiler.
"""

from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions


def descriptor_set():
    whole = FileDescriptorSet()
    file = whole.file.add(name="bench.proto", package="bench", syntax="proto3")
    message = file.message_type.add(name="Data")
    field = message.field.add(name="data", number=1)
    field.type, field.label = field.TYPE_BYTES, field.LABEL_OPTIONAL
    service = file.service.add(name="Bench")
    for name in ("Read", "Write", "Watch"):
        method = service.method.add(name=name, input_type=".bench.Data", output_type=".bench.Data")
        method.server_streaming = name == "Watch"
        if name == "Read":
            method.options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    return whole.SerializeToString()
