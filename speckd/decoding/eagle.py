"""The EAGLE-like draft: one decoder layer that goes on from the teacher's own last feature.

A feature f_i is the hidden state that the teacher's head reads at token i, the one that predicts token i + 1. The layer
reads the embedding of a token beside the feature that predicted it, both normalised, and writes what it expects the
next feature to be; the teacher's own head, cut to the most frequent tokens, turns it into a distribution (FR-Spec). A
drafted token goes on from the layer's own expectation, again and again, down a chain or a tree.

    x_t = fuse [norm e(token_t) ; norm f_(t-1)]      g_t = norm(layer(x_1 ... x_t))      q_(t+1) = softmax(head g_t)

Source: EAGLE (arXiv 2401.15077), EAGLE-3's unrolled training (2503.01840), FR-Spec (2502.14856).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from speckd.decoding.drafts import Nodes
from speckd.decoding.lean import Layer, LayerCache, Matrix, additive
from speckd.heads import Head

FORMAT = "speckd.eagle"
VERSION = 1
WEIGHTS, FACTS = "draft.safetensors", "draft.json"


class DraftMismatch(ValueError):
    """A draft belongs to another teacher, or its file is no draft. The message says which and what to do."""


@dataclass(frozen=True)
class EagleShape:
    """What the layer looks like.

    Attributes:
        width: H of the teacher; head_width, n_heads, n_kv: of its attention; inner: width of the gated MLP.
        eps: what normalisations add to the mean square. theta: base of the rotary positions.
    """

    width: int
    head_width: int
    n_heads: int
    n_kv: int
    inner: int
    eps: float
    theta: float

    @classmethod
    def like(cls, teacher: Any, inner: int | None = None) -> "EagleShape":
        """The shape of one of the teacher's own layers, with another MLP where ``inner`` is given."""
        config = teacher.config.get_text_config()
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope = getattr(config, "rope_parameters", None) or {}
        return cls(
            width=config.hidden_size,
            head_width=head_width,
            n_heads=config.num_attention_heads,
            n_kv=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            inner=inner or config.intermediate_size,
            eps=getattr(config, "rms_norm_eps", 1e-6),
            theta=float(rope.get("rope_theta", 10_000.0)),
        )


class _Norm(nn.RMSNorm):
    """Root-mean-square normalisation in its weight's precision, also where products around it run in bfloat16."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows.to(self.weight.dtype))


class EagleLayer(nn.Module):
    """The trained part: about 4 million weights beside SmolLM2-135M. It knows no head and no embedding of its own."""

    def __init__(self, shape: EagleShape) -> None:
        super().__init__()
        self.shape = shape
        width, heads = shape.width, shape.head_width * shape.n_heads
        self.norm_embedding = _Norm(width, shape.eps)
        self.norm_feature = _Norm(width, shape.eps)
        self.fuse = nn.Linear(2 * width, width, bias=False)
        self.norm_attention = _Norm(width, shape.eps)
        self.qkv = nn.Linear(width, heads + 2 * shape.head_width * shape.n_kv, bias=False)
        self.out = nn.Linear(heads, width, bias=False)
        self.norm_mlp = _Norm(width, shape.eps)
        self.gate_up = nn.Linear(width, 2 * shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, width, bias=False)
        self.norm_out = _Norm(width, shape.eps)

    def unroll(self, embedded: Tensor, features: Tensor, roots: Tensor, n_steps: int) -> list[Tensor]:
        """What training sees: from every root the chain of expectations along the text, each fed the one before.

        Step j at root t reads token t + j, and attends to the teacher's features up to token t and to the steps of its
        own chain, exactly as it will when it drafts.

        Args:
            embedded: (B, T, H) embeddings of the tokens.
            features: (B, T, H) the teacher's feature at each token; the one before a token is read beside it.
            roots: (B, R) the tokens from which chains start.
            n_steps: length of the chains. Steps beyond the text read its last token and are for the caller to drop.
        Returns:
            n_steps expectations (B, R, H): entry j stands for the teacher's feature at token root + j.
        """
        n_texts, length, width = embedded.shape
        before = torch.cat([torch.zeros_like(features[:, :1]), features[:, :-1]], 1)
        first = self.norm_attention(self._inputs(embedded, before))  # (B, T, H)
        places = torch.arange(length, device=embedded.device)
        _, keys, values = self._heads(first, places.expand(n_texts, -1))
        hidden_keys = places > roots[..., None]  # (B, R, T)
        pick = roots[..., None].expand(-1, -1, width)
        expected = before.gather(1, pick)  # at step 0 what the root is read with is the teacher's own
        own_keys: list[Tensor] = []
        own_values: list[Tensor] = []
        steps: list[Tensor] = []
        for step in range(n_steps):
            token = (roots + step).clamp(max=length - 1)
            rows = self._inputs(embedded.gather(1, token[..., None].expand(-1, -1, width)), expected)
            queries, key, value = self._heads(self.norm_attention(rows), roots + step)  # (B, heads or kv, R, D)
            if step:
                own_keys.append(key)
                own_values.append(value)
            mixed = self._attend(queries, keys, values, hidden_keys, own_keys, own_values)
            rows = rows + self.out(mixed)
            expected = self._finish(rows)
            steps.append(expected)
        return steps

    def _inputs(self, embedded: Tensor, features: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.norm_embedding(embedded), self.norm_feature(features)], -1))

    def _finish(self, rows: Tensor) -> Tensor:
        gate, up = self.gate_up(self.norm_mlp(rows)).chunk(2, -1)
        return self.norm_out(rows + self.down(functional.silu(gate) * up))

    def _heads(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turned queries, turned keys and values of (B, R, H) rows: (B, heads or kv, R, D)."""
        shape = self.shape
        heads = self.qkv(rows).unflatten(-1, (-1, shape.head_width)).transpose(1, 2)
        cosine, sine = rotary(shape, places)
        turned, values = heads[:, : -shape.n_kv], heads[:, -shape.n_kv :]
        half = shape.head_width // 2
        other = torch.cat([-turned[..., half:], turned[..., :half]], -1)
        turned = (turned * cosine[:, None] + other * sine[:, None]).to(values.dtype)
        return turned[:, : shape.n_heads], turned[:, shape.n_heads :], values

    def _attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        hidden_keys: Tensor,
        own_keys: Sequence[Tensor],
        own_values: Sequence[Tensor],
    ) -> Tensor:
        """Attention over the text up to each root and the steps of its own chain: (B, R, heads * D)."""
        group = self.shape.n_heads // self.shape.n_kv
        queries = queries.unflatten(1, (self.shape.n_kv, group))  # (B, kv, group, R, D)
        scores = queries @ keys[:, :, None].transpose(-1, -2)  # (B, kv, group, R, T)
        scores = scores.masked_fill(hidden_keys[:, None, None], -torch.inf)
        length = scores.shape[-1]
        own = [(queries * key[:, :, None]).sum(-1, keepdim=True) for key in own_keys]  # (B, kv, group, R, 1) each
        chances = torch.softmax(torch.cat([scores, *own], -1).float() * self.shape.head_width**-0.5, -1)
        chances = chances.to(values.dtype)
        mixed = chances[..., :length] @ values[:, :, None]
        for step, value in enumerate(own_values):
            mixed = mixed + chances[..., length + step, None] * value[:, :, None]
        return mixed.flatten(1, 2).transpose(1, 2).flatten(-2)


def rotary(shape: EagleShape, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of places in a text: two (..., head width)."""
    powers = torch.arange(0, shape.head_width, 2, device=places.device) / shape.head_width
    angles = places[..., None] * shape.theta**-powers
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


# --- its file -------------------------------------------------------------------------------------------------------


def save_draft(
    folder: str | os.PathLike[str],
    layer: EagleLayer,
    vocabulary: Tensor,
    teacher_sha256: str,
    facts: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write a draft: its weights and its vocabulary as safetensors, its shape and how it was made as JSON.

    Args:
        folder: made if needed.
        vocabulary: the token ids that it drafts, ascending.
        teacher_sha256: of the teacher whose features it reads; no other may use it.
        facts: how it was made and how good it is, for people.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in layer.state_dict().items()}
    tensors["vocabulary"] = vocabulary.to("cpu", torch.int32)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "teacher_sha256": teacher_sha256,
        "shape": asdict(layer.shape),
        "n_vocabulary": len(vocabulary),
        **(facts or {}),
    }
    partial = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
    save_file(tensors, str(partial), metadata={"teacher_sha256": teacher_sha256})
    os.replace(partial, folder / WEIGHTS)
    partial.with_suffix(".json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
    os.replace(partial.with_suffix(".json"), folder / FACTS)
    return folder


def read_draft(folder: str | os.PathLike[str], teacher_sha256: str) -> tuple[EagleLayer, Tensor, dict[str, Any]]:
    """A draft from its folder: the layer in float32, its vocabulary, and what its JSON says.

    Raises:
        DraftMismatch: it was made for another teacher, or is damaged.
        OSError: it is not there.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file() or not (folder / WEIGHTS).is_file():
        raise OSError(
            f"There is no draft in {folder.name!r}: it needs {WEIGHTS} and {FACTS}, as "
            "`python -m speckd distill --draft eagle` writes them."
        )
    try:
        head = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        made_for = str(head["teacher_sha256"])
        if head["format"] != FORMAT or head["version"] != VERSION:
            raise DraftMismatch(f"{folder.name!r} is a draft of another format: make it again with this version.")
        layer = EagleLayer(EagleShape(**head["shape"]))
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        vocabulary = tensors.pop("vocabulary").long()
        layer.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except DraftMismatch:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DraftMismatch(f"The draft in {folder.name!r} is cut off or damaged: fetch or make it again.") from error
    if made_for != teacher_sha256:
        raise DraftMismatch(
            f"The draft in {folder.name!r} was made for a teacher with sha256 {made_for[:12]}, this one has "
            f"{teacher_sha256[:12]}: train one for it with `python -m speckd distill --draft eagle`."
        )
    return layer.requires_grad_(False).eval(), vocabulary, head


# --- drafting -------------------------------------------------------------------------------------------------------


def cut_head(head: Head, vocabulary: Tensor) -> Head:
    """A head that knows some tokens alone."""
    bias = None if head.bias is None else head.bias.detach()[vocabulary]
    return replace(head, weight=head.weight.detach()[vocabulary], bias=bias)


class _Products:
    """The layer's weights, packed once and shared by all drafts over it."""

    def __init__(self, layer: EagleLayer, head: Head, vocabulary: Tensor, embedding: Tensor) -> None:
        shape = layer.shape
        self.shape, self.layer, self.embedding = shape, layer, embedding
        self.whole_head, self.vocabulary = head, vocabulary
        self.head = cut_head(head, vocabulary)
        plain = self.head.bias is None and self.head.scale == 1.0 and self.head.softcap is None
        self.head_matrix = Matrix([self.head.weight]) if plain and head.weight.dtype == torch.float32 else None
        self.fuse = Matrix([layer.fuse.weight])
        self.block = Layer(
            Matrix([layer.qkv.weight]),
            Matrix([layer.out.weight]),
            Matrix([layer.gate_up.weight]),
            Matrix([layer.down.weight]),
            (layer.norm_attention.weight.detach(), layer.norm_mlp.weight.detach()),
            shape.eps,
            shape.n_heads,
            shape.n_kv,
            shape.head_width,
            shape.head_width**-0.5,
        )

    def inputs(self, tokens: Tensor, features: Tensor) -> Tensor:
        layer = self.layer
        embedded = layer.norm_embedding(self.embedding[tokens])
        return self.fuse(torch.cat([embedded, layer.norm_feature(features)], -1))

    def logits(self, expected: Tensor) -> Tensor:
        if self.head_matrix is not None:
            return self.head_matrix(expected)
        return self.head.logits(expected)


class EagleDraft:
    """The layer as a Draft of the rounds (see drafts.py): chains and trees, over one text.

    Args:
        layer, vocabulary: as ``read_draft`` gives them, on the teacher's device.
        teacher: whose head and embedding it borrows.
    """

    wants_features = True

    def __init__(self, layer: EagleLayer, vocabulary: Tensor, teacher: Any, name: str = "eagle") -> None:
        embedding = teacher.get_input_embeddings().weight.detach()
        layer = layer.to(embedding.device, embedding.dtype)
        self.name = name
        self._products = _Products(layer, Head.of(teacher), vocabulary.to(embedding.device), embedding)
        self._reset()

    vocabulary: Tensor
    _more: Head | None
    _order: Tensor | None

    def _reset(self) -> None:
        shape, embedding = self._products.shape, self._products.embedding
        self._cache = LayerCache(shape.n_kv, shape.head_width, embedding.device, embedding.dtype)
        self.vocabulary, self._more, self._order = self._products.vocabulary, None, None
        self._forget(None)

    def _forget(self, expected: Tensor | None) -> None:
        """Begin a new round: the text's rows stay, drafted ones go."""
        self._n_text = self._cache.length
        self._nodes = Nodes.empty()
        self._expected = expected  # (1 + nodes, H): the text's last expectation, then each node's

    def _widen(self, prompt_ids: Tensor) -> None:
        """Add the prompt's own tokens to the vocabulary: an answer often names what the question did."""
        known = self._products.vocabulary
        new = torch.unique(prompt_ids)
        new = new[~torch.isin(new, known)]
        if len(new):
            self.vocabulary, self._order = torch.cat([known, new]).sort()
            self._more = cut_head(self._products.whole_head, new)

    def _logits(self, expected: Tensor) -> Tensor:
        rows = self._products.logits(expected)
        if self._more is None:
            return rows
        return torch.cat([rows, self._more.logits(expected)], -1)[:, self._order]

    def fresh(self) -> "EagleDraft":
        made = object.__new__(EagleDraft)
        made.name, made._products = self.name, self._products
        made._reset()
        return made

    @torch.inference_mode()
    def commit(self, ids: Sequence[int], features: Tensor | None, nodes: Sequence[int]) -> Tensor:
        """Read tokens with the teacher's true features: what was drafted is overwritten (see Draft.commit)."""
        assert features is not None and len(features) == len(ids), "each token comes with the feature that predicted it"
        self._cache.crop(self._n_text)
        tokens = torch.as_tensor(ids, dtype=torch.int64, device=self.vocabulary.device)
        if not self._n_text:
            self._widen(tokens)
        rows = self._products.inputs(tokens, features)
        places = torch.arange(self._n_text, self._n_text + len(rows), device=rows.device)
        expected = self._run(rows, places, None, only_last=True)
        self._forget(expected)
        return self._logits(expected)[0]

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """Draft nodes after their parents, all in one pass (see Draft.extend)."""
        assert self._expected is not None, "commit the prompt first"
        device = self.vocabulary.device
        nodes = self._nodes.add(parents)
        rows = self._products.inputs(
            torch.as_tensor(tokens, dtype=torch.int64, device=device),
            self._expected[[parent + 1 for parent in parents]],
        )
        # A node of depth d stands d places after the text's last token.
        places = torch.tensor([self._n_text - 1 + self._nodes.depths[node] for node in nodes], device=device)
        mask = None if self._nodes.is_chain and len(nodes) == 1 else self._nodes.mask(nodes).to(device)
        expected = self._run(rows, places, mask)
        self._expected = torch.cat([self._expected, expected])
        return self._logits(expected)

    def _run(self, rows: Tensor, places: Tensor, mask: Tensor | None, only_last: bool = False) -> Tensor:
        block, shape = self._products.block, self._products.shape
        cosine, sine = rotary(shape, places)
        turn = (cosine[:, None].to(rows.dtype), sine[:, None].to(rows.dtype))
        blocked = additive(mask, len(rows), self._cache.length, rows.device)
        rows = block(rows, turn, blocked, self._cache, only_last)
        return self._products.layer.norm_out(rows)


# --- the one that ships ---------------------------------------------------------------------------------------------


def shipped_draft() -> Path | None:
    """The folder of the draft of the packaged teacher: assets/drafts/eagle beside the package, or under this folder."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "assets" / "drafts" / "eagle" / FACTS).is_file():
            return root / "assets" / "drafts" / "eagle"
    return None


def find_eagle(pair: Any) -> Path | None:
    """The shipped draft where it was made for this pair's teacher, else None."""
    folder = shipped_draft()
    if folder is None:
        return None
    try:
        made_for = json.loads((folder / FACTS).read_text(encoding="utf-8"))["teacher_sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return folder if made_for == pair.teacher_sha256 else None


def load_eagle(pair: Any, target: Any = None, file: str | os.PathLike[str] | None = None) -> EagleDraft:
    """The draft of a folder over the pair's teacher.

    Args:
        pair: whose teacher it drafts for.
        target: the teacher's forward; a draft of this kind needs nothing of it.
        file: its folder; the shipped one by default.
    Raises:
        DraftMismatch: it was made for another teacher, or is damaged.
        OSError: it is not there.
    """
    folder = file or shipped_draft()
    if folder is None:
        raise OSError(
            "The draft 'eagle' is not here: run from a checkout of the project, where assets/drafts holds it, or train "
            "one with `python -m speckd distill --draft eagle`."
        )
    layer, vocabulary, _ = read_draft(folder, pair.teacher_sha256)
    return EagleDraft(layer, vocabulary, pair.teacher)
