"""Trains the digits classifier of this example and writes digits.onnx and held_back.bin.

    python -m venv venv && venv/bin/pip install scikit-learn onnx && venv/bin/python train.py

A convolutional network of 3,706 weights in NumPy, trained with Adam on four fifths of scikit-learn's digits; the last
fifth is held back. held_back.bin has 65 bytes a digit: its label and 64 pixels from 0 to 16, row by row.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

rng = np.random.default_rng(7)


def patches(x):
    """[n, c, h, w] to [n, h, w, c * 9]: the 3x3 surroundings of each pixel, zeros outside."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.stack(shifted, axis=2).transpose(0, 3, 4, 1, 2).reshape(n, h, w, c * 9)


def unpatches(d, c):
    """The transpose of `patches`."""
    n, h, w, _ = d.shape
    d = d.reshape(n, h, w, c, 9).transpose(0, 3, 4, 1, 2)
    padded = np.zeros((n, c, h + 2, w + 2), d.dtype)
    for k in range(9):
        padded[:, :, k // 3 : k // 3 + h, k % 3 : k % 3 + w] += d[:, :, k]
    return padded[:, :, 1:-1, 1:-1]


def pool(x):
    """Greatest of each 2x2, and where it is."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
    most = blocks.max(axis=(3, 5), keepdims=True)
    where = blocks == most
    return most[:, :, :, 0, :, 0], where / where.sum(axis=(3, 5), keepdims=True)


def unpool(d, where):
    n, c, h, w = d.shape
    return (d[:, :, :, None, :, None] * where).reshape(n, c, 2 * h, 2 * w)


class Network:
    """8x8 to 10: two convolutions with ReLU and pooling, one product."""

    def __init__(self):
        scaled = lambda *shape: (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        self.weights = {
            "conv1.weight": scaled(12, 1, 3, 3),
            "conv1.bias": np.zeros(12, np.float32),
            "conv2.weight": scaled(24, 12, 3, 3),
            "conv2.bias": np.zeros(24, np.float32),
            "fc.weight": scaled(10, 96),
            "fc.bias": np.zeros(10, np.float32),
        }

    def convolve(self, name, x):
        w, b = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        p = patches(x)
        y = (p @ w.reshape(len(w), -1).T + b).transpose(0, 3, 1, 2)
        return p, np.maximum(y, 0)

    def forward(self, x, keep=None):
        p1, y1 = self.convolve("conv1", x)
        z1, m1 = pool(y1)
        p2, y2 = self.convolve("conv2", z1)
        z2, m2 = pool(y2)
        flat = z2.reshape(len(x), -1)
        if keep is not None:
            flat = flat * keep
        return flat @ self.weights["fc.weight"].T + self.weights["fc.bias"], (p1, y1, m1, p2, y2, m2, flat)

    def gradients(self, x, labels):
        keep = (rng.random((len(x), 96)) < 0.8).astype(np.float32) / 0.8
        scores, (p1, y1, m1, p2, y2, m2, flat) = self.forward(x, keep)
        d = np.exp(scores - scores.max(axis=1, keepdims=True))
        d /= d.sum(axis=1, keepdims=True)
        d[np.arange(len(x)), labels] -= 1
        d /= len(x)
        g = {"fc.weight": d.T @ flat, "fc.bias": d.sum(axis=0)}
        d = (d @ self.weights["fc.weight"] * keep).reshape(len(x), 24, 2, 2)
        for name, p, y, m, channels in (("conv2", p2, y2, m2, 12), ("conv1", p1, y1, m1, 1)):
            d = (unpool(d, m) * (y > 0)).transpose(0, 2, 3, 1)
            w = self.weights[f"{name}.weight"]
            g[f"{name}.weight"] = np.tensordot(d, p, axes=([0, 1, 2], [0, 1, 2])).reshape(w.shape)
            g[f"{name}.bias"] = d.sum(axis=(0, 1, 2))
            d = unpatches(d @ w.reshape(len(w), -1), channels)
        return g


def augment(x):
    """Moves each image by at most one pixel."""
    moved = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    at = rng.integers(0, 3, (len(x), 2))
    return np.stack([m[:, i : i + 8, j : j + 8] for m, (i, j) in zip(moved, at)])


def train(x, labels, epochs=120, batch=48):
    network = Network()
    moments = {k: [np.zeros_like(w), np.zeros_like(w)] for k, w in network.weights.items()}
    step = 0
    for epoch in range(epochs):
        rate = 3e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = rng.permutation(len(x))
        for first in range(0, len(x), batch):
            pick = order[first : first + batch]
            step += 1
            for k, g in network.gradients(augment(x[pick]), labels[pick]).items():
                m, v = moments[k]
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                network.weights[k] -= (rate * update).astype(np.float32)
    return network


def export(network):
    node = helper.make_node
    nodes = [
        node("Mul", ["image", "scale"], ["scaled"], name="scale"),
        node("Conv", ["scaled", "conv1.weight", "conv1.bias"], ["conv1"], name="conv1", pads=[1] * 4),
        node("Relu", ["conv1"], ["relu1"], name="relu1"),
        node("MaxPool", ["relu1"], ["pool1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pool1", "conv2.weight", "conv2.bias"], ["conv2"], name="conv2", pads=[1] * 4),
        node("Relu", ["conv2"], ["relu2"], name="relu2"),
        node("MaxPool", ["relu2"], ["pool2"], name="pool2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pool2"], ["flat"], name="flatten"),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
        node("Softmax", ["logits"], ["scores"], name="softmax"),
    ]
    weights = {"scale": np.float32(1 / 16), **network.weights}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.asarray(w, np.float32), k) for k, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="train.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "digits.onnx")


def main():
    data = load_digits()
    images = data.images.astype(np.float32).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(images))
    taught, held = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    network = train(images[taught] / 16, data.target[taught])
    guesses = network.forward(images[held] / 16)[0].argmax(axis=1)
    print(f"{(guesses == data.target[held]).sum()} of {len(held)} held-back digits right")
    export(network)
    with open("held_back.bin", "wb") as file:
        for i in held:
            file.write(bytes([data.target[i]]) + images[i].astype(np.uint8).tobytes())


if __name__ == "__main__":
    main()
