"""safetensors files by the book (https://huggingface.co/docs/safetensors, "Format"): a reader that refuses
what the format does not allow, and a writer. Debian has no package of the reference implementation.
"""
import json
import math
import struct

import torch

NAMES = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "F16": torch.float16,
         "I8": torch.int8, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64, "BOOL": torch.bool}


def distinct(pairs):
    assert len(dict(pairs)) == len(pairs), "a key stands twice in the header"
    return dict(pairs)


def read(path):
    """Tensors by name, notes."""
    with open(path, "rb") as file:
        data = file.read()
    size, = struct.unpack("<Q", data[:8])
    header, body = data[8:8 + size], data[8 + size:]
    assert len(header) == size <= 100_000_000 and header[:1] == b"{", "the header"
    assert (8 + size) % 8 == 0, "tensors are aligned to 8 bytes"
    entries = json.loads(header.decode("utf-8"), object_pairs_hook=distinct)
    notes = entries.pop("__metadata__", {})
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in notes.items()), "notes are text"
    end, tensors = 0, {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        assert set(entry) == {"dtype", "shape", "data_offsets"}, name
        dtype, shape, (begin, stop) = NAMES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        tensors[name] = torch.empty(shape, dtype=dtype)
        assert begin == end and stop - begin == math.prod(shape) * tensors[name].element_size(), name
        if stop > begin:
            tensors[name] = torch.frombuffer(bytearray(body[begin:stop]), dtype=dtype).reshape(shape)
        end = stop
    assert end == len(body), "bytes behind the last tensor"
    return tensors, notes


def write(path, tensors, notes=None):
    """In the order given; the header is padded with blanks, as the reference implementation pads it."""
    entries, body = {"__metadata__": notes} if notes else {}, b""
    names = {dtype: name for name, dtype in NAMES.items()}
    for name, tensor in tensors.items():
        bits = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        entries[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                         "data_offsets": [len(body), len(body) + len(bits)]}
        body += bits
    header = json.dumps(entries, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + body)
