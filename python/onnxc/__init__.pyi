from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

class Error(RuntimeError):
    status: int

class Port:
    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str | None, ...]

class Model:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    @property
    def name(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def code_bytes(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    def run(self, *arguments: Any, **named: Any) -> NDArray[Any] | dict[str, NDArray[Any]]: ...
    def run_dict(self, inputs: Mapping[str, Any]) -> NDArray[Any] | dict[str, NDArray[Any]]: ...

def compile(
    path: str | PathLike[str],
    *,
    target: str = "native",
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    fp: str = "default",
    opt_level: int | str = 2,
) -> Model: ...
def load(
    path: str | PathLike[str], name: str | None = None, weights: str | PathLike[str] | None = None
) -> Model: ...
