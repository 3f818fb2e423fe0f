"""What `gpu.py` times onnxc beside: PyTorch's matrix product, which is cuBLAS, its attention, and two of the models in
PyTorch.

The models have the layers and sizes of the zoo's `resnet50` and `bert_base_dyn` and random weights: only their time counts.
"""
import torch
from torch import nn
from torch.nn import functional

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "tf32": torch.float32, "f32": torch.float32}


def precision(kind):
    """Lets products of f32 round their operands, or not. Gives the type of tensors."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
    return DTYPES[kind]


def product(kind, rows, depth, columns):
    """A product of two matrices, as something to call."""
    dtype = precision(kind)
    a, b = (torch.randn(*shape, device="cuda").to(dtype) for shape in ((rows, depth), (depth, columns)))
    out = torch.empty(rows, columns, device="cuda", dtype=dtype)
    return lambda: torch.matmul(a, b, out=out)


def attention(kind, batch, heads, queries, keys, width):
    dtype = precision(kind)
    q, k, v = (torch.randn(batch, heads, n, width, device="cuda").to(dtype) for n in (queries, keys, keys))
    return lambda: functional.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    def __init__(self, inside, middle, stride):
        super().__init__()
        out = 4 * middle
        self.first = nn.Conv2d(inside, middle, 1)
        self.second = nn.Conv2d(middle, middle, 3, stride, 1)
        self.third = nn.Conv2d(middle, out, 1)
        self.beside = nn.Conv2d(inside, out, 1, stride) if stride != 1 or inside != out else None

    def forward(self, x):
        y = functional.relu(self.second(functional.relu(self.first(x))))
        return functional.relu(self.third(y) + (x if self.beside is None else self.beside(x)))


class ResNet50(nn.Module):
    """Its normalisations are in its convolutions, as in the zoo's."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3)
        blocks, inside = [], 64
        for middle, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for i in range(count):
                blocks.append(Block(inside, middle, stride if i == 0 else 1))
                inside = 4 * middle
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(2048, 1000)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.parts, self.joined = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x, mask):
        batch, length, width = x.shape
        q, k, v = self.parts(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norms[0](x + self.joined(seen.transpose(1, 2).reshape(batch, length, width)))
        return self.norms[1](x + self.down(functional.gelu(self.up(x))))


class Bert(nn.Module):
    def __init__(self, width=768, layers=12, heads=12, words=30522, places=512):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(places, width)
        self.kinds, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.pool = nn.Linear(width, width)

    def forward(self, words, mask):
        x = self.words(words) + self.places.weight[: words.shape[1]] + self.kinds.weight[0]
        x, mask = self.norm(x), mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, mask)
        return x, torch.tanh(self.pool(x[:, 0]))


def model(name, kind, batch):
    """A model and its inputs."""
    dtype = precision(kind)
    if name == "resnet50":
        shape = {"memory_format": torch.channels_last}
        built = ResNet50().to("cuda", dtype).to(**shape).eval()
        return built, (torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype).to(**shape),)
    words = torch.randint(0, 30522, (batch, 128), device="cuda")
    return Bert().to("cuda", dtype).eval(), (words, torch.ones_like(words))


def eager(name, kind, batch):
    """A run without graphs, as something to call."""
    built, inputs = model(name, kind, batch)

    def run():
        with torch.no_grad():
            built(*inputs)

    return run


def compiled(name, kind, batch):
    """The replay of a CUDA graph of what torch.compile made."""
    built, inputs = model(name, kind, batch)
    fast = torch.compile(built)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                fast(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            fast(*inputs)
    return graph.replay
