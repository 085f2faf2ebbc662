"""SAM's two-way transformer without projecting the image tokens: the same weights, the same numbers, less work.

Letters: B cases, T prompt tokens, N image tokens, D width, H heads, c width of a head. While T * H < D it is cheaper to
carry the projections over to the tokens, q Wk and k Wq (T * H rows of D), than to project N image tokens. Shares of
attention are kept as (B, T * H, N): along N they are contiguous, which softmax and products want.

Source: segment_anything/modeling/transformer.py; values and gradients agree to 1e-6 of the largest.
"""

import math
from typing import Any

import torch
from torch import Tensor

from t2m_bench.models.products import add_weighted_rows, rows_times_tokens


def run_two_way(
    transformer: Any,
    image_tokens: Tensor,
    positions: Tensor,
    tokens: Tensor,
    kept: int,
    token_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Let prompt tokens and image tokens attend to each other.

    Args:
        transformer: segment_anything's `TwoWayTransformer`.
        image_tokens: (B, N, D); positions: (N, D), their positional encoding; tokens: (B, T, D).
        kept: the one prompt token that is asked for.
        token_bias: (B, T), added to each logit of attention over the prompt tokens: a token of bias log n counts as n
            tokens. None counts each once, as SAM does.

    Returns:
        that token (B, D), and the image tokens (B, N, D).
    """
    queries = tokens
    for layer in transformer.layers:
        queries = _attend_among_tokens(layer, queries, tokens, token_bias)
        keys = image_tokens + positions
        read = _read_image(layer.cross_attn_token_to_image, queries + tokens, keys, image_tokens)
        queries = layer.norm2(queries + read)
        queries = layer.norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        written = _write_image(attention, keys, queries + tokens, queries, image_tokens, token_bias)
        image_tokens = layer.norm4(written)
    token = queries[:, kept : kept + 1]
    query = token + tokens[:, kept : kept + 1]
    read = _read_image(transformer.final_attn_token_to_image, query, image_tokens + positions, image_tokens)
    return transformer.norm_final_attn(token + read)[:, 0], image_tokens


def _attend_among_tokens(layer: Any, queries: Tensor, tokens: Tensor, token_bias: Tensor | None) -> Tensor:
    placed = queries if layer.skip_first_layer_pe else queries + tokens
    if token_bias is None:
        attended: Tensor = layer.self_attn(q=placed, k=placed, v=queries)
    else:
        attended = _attend_with_bias(layer.self_attn, placed, queries, token_bias)
    if not layer.skip_first_layer_pe:
        attended = queries + attended
    normed: Tensor = layer.norm1(attended)
    return normed


def _attend_with_bias(attention: Any, placed: Tensor, values: Tensor, token_bias: Tensor) -> Tensor:
    """Run segment_anything's `Attention` on (B, T, D) with a bias (B, T) on the keys' logits."""
    heads = attention.num_heads
    query = attention.q_proj(placed).unflatten(-1, (heads, -1))  # (B, T, H, c)
    key = attention.k_proj(placed).unflatten(-1, (heads, -1))
    value = attention.v_proj(values).unflatten(-1, (heads, -1))
    logits = torch.einsum("bqhc,bkhc->bhqk", query, key) * _scale(key) + token_bias[:, None, None]
    share = logits.softmax(dim=-1).to(value.dtype)
    attended: Tensor = attention.out_proj(torch.einsum("bhqk,bkhc->bqhc", share, value).flatten(2))
    return attended


def _read_image(attention: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from query (B, T, D) to keys and values (B, N, D); the key's bias is the same for all N and drops out."""
    heads, num_tokens = attention.num_heads, query.shape[1]
    query = attention.q_proj(query).unflatten(-1, (heads, -1))  # (B, T, H, c)
    key_weight = attention.k_proj.weight.unflatten(0, (heads, -1))  # (H, c, D)
    probe = torch.einsum("bthc,hcd->bthd", query, key_weight).flatten(1, 2) * _scale(query)
    share = rows_times_tokens(probe, keys).softmax(dim=-1)  # (B, T * H, N)
    read = (share @ values).unflatten(1, (num_tokens, heads))  # (B, T, H, D)
    value_weight = attention.v_proj.weight.unflatten(0, (heads, -1))  # (H, c, D)
    value = torch.einsum("bthd,hcd->bthc", read, value_weight).flatten(2) + attention.v_proj.bias
    projected: Tensor = attention.out_proj(value)
    return projected


def _write_image(
    attention: Any,
    query: Tensor,
    token_keys: Tensor,
    token_values: Tensor,
    image_tokens: Tensor,
    token_bias: Tensor | None,
) -> Tensor:
    """Return image_tokens (B, N, D) plus what they read, as query (B, N, D), from the tokens (B, T, D)."""
    heads, num_tokens = attention.num_heads, token_keys.shape[1]
    key = attention.k_proj(token_keys).unflatten(-1, (heads, -1))  # (B, T, H, c)
    query_weight = attention.q_proj.weight.unflatten(0, (heads, -1))  # (H, c, D)
    query_bias = attention.q_proj.bias.unflatten(0, (heads, -1))  # (H, c)
    probe = torch.einsum("bthc,hcd->bthd", key, query_weight).flatten(1, 2) * _scale(key)
    offset = torch.einsum("bthc,hc->bth", key, query_bias) * _scale(key)
    if token_bias is not None:
        offset = offset + token_bias.unsqueeze(-1)
    logits = rows_times_tokens(probe, query) + offset.flatten(1).unsqueeze(-1)  # (B, T * H, N)
    share = logits.unflatten(1, (num_tokens, heads)).softmax(dim=1).flatten(1, 2)
    value = attention.v_proj(token_values).unflatten(-1, (heads, -1))  # (B, T, H, c)
    out_weight = attention.out_proj.weight.unflatten(1, (heads, -1))  # (D, H, c)
    mixed = torch.einsum("bthc,dhc->bthd", value, out_weight).flatten(1, 2)
    mixed = mixed + attention.out_proj.bias / heads  # a head's shares sum to 1, so this adds the bias once
    return add_weighted_rows(image_tokens, share, mixed)


def _scale(per_head: Tensor) -> float:
    return 1.0 / math.sqrt(per_head.shape[-1])
