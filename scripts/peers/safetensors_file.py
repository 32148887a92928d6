"""Reads safetensors files with numpy alone; the peers' environments have no package for it in common."""
import json

import numpy as np

DTYPES = {"F32": np.float32, "U8": np.uint8}


def read(path):
    """({name: array, not writable} in the file's order, notes) of a file of f32 and u8."""
    raw = open(path, "rb").read()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    notes = header.pop("__metadata__", {})
    body = memoryview(raw)[8 + size:]
    entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {name: np.frombuffer(body[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in entries}, notes
