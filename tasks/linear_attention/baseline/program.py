"""One DeltaNet layer: keys of unit length, a rate of writing for each token, short convolutions."""

import torch
from torch import nn
from torch.nn import functional

WIDTH = 64
HEADS = 1
KEY_WIDTH = 32
VALUE_WIDTH = 32
TAPS = 4
CHUNK = 32
BATCH = 64
PEAK_RATE = 0.01
WARM_UP = 0.1
WEIGHT_DECAY = 0.01


def train(tokens, targets, vocabulary, answers, seed):
    """Fit a model to sequences [N, T] and return its parameters; a target of -1 is not asked."""
    torch.manual_seed(seed)
    tokens, targets = torch.from_numpy(tokens).long(), torch.from_numpy(targets).long()
    model = Model(vocabulary, answers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    steps = len(tokens) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps, pct_start=WARM_UP)
    for step in range(steps):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        logits, _ = model(tokens[rows], None)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets[rows].flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"loss {loss.item():.4f} after {steps} steps")
    return {name: value.numpy() for name, value in model.state_dict().items()}


def score(parameters, state, tokens):
    """Read tokens [B, T] on from a state; return logits [B, T, answers] and the state after the last token."""
    vocabulary, answers = parameters["embedding.weight"].shape[0], parameters["head.weight"].shape[0]
    model = Model(vocabulary, answers)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in parameters.items()})
    before = None if state is None else {name: torch.from_numpy(value) for name, value in state.items()}
    with torch.no_grad():
        logits, after = model(torch.from_numpy(tokens).long(), before)
    return {"logits": logits.numpy(), "state": {name: value.numpy() for name, value in after.items()}}


class Model(nn.Module):
    """Embedding, one mixer with a residual connection, and a head."""

    def __init__(self, vocabulary, answers):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.before = nn.RMSNorm(WIDTH)
        self.mixer = Mixer()
        self.after = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, answers, bias=False)

    def forward(self, tokens, state):
        """tokens: [B, T] -> logits [B, T, answers] and the mixer's state."""
        x = self.embedding(tokens)
        mixed, state = self.mixer(self.before(x), state)
        return self.head(self.after(x + mixed)), state


class Mixer(nn.Module):
    """The memory: what is written, what is read, and how much of an old entry is replaced."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, HEADS * (2 * KEY_WIDTH + VALUE_WIDTH), bias=False)
        self.taps = nn.Parameter(0.3 * torch.randn(HEADS * (2 * KEY_WIDTH + VALUE_WIDTH), 1, TAPS))
        self.rate = nn.Linear(WIDTH, HEADS)
        self.norm = nn.RMSNorm(VALUE_WIDTH)
        self.output = nn.Linear(HEADS * VALUE_WIDTH, WIDTH, bias=False)

    def forward(self, x, state):
        """x: [B, T, D] -> [B, T, D] and the state {memory: [B, H, K, V], recent: [B, TAPS - 1, channels]}."""
        projected = self.project(x)
        recent = projected.new_zeros(len(x), TAPS - 1, projected.shape[-1]) if state is None else state["recent"]
        mixed, recent = short_convolution(projected, self.taps, recent)
        heads = mixed.unflatten(-1, (HEADS, 2 * KEY_WIDTH + VALUE_WIDTH))
        q, k, v = heads.split((KEY_WIDTH, KEY_WIDTH, VALUE_WIDTH), -1)
        q, k = unit(features(q)), unit(features(k))
        beta = write_strength(self.rate(x))
        memory = k.new_zeros(len(x), HEADS, k.shape[-1], VALUE_WIDTH) if state is None else state["memory"]
        read, memory = delta_rule_in_chunks(q, k, v, beta, memory)
        return self.output(self.norm(read).flatten(-2)), {"memory": memory, "recent": recent}


def features(x):
    """x: [..., K] -> [..., K]: what queries and keys are made of."""
    return functional.silu(x)


def unit(vectors):
    """Scale to unit length: only then a rate of 1 replaces an entry exactly."""
    return functional.normalize(vectors, dim=-1)


def write_strength(logits, negative=False):
    """logits: [B, T, H] -> rates of writing, in (0, 1) or, if they may turn an entry around, in (0, 2)."""
    return (2.0 if negative else 1.0) * torch.sigmoid(logits)


def short_convolution(x, taps, recent):
    """x: [B, T, C], causal over the last TAPS tokens; `recent` [B, TAPS - 1, C] are those before x."""
    padded = torch.cat([recent, x], 1)
    mixed = functional.conv1d(padded.mT, taps, groups=x.shape[-1]).mT
    return mixed, padded[:, padded.shape[1] - recent.shape[1] :]


def delta_rule_in_chunks(q, k, v, beta, memory):
    """memory += beta * k (v - k memory)^T, token by token, computed CHUNK tokens at once.

    q, k: [B, T, H, K], k of unit length; v: [B, T, H, V]; beta: [B, T, H]; memory: [B, H, K, V].
    Returns what q reads after each write, [B, T, H, V], and the memory after the last token.
    Source: Yang et al. 2024, arXiv 2406.06484, section 3.2: within a chunk the writes solve a triangular system.
    """
    q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta[..., None]))
    reads = []
    for start in range(0, q.shape[2], CHUNK):
        queries, keys, values, rates = (x[:, :, start : start + CHUNK] for x in (q, k, v, beta))
        system = torch.tril(rates * (keys @ keys.mT), -1)  # its diagonal of ones is implied below
        wanted = rates * (values - keys @ memory)
        written = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
        reads.append(queries @ memory + torch.tril(queries @ keys.mT) @ written)
        memory = memory + keys.mT @ written
    return torch.cat(reads, 2).transpose(1, 2), memory
