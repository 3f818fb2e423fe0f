"""Reads handwritten digits with the network of examples/embed-rust: compiled in this process for its processor, and run on
NumPy's memory. python/README.md says how to install the package."""

from pathlib import Path

import numpy as np

import onnxc

FOLDER = Path(__file__).resolve().parent.parent / "embed-rust"

# Digits that training did not see, each a label and 8x8 pixels from 0 to 16.
records = np.fromfile(FOLDER / "held_back.bin", np.uint8).reshape(-1, 65)
labels, images = records[:, 0], records[:, 1:].astype(np.float32).reshape(-1, 1, 8, 8)

model = onnxc.compile(FOLDER / "digits.onnx", target="native", dims={"batch": (1, 512)})
scores = model.run(image=images)
right = int((scores.argmax(axis=1) == labels).sum())
print(f"{right} of {len(labels)} right; {model.code_bytes} bytes of code for {model.target}")
if right < 0.97 * len(labels):
    raise SystemExit("the network reads worse than it did when it was trained")
