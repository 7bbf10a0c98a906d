"""The shape of a decoder: its parameters, exactly, and the floating-point operations of training it.

Standard library only. Symbols of the formulas: L layers, h hidden size, q = heads * head size, k = key-value heads *
head size, f width of the feed-forward network, V vocabulary, E experts of which K work on a token, m their width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json

Config = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What decides the size of a Llama-like decoder (RMSNorm, SwiGLU, grouped-query attention)."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool  # the output projection is the embedding
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sparse_layers: int = 0  # those with experts in place of the feed-forward network
    experts: int = 0
    top_k: int = 0
    moe_ffn: int = 0

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output projection where that is not the same: V h."""
        return self.vocab * self.hidden

    @property
    def expert_parameters(self) -> int:
        """Parameters of all experts: per sparse layer E 3 h m. Expert parallelism splits these and no others."""
        return self.sparse_layers * self.experts * 3 * self.hidden * self.moe_ffn

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers except the experts.

        A layer: q, k, v and output projections h (2q + 2k) with their biases, norms 2 h (of queries and keys: 2 head
        sizes), SwiGLU 3 h f, or the router h E.
        """
        attention = self.hidden * 2 * (self.q + self.kv)
        attention += self.qkv_bias * (self.q + 2 * self.kv) + self.out_bias * self.hidden
        attention += self.qk_norm * 2 * self.head_dim + 2 * self.hidden
        dense = 3 * self.hidden * self.ffn + self.mlp_bias * (2 * self.ffn + self.hidden)
        sparse = self.hidden * self.experts
        return self.layers * attention + (self.layers - self.sparse_layers) * dense + self.sparse_layers * sparse

    @property
    def parameters(self) -> int:
        """All parameters, as transformers counts them: layers, experts, final norm, embedding, output projection."""
        return self.layer_parameters + self.expert_parameters + self.hidden + self.embedding * (1 if self.tied else 2)

    @property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied with: L h (2q + 2k), 3 h f or h E + K 3 h m a layer, and V h at the end.

        Looking up the embedding, norms and biases are not matrix products; of the experts K count.
        """
        dense = 3 * self.hidden * self.ffn
        sparse = self.hidden * self.experts + self.top_k * 3 * self.hidden * self.moe_ffn
        return (
            self.layers * self.hidden * 2 * (self.q + self.kv)
            + (self.layers - self.sparse_layers) * dense
            + self.sparse_layers * sparse
            + self.embedding
        )

    def lora_parameters(self, rank: int, targets: Sequence[str], fused: bool = False) -> int:
        """Parameters of adapters on the layers `targets`: rank (in + out) for each linear layer, A and B.

        fused: as NeMo 2.0 lays them, whose queries, keys and values share one A, as do gate and up (linear_qkv and
        linear_fc1; NeMo 8cfedd7 nemo/collections/llm/peft/lora.py). Raises Failure for a target that the experts of a
        layer take the place of, or that is not fused whole.
        """
        if self.sparse_layers and {"gate_proj", "up_proj", "down_proj"} & set(targets):
            raise Failure("the size of adapters on experts is not known here; take them out of LORA_TARGETS")
        h, q, kv, f = self.hidden, self.q, self.kv, self.ffn
        sizes = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        sizes |= {"gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}
        columns = 0
        for group in FUSED if fused else [(name,) for name in sizes]:
            present = [name for name in group if name in targets]
            if present and len(present) != len(group):
                raise Failure(f"NeMo 2.0 has {','.join(group)} in one layer; name all of them in LORA_TARGETS or none")
            columns += sum(sizes[name][1] for name in present) + (sizes[group[0]][0] if present else 0)
        return self.layers * rank * columns

    def flops(self, tokens: float, squares: float, lora: int = 0) -> float:
        """Model FLOPs of training on rows of `tokens` tokens in all, the squares of whose lengths sum to `squares`.

        6 matmul_parameters tokens + 6 L q squares. A multiply-add is 2 operations, and the backward pass takes twice
        the forward pass, hence 6 a weight. In attention the forward pass takes 2 q t^2 for the scores and as much for
        the weighted sum of a row of t tokens; causal masking halves both, 2 q t^2, and with the backward pass it is
        6 q t^2 a layer. Packed rows attend only within themselves, so t is the row's own length. What activation
        recomputation adds is not counted: it is the hardware's work, not the model's (Korthikanti et al. 2022, section
        6). NeMo-RL's own counter (v0.7.0 nemo_rl/utils/flops_formulas.py) differs for Qwen2, whose keys and values it
        takes for as wide as the queries, and for experts, whose number and width it does not look at.

        lora: the parameters of an adapter, which alone is trained. A frozen weight still passes the gradient on to
        what came before it, but gets none itself: of the backward pass one half remains, and 6 a weight become 4. The
        adapter's own weights take 6, and attention, which has no weights, what it always takes: 4 matmul_parameters
        tokens + 6 lora tokens + 6 L q squares. Exact except for the first layer's queries, keys and values: before them
        nothing is trained.
        """
        weights = 4 * self.matmul_parameters + 6 * lora if lora else 6 * self.matmul_parameters
        return weights * tokens + 6 * self.layers * self.q * squares


# Linear layers that are one in Megatron: linear_qkv, linear_proj, linear_fc1, linear_fc2.
FUSED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def from_config(config: Config, where: object) -> Shape:
    """The shape in a config.json of transformers. Raises Failure for a model type whose parts are not known here."""
    kind = config.get("model_type")
    if kind not in ("llama", "qwen2", "qwen3", "qwen3_moe"):
        raise Failure(f"{where}: model_type {kind} is not known to python/sft/plan/shapes.py; add its parameters there")
    try:
        layers, hidden, heads = (int(config[k]) for k in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
        bias, qwen3 = bool(config.get("attention_bias")), kind.startswith("qwen3")
        experts = int(config.get("num_experts") or config.get("num_local_experts") or 0) if kind == "qwen3_moe" else 0
        every, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
        sparse = sum(experts > 0 and i not in dense and (i + 1) % every == 0 for i in range(layers))
        return Shape(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or (128 if qwen3 else hidden // heads)),
            ffn=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or kind == "qwen2",
            out_bias=bias,
            mlp_bias=kind == "llama" and bool(config.get("mlp_bias")),
            qk_norm=qwen3,
            sparse_layers=sparse,
            experts=experts,
            top_k=int(config["num_experts_per_tok"]) if experts else 0,
            moe_ffn=int(config["moe_intermediate_size"]) if experts else 0,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Failure(f"{where}: {type(error).__name__}: {error}; restore the file: make model") from None


def _config(kind: str, layers: int, hidden: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any) -> Config:
    return more | {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocab,
    }


# Source of each: config.json of the repository on huggingface.co. A test holds the parameters that follow against the
# number in the repository's safetensors.
PUBLISHED = {
    "Qwen/Qwen2.5-1.5B": _config("qwen2", 28, 1536, 12, 2, 8960, 151936, tie_word_embeddings=True),
    "Qwen/Qwen2.5-7B": _config("qwen2", 28, 3584, 28, 4, 18944, 152064),
    "Qwen/Qwen2.5-14B": _config("qwen2", 48, 5120, 40, 8, 13824, 152064),
    "Qwen/Qwen2.5-32B": _config("qwen2", 64, 5120, 40, 8, 27648, 152064),
    "meta-llama/Llama-3.1-8B": _config("llama", 32, 4096, 32, 8, 14336, 128256),
    "meta-llama/Meta-Llama-3-8B": _config("llama", 32, 4096, 32, 8, 14336, 128256),
    "Qwen/Qwen3-8B": _config("qwen3", 36, 4096, 32, 8, 12288, 151936, head_dim=128),
    "Qwen/Qwen3-30B-A3B": _config(
        "qwen3_moe",
        48,
        2048,
        32,
        4,
        6144,
        151936,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
}


def published(name: str) -> tuple[str, Shape] | None:
    """(repository, shape) of a base model by its name; its Math, Base and Instruct variants have the same shape."""
    key = re.sub(r"-(Math|Base|Instruct)(?=-|$)", "", name)
    return (key, from_config(PUBLISHED[key], key)) if key in PUBLISHED else None


def random_shape(chat: str, layers: int, hidden: int, heads: int, vocab: int) -> Shape:
    """What model.random_base makes for the recipe's CHAT: f = 4 h and tied embeddings.

    llama3: a Llama with half the heads for keys, see tiny_reasoning.write_model; else a Qwen2 with all of them.
    """
    kind, kv = ("llama", max(1, heads // 2)) if chat == "llama3" else ("qwen2", heads)
    return from_config(_config(kind, layers, hidden, heads, kv, 4 * hidden, vocab, tie_word_embeddings=True), "")


def read(folder: Path) -> Shape | None:
    """The shape of the model in a folder; None where there is no config.json."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    return from_config(read_json(path), path)
