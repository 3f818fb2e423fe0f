"""The Python package on models that these tests make: `python -m unittest discover -s python/tests`."""

import os
import subprocess
import tempfile
import threading
import tracemalloc
import unittest

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnxc

DIGITS = os.path.join(os.path.dirname(__file__), "../../examples/embed-rust")


def model(folder, nodes, inputs, outputs, name="net"):
    info = lambda port: helper.make_tensor_value_info(*port)
    graph = helper.make_graph(nodes, name, [info(p) for p in inputs], [info(p) for p in outputs])
    path = os.path.join(folder, f"{name}.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Borrowed:
    """DLPack's protocol and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Tests(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def test_digits_are_read(self):
        records = np.fromfile(os.path.join(DIGITS, "held_back.bin"), np.uint8).reshape(-1, 65)
        m = onnxc.compile(os.path.join(DIGITS, "digits.onnx"), dims={"batch": (1, 512)})
        self.assertEqual(m.inputs, (onnxc.Port("image", np.dtype(np.float32), ("batch", 1, 8, 8)),))
        scores = m.run(image=records[:, 1:].astype(np.float32).reshape(-1, 1, 8, 8))
        right = (scores.argmax(axis=1) == records[:, 0]).sum()
        self.assertGreaterEqual(right, 0.97 * len(records))

    def add(self, dims):
        nodes = [helper.make_node("Add", ["x", "y"], ["sum"]), helper.make_node("Sub", ["x", "y"], ["difference"])]
        ports = [(name, TensorProto.FLOAT, dims) for name in ("x", "y", "sum", "difference")]
        return model(self.folder.name, nodes, ports[:2], ports[2:])

    def test_inputs_are_read_in_place_and_outputs_are_fresh(self):
        m = onnxc.compile(self.add([2, 3]), target="native", opt_level="s")
        x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
        first = m.run(Borrowed(x), y=y)
        x[0, 0] = 100
        second = m.run(x, y)
        np.testing.assert_array_equal(first["sum"], [[1, 2, 3], [4, 5, 6]])
        np.testing.assert_array_equal(second["sum"], x + 1)
        np.testing.assert_array_equal(second["difference"], x - 1)
        self.assertFalse(np.shares_memory(first["sum"], second["sum"]))

    def test_models_for_gpus_run_where_a_driver_is(self):
        """In memory, and from a shared library, which has what it needs of the support library in it."""
        program, path = os.environ.get("ONNXC_PROGRAM"), self.add([2, 3])
        if program is None:
            self.skipTest("ONNXC_PROGRAM names no compiler")
        library = os.path.join(self.folder.name, "net.so")
        subprocess.run([program, path, "-o", library, "--target", "nvptx64-sm_80"], check=True, stdout=subprocess.DEVNULL)
        x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
        for m in (onnxc.compile(path, target="nvptx64-sm_80"), onnxc.load(library)):
            try:
                sums = m.run(x=x, y=y)
            except onnxc.Error as error:
                self.assertIn(error.status, (-34, -35), str(error))
                self.assertNotIn("standin", os.environ.get("LD_LIBRARY_PATH", ""))
                continue
            np.testing.assert_array_equal(sums["sum"], x + y)
            np.testing.assert_array_equal(sums["difference"], x - y)

    def test_no_input_and_no_output_is_copied(self):
        """What the model is called with is the addresses of the caller's arrays and of those that it gets back."""
        m = onnxc.compile(self.add([1 << 18]))
        x, y = np.ones(1 << 18, np.float32), np.ones(1 << 18, np.float32)
        raw_run, seen = m._raw.run, []

        class Spy:
            def __getattr__(self, name):
                return getattr(raw, name)

            def run(self, values_in, values_out, call):
                for values in (values_in, values_out):
                    seen.append([v.tensor.data for v in (onnxc.abi.Value * 2).from_address(values)])
                return raw_run(values_in, values_out, call)

        raw, m._raw = m._raw, Spy()
        borrowed = Borrowed(y)
        outputs = m.run(x, borrowed)
        self.assertEqual(seen[0], [x.ctypes.data, y.ctypes.data])
        self.assertEqual(seen[1], [outputs["sum"].ctypes.data, outputs["difference"].ctypes.data])
        self.assertTrue((outputs["sum"] == 2).all())
        # Less memory than one more copy of a tensor is taken in a run.
        m._raw = raw
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        m.run(x, borrowed)
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak, 2 * x.nbytes + x.nbytes // 2)

    def test_wrong_inputs_are_named(self):
        m = onnxc.compile(self.add(["n", 3]))
        ones = lambda *shape: np.ones(shape, np.float32)
        with self.assertRaisesRegex(onnxc.Error, "input y, axis 0: two dims") as raised:
            m.run(ones(2, 3), ones(4, 3))
        self.assertEqual(raised.exception.status, -9)
        with self.assertRaisesRegex(onnxc.Error, r"input x, axis 1: .* \(expected 3, got 2\)"):
            m.run(ones(2, 2), ones(2, 2))
        with self.assertRaisesRegex(TypeError, "input x is float32, not float64"):
            m.run(np.ones((2, 3)), ones(2, 3))
        with self.assertRaisesRegex(ValueError, "not contiguous"):
            m.run(ones(3, 2).T, ones(2, 3))
        with self.assertRaisesRegex(TypeError, r"missing \['y'\], not known \['z'\]"):
            m.run(x=ones(2, 3), z=ones(2, 3))

    def test_data_decides_sizes(self):
        nodes = [helper.make_node("NonZero", ["x"], ["where"])]
        path = model(self.folder.name, nodes, [("x", TensorProto.FLOAT, [2, 3])], [("where", TensorProto.INT64, [2, None])])
        m = onnxc.compile(path)
        for x in ([[0, 1, 0], [2, 0, 3]], [[0, 0, 0], [0, 0, 0]]):
            x = np.array(x, np.float32)
            np.testing.assert_array_equal(m.run(x), np.nonzero(x))

    def test_threads_run_one_model_at_once(self):
        m = onnxc.compile(self.add(["n", 3]))
        failures = []

        def work(seed):
            x = np.random.default_rng(seed).random((50 + seed, 3), np.float32)
            for _ in range(50):
                if not np.array_equal(m.run(x, x)["sum"], x + x):
                    failures.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_what_is_wrong_with_a_model_is_said(self):
        with self.assertRaises(OSError):
            onnxc.compile(os.path.join(self.folder.name, "nothing.onnx"))
        path = model(self.folder.name, [helper.make_node("Nonsense", ["x"], ["y"])], [("x", 1, [1])], [("y", 1, [1])])
        with self.assertRaisesRegex(ValueError, "U001"):
            onnxc.compile(path)
        with self.assertRaisesRegex(ValueError, "unknown target"):
            onnxc.compile(self.add([1]), target="abacus")

    def test_a_shared_library_is_loaded(self):
        program = os.environ.get("ONNXC_PROGRAM")
        if program is None:
            self.skipTest("ONNXC_PROGRAM does not say where onnxc is")
        library = os.path.join(self.folder.name, "libnet.so")
        subprocess.run([program, self.add([2]), "-o", library], check=True)
        m = onnxc.load(library)
        np.testing.assert_array_equal(m.run(np.float32([1, 2]), np.float32([3, 4]))["sum"], [4, 6])
        with self.assertRaisesRegex(ValueError, "no model named other"):
            onnxc.load(library, "other")

    def test_weights_in_a_file_of_their_own(self):
        program = os.environ.get("ONNXC_PROGRAM")
        if program is None:
            self.skipTest("ONNXC_PROGRAM does not say where onnxc is")
        library, digits = os.path.join(self.folder.name, "libdigits.so"), os.path.join(DIGITS, "digits.onnx")
        command = [program, digits, "-o", library, "--dim", "batch=1", "--weights", "external"]
        subprocess.run(command, check=True)
        image = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
        scores = onnxc.load(library).run(image)
        np.testing.assert_array_equal(scores, onnxc.compile(digits, dims={"batch": 1}, target="native").run(image))
        weights = os.path.join(self.folder.name, "digits.weights")
        spoiled = np.fromfile(weights, np.uint8)
        spoiled[1000] ^= 1
        other = os.path.join(self.folder.name, "other.weights")
        for wrong in (spoiled, spoiled[:-1]):
            wrong.tofile(other)
            with self.assertRaisesRegex(ValueError, "does not hold the weights of digits"):
                onnxc.load(library, weights=other)
        os.rename(weights, other)
        with self.assertRaises(FileNotFoundError):
            onnxc.load(library)
        np.testing.assert_array_equal(onnxc.load(library, weights=other).run(image), scores)


if __name__ == "__main__":
    unittest.main()
