"""Our shapes in the words of transformers, for each family of models.

They differ in patches (14 and 16 px), windows of the vision tower (Qwen2.5-VL only), states of the
tower that are added to the first language layers (Qwen3-VL only), and in how rotary frequencies are
dealt to time, height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentvla_core.vlm import tokenizer as tokenizers
from latentvla_core.vlm.config import MERGE, PATCH_PX, Family, VlmConfig

ROW_MULTIPLE = 64  # table sizes that matrix units like
PUBLISHED_IDS = {
    tokenizers.PADDING: 151_643,
    tokenizers.END_OF_TURN: 151_645,
    tokenizers.VISION_START: 151_652,
    tokenizers.VISION_END: 151_653,
    tokenizers.IMAGE_PAD: 151_655,
    tokenizers.VIDEO_PAD: 151_656,
}
"""Control-token ids of the published vocabulary, to build the paper's shape without its files."""


def network_class(family: Family) -> Any:
    """The transformers class of a family."""
    import transformers

    names = {
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
    }
    return getattr(transformers, names[family])


def qwen_config(config: VlmConfig, tokenizer: Any | None = None) -> Any:
    """The transformers configuration of our shapes; without a tokenizer, with the published
    vocabulary's ids.
    """
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

    ids = (
        PUBLISHED_IDS
        if tokenizer is None
        else {n: tokenizer.convert_tokens_to_ids(n) for n in PUBLISHED_IDS}
    )
    rows = config.text.vocab_rows or -(-len(tokenizer or ()) // ROW_MULTIPLE) * ROW_MULTIPLE
    common = {
        "image_token_id": ids[tokenizers.IMAGE_PAD],
        "video_token_id": ids[tokenizers.VIDEO_PAD],
        "vision_start_token_id": ids[tokenizers.VISION_START],
        "vision_end_token_id": ids[tokenizers.VISION_END],
        "tie_word_embeddings": True,
    }
    text, vision = _text(config, rows, ids), _vision(config)
    if config.family == "qwen3_vl":
        return Qwen3VLConfig(text_config=text, vision_config=vision, **common)
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)


def _text(config: VlmConfig, rows: int, ids: Mapping[str, int]) -> dict[str, Any]:
    text, is_third = config.text, config.family == "qwen3_vl"
    rope = {
        "rope_type": "default",
        "mrope_section": list(text.mrope_section),
        "rope_theta": text.rope_theta,
    }
    own = {"head_dim": text.hidden_size // text.heads} if is_third else {}
    return own | {
        "vocab_size": rows,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.ffn_size,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "max_position_embeddings": text.max_positions,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids[tokenizers.END_OF_TURN],
        "pad_token_id": ids[tokenizers.PADDING],
        "rope_parameters": rope | ({"mrope_interleaved": True} if is_third else {}),
    }


def _vision(config: VlmConfig) -> dict[str, Any]:
    vision = config.vision
    if config.family == "qwen3_vl":
        own = {"deepstack_visual_indexes": list(vision.deepstack_layers)}
    else:
        own = {
            "window_size": vision.window_px,
            "fullatt_block_indexes": list(vision.full_attention_layers),
        }
    return own | {
        "depth": vision.layers,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.ffn_size,
        "num_heads": vision.heads,
        "out_hidden_size": config.text.hidden_size,
        "patch_size": PATCH_PX[config.family],
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
