"""What the engine writes as safetensors, others read, and the other way round."""
import ctypes as C
import os
import tempfile
import unittest

import engine  # before torch: it says so where torch is missing

import torch

import safetensors_file
from engine import lib

try:
    import safetensors.torch as reference
except ImportError:
    reference = None


class Item(C.Structure):
    _fields_ = [("name", C.c_char_p), ("tensor", C.c_void_p)]


class Pair(C.Structure):
    _fields_ = [("key", C.c_char_p), ("text", C.c_char_p)]


lib.tb_safetensors_save.argtypes = [C.c_char_p, C.c_int, C.c_void_p, C.c_int, C.c_void_p]
lib.tb_safetensors_open.argtypes = [C.c_char_p, C.c_void_p]
lib.tb_safetensors_close.argtypes = [C.c_void_p]
lib.tb_safetensors_load.argtypes = [C.c_void_p, C.c_char_p, C.c_void_p]
lib.tb_safetensors_note.argtypes, lib.tb_safetensors_note.restype = [C.c_void_p, C.c_char_p], C.c_char_p
lib.tb_safetensors_count.argtypes = [C.c_void_p]

NOTES = {"format": "pt", "läufer": "schrittweite \"0.1\"\n\t\\ 漢字 🙂"}


def one_of_each_dtype():
    values = torch.arange(-3, 9).reshape(2, 3, 2)
    made = {f"{str(dtype)[6:]}.weight": (values % 256 if dtype == torch.uint8 else values).to(dtype)
            for dtype in engine.DTYPES}
    made["gewicht \"ß\""] = torch.tensor([float("inf"), float("-inf"), -0.0, 1e-45])
    made["point"], made["empty"] = torch.tensor(2.5), torch.empty(3, 0, 2)
    return made


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


class Safetensors(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "file.safetensors")

    def save(self, tensors, notes):
        with engine.scope():
            items = [Item(name.encode(), engine.to_engine(t)) for name, t in tensors.items()]
            pairs = [Pair(key.encode(), text.encode()) for key, text in notes.items()]
            engine.check(lib.tb_safetensors_save(self.path.encode(), len(items), (Item * len(items))(*items),
                                                 len(pairs), (Pair * max(len(pairs), 1))(*pairs)))

    def load(self, like):
        """Every tensor of `like` read by the engine, notes."""
        file = C.c_void_p()
        engine.check(lib.tb_safetensors_open(self.path.encode(), C.byref(file)))
        self.assertEqual(lib.tb_safetensors_count(file), len(like))
        read = {}
        with engine.scope():
            for name, tensor in like.items():
                handle = engine.to_engine(torch.zeros_like(tensor))
                engine.check(lib.tb_safetensors_load(file, name.encode(), handle))
                read[name] = engine.to_torch(handle)
        notes = {key: (lib.tb_safetensors_note(file, key.encode()) or b"").decode() for key in NOTES}
        lib.tb_safetensors_close(file)
        return read, notes

    def assert_same(self, got, want):
        self.assertEqual(list(got), list(want))
        for name in want:
            self.assertTrue(same(got[name], want[name]), f"{name}: {got[name]} is not {want[name]}")

    def test_a_strict_reader_takes_what_the_engine_writes(self):
        want = one_of_each_dtype()
        self.save(want, NOTES)
        got, notes = safetensors_file.read(self.path)
        self.assertEqual(notes, NOTES)
        self.assertEqual(set(got), set(want))
        self.assert_same({name: got[name] for name in want}, want)

    def test_the_engine_takes_what_others_write(self):
        want = one_of_each_dtype()
        safetensors_file.write(self.path, want, NOTES)
        got, notes = self.load(want)
        self.assertEqual(notes, NOTES)
        self.assert_same(got, want)

    def test_weights_of_a_model_travel_both_ways(self):
        model = engine.Model("gpt:layers=1,width=16,heads=2,context=8,vocab=32", torch.float32)
        before = model.weights()
        engine.check(lib.tb_model_save(model.handle, self.path.encode()))
        saved, _ = safetensors_file.read(self.path)
        self.assert_same({name: saved[name] for name in before}, before)
        doubled = {name: 2 * t for name, t in before.items()}
        safetensors_file.write(self.path, doubled)
        engine.check(lib.tb_model_load(model.handle, self.path.encode()))
        self.assert_same(model.weights(), doubled)
        model.close()

    def test_both_refuse_bytes_behind_the_last_tensor(self):
        safetensors_file.write(self.path, {"x": torch.ones(2)})
        with open(self.path, "ab") as file:
            file.write(b"\0")
        with self.assertRaisesRegex(AssertionError, "behind the last"):
            safetensors_file.read(self.path)
        with self.assertRaises(engine.Failure):
            engine.check(lib.tb_safetensors_open(self.path.encode(), C.byref(C.c_void_p())))

    @unittest.skipUnless(reference, "no safetensors package here; the strict reader stands for it")
    def test_the_reference_implementation_reads_and_writes_the_same(self):
        want = one_of_each_dtype()
        self.save(want, NOTES)
        got = reference.load_file(self.path)
        self.assert_same({name: got[name] for name in want}, want)
        reference.save_file(want, self.path, NOTES)
        got, notes = self.load(want)
        self.assertEqual(notes, NOTES)
        self.assert_same(got, want)


if __name__ == "__main__":
    engine.enter_context()
    unittest.main()
