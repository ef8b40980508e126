"""The network, tiny but of the real classes: batches, training, decoding, folders."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from vlm_worlds import scenes, without_pictures

from latentvla_core.errors import DataError, SetupError
from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import ListSink
from latentvla_core.vlm import features as vlm_features
from latentvla_core.vlm import network as model
from latentvla_core.vlm import tokenizer, tokens
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.evaluation import compare, evaluate
from latentvla_core.vlm.model import Vlm, load
from latentvla_core.vlm.network import answer_logits
from latentvla_core.vlm.predict import decode
from latentvla_core.vlm.processor import VlmBatch
from latentvla_core.vlm.samples import VlmSample, build_samples, code_frequencies
from latentvla_core.vlm.train import answer_loss, train_vlm

torch.set_num_threads(1)
CONFIG = VlmConfig.debug()


@cache
def world() -> tuple[list, np.ndarray]:
    """Eight scenes with pictures, one of them seen by the front camera alone."""
    records, codes = scenes(8, Path(mkdtemp(prefix="vlm_")), seed=5, size_wh=CONFIG.image_size_wh)
    records[3] = without_pictures(records[3], ("CAM_F0",))
    return records, codes


@cache
def samples() -> list[VlmSample]:
    return build_samples(*world(), CONFIG)


@cache
def fresh() -> Vlm:
    """An untrained model with matrices scaled up: attention looks at something, choices vary and
    are far from ties.
    """
    network, processor = model.build(CONFIG)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    return Vlm(CONFIG, network.eval(), processor, code_frequencies(world()[1]))


@cache
def batch(with_answers: bool = False) -> VlmBatch:
    records, codes = world()
    return fresh().processor.batch(
        samples(), ImageCache(CONFIG.image_size_wh), codes if with_answers else None
    )


def weights(vlm: Vlm, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        name: p.detach().clone()
        for name, p in vlm.network.named_parameters()
        if name.startswith(prefix)
    }


# ---- batches


def test_the_tiny_tokenizer_is_the_same_every_time_and_keeps_action_tokens_whole():
    one, two = tokenizer.build_tiny(), tokenizer.build_tiny()
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    assert tokens.add_to(one) == 16
    assert tokens.add_to(one) == 0
    ids = tokens.ids(one)
    assert one(tokens.encode(range(16)), add_special_tokens=False)["input_ids"] == list(ids)
    with pytest.raises(SetupError, match="add_to"):
        tokens.ids(two)


def test_pictures_become_what_qwen_s_own_processor_makes_of_them():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 56, 84, 3)).astype(np.uint8)
    own, grid = fresh().processor.pixels(pictures)
    stock = fresh().processor.image_processor(list(pictures), return_tensors="pt")
    assert torch.equal(grid, stock["image_grid_thw"])
    assert torch.allclose(own, stock["pixel_values"], atol=1e-5)


def test_each_picture_takes_as_many_tokens_as_the_vision_tower_gives():
    made = batch()
    views = torch.tensor([len(s.cameras) for s in samples()])
    assert torch.equal((made.mm_token_type_ids == 1).sum(1), views * CONFIG.tokens_per_view)
    assert len(made.image_grid_thw) == views.sum()
    assert fresh().network.model.visual(
        made.pixel_values, grid_thw=made.image_grid_thw
    ).pooler_output.shape[0] == (views.sum() * CONFIG.tokens_per_view)


def test_answers_stand_in_the_last_columns_and_end_the_turn():
    made, codes = batch(True), world()[1]
    ids = torch.tensor(tokens.ids(fresh().processor.tokenizer))
    assert torch.equal(made.input_ids[:, -13:-1], ids[torch.from_numpy(codes).long()])
    assert (made.input_ids[:, -1] == fresh().processor.end_id).all()
    assert torch.equal(made.labels, made.input_ids[:, -13:])


def test_token_types_decide_positions_and_logits():
    made = batch(True)
    plain = made._replace(mm_token_type_ids=torch.zeros_like(made.mm_token_type_ids))
    with torch.inference_mode():
        difference = (
            (answer_logits(fresh().network, made) - answer_logits(fresh().network, plain))
            .abs()
            .max()
        )
    assert difference > 0.01


# ---- loss


def test_the_loss_is_the_likelihood_of_the_answer_and_of_nothing_else():
    made = batch(True)
    labels = torch.full_like(made.input_ids, -100)
    labels[:, -13:] = made.labels
    inputs = {name: value for name, value in made._asdict().items() if name != "labels"}
    with torch.inference_mode():
        own, _ = answer_loss(fresh(), made)
        stock = fresh().network(**inputs, labels=labels).loss
    assert float(own) == pytest.approx(float(stock), rel=1e-5)


# ---- decoding


def test_decoding_equals_transformers_own_generation_under_the_same_mask():
    ids = list(fresh().processor.action_ids)
    inputs = {name: value for name, value in batch()._asdict().items() if name != "labels"}
    out = fresh().network.generate(
        **inputs,
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda i, sequence: ids,
        return_dict_in_generate=True,
        output_logits=True,
    )
    own = decode(fresh(), batch())
    assert torch.equal(torch.tensor(ids)[own.codes], out.sequences[:, -12:])
    assert torch.allclose(own.logits, torch.stack(out.logits, 1)[..., ids], atol=1e-3)


def test_states_of_generated_tokens_equal_those_of_one_pass_over_the_same_tokens():
    vlm = Vlm(
        replace(CONFIG, read_out="final_norm"),
        fresh().network,
        fresh().processor,
        fresh().code_frequencies,
    )
    own = decode(vlm, batch())
    again = vlm.processor.batch(samples(), ImageCache(CONFIG.image_size_wh), own.codes.numpy())
    inputs = {name: value for name, value in again._asdict().items() if name != "labels"}
    with torch.inference_mode():
        positions, _ = vlm.network.model.get_rope_index(
            again.input_ids,
            again.mm_token_type_ids,
            again.image_grid_thw,
            attention_mask=again.attention_mask,
        )
        states = vlm.network.model(**inputs, position_ids=positions).last_hidden_state
    assert torch.allclose(own.action_states, states[:, -13:-1], atol=1e-4)
    assert torch.allclose(own.question_states[:, -5:], states[:, -18:-13], atol=1e-4)


def test_always_twelve_valid_codes_of_unit_rms_states():
    found = fresh().predict(samples(), batch_size=4)
    assert found.codes.shape == (8, 12)
    assert found.codes.min() >= 0
    assert found.codes.max() < 16
    assert found.valid.all()
    assert len(np.unique(found.codes)) > 2
    assert np.allclose(np.square(found.action.astype(float)).mean(-1), 1.0, atol=0.01)
    assert np.isfinite(found.visual).all()
    assert found.visual.shape == (8, CONFIG.num_visual_tokens, fresh().width)


def test_alone_or_in_a_batch_gives_the_same():
    together = fresh().predict(samples(), batch_size=8)
    alone = fresh().predict(samples(), batch_size=1)
    assert np.array_equal(together.codes, alone.codes)
    assert np.allclose(together.logits, alone.logits, atol=1e-3)
    assert np.allclose(together.action.astype(float), alone.action.astype(float), atol=0.01)
    assert np.allclose(together.visual.astype(float), alone.visual.astype(float), atol=0.01)


def test_labels_and_future_change_nothing_that_planners_read():
    records, codes = world()
    changed = [
        replace(r, future_poses=r.future_poses[::-1] * 3.0, front_paths=r.front_paths[::-1])
        for r in records
    ]
    one = fresh().predict(samples(), batch_size=4)
    two = fresh().predict(build_samples(changed, 15 - codes, CONFIG), batch_size=4)
    for name in vlm_features.ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_pictures_matter():
    records, _ = world()
    swapped = list(records)
    front, left, right = records[0].camera_paths
    swapped[0] = replace(records[0], camera_paths=(left, front, right))
    one, two = (fresh().predict(build_samples(r, None, CONFIG)) for r in (records, swapped))
    assert not np.allclose(one.visual[0].astype(float), two.visual[0].astype(float), atol=1e-3)
    assert np.array_equal(one.visual[1:], two.visual[1:])


def test_prediction_changes_no_weight():
    before = weights(fresh())
    fresh().predict(samples()[:2])
    assert all(torch.equal(p, before[name]) for name, p in fresh().network.named_parameters())


def test_missing_and_damaged_pictures_make_invalid_rows_with_reasons(tmp_path):
    records, _ = scenes(3, tmp_path, seed=8, size_wh=CONFIG.image_size_wh)
    (tmp_path / records[0].camera_paths[1]).unlink()
    (tmp_path / records[1].camera_paths[0]).write_bytes(b"not a picture")
    found = fresh().predict(build_samples(records, None, CONFIG))
    assert found.valid.tolist() == [False, False, True]
    assert records[0].camera_paths[1] in found.reasons[0]
    assert records[1].camera_paths[0] in found.reasons[1]
    assert (found.codes[:2] == -1).all()
    assert not found.visual[:2].any()


# ---- training


def test_a_run_cut_in_two_equals_one_run(tmp_path):
    config = with_training(CONFIG, steps=4)
    whole = train_vlm(samples(), config)
    train_vlm(samples(), config, checkpoint_dir=tmp_path, until=2)
    resumed = train_vlm(samples(), config, checkpoint_dir=tmp_path)
    assert resumed.metrics["steps"] == 4
    assert all(torch.equal(p, weights(whole)[n]) for n, p in resumed.network.named_parameters())


def test_pictures_decoded_on_their_way_train_the_same_weights():
    whole = train_vlm(samples(), CONFIG)
    sink = ListSink()
    streamed = train_vlm(samples(), replace(CONFIG, batches_ahead=2), sink=sink)
    assert all(torch.equal(p, weights(whole)[n]) for n, p in streamed.network.named_parameters())
    assert all(
        0 <= a <= b for a, b in zip(sink.series("load_s"), sink.series("step_s"), strict=True)
    )


def test_a_picture_that_breaks_on_its_way_leaves_its_batch_and_is_counted(tmp_path):
    records, codes = scenes(4, tmp_path, seed=8, size_wh=CONFIG.image_size_wh)
    (tmp_path / records[1].camera_paths[0]).write_bytes(b"not a picture")
    stream = replace(CONFIG, batches_ahead=2)
    trained = train_vlm(build_samples(records, codes, stream), stream)
    assert trained.metrics["unreadable"] == 1
    for record in records:
        (tmp_path / record.camera_paths[0]).write_bytes(b"nor this")
    with pytest.raises(DataError, match="whole batch"):
        train_vlm(build_samples(records, codes, stream), stream)


@pytest.mark.slow
def test_training_learns_the_answers_of_a_few_scenes():
    config = with_training(CONFIG, epochs=0, steps=60, batch_size=4, learning_rate=2e-2)
    sink = ListSink()
    vlm = train_vlm(samples()[4:], config, sink=sink)
    losses = sink.series("loss")
    assert losses[-1] < 0.3 * losses[0]
    metrics = evaluate(vlm, samples()[4:])
    assert metrics["samples"] == 4
    assert metrics["token_accuracy"] > metrics["marginal_accuracy"]
    assert metrics["nll"] < metrics["marginal_nll"]


def test_a_frozen_vision_tower_stays_as_it_was():
    config = replace(CONFIG, freeze_vision=True)
    before, _ = model.build(config)
    after = train_vlm(samples(), config)
    then, now = before.model.visual.state_dict(), after.network.model.visual.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in then.items())
    table = after.network.get_input_embeddings().weight
    assert not torch.equal(before.get_input_embeddings().weight, table)


def test_lora_trains_thin_matrices_and_new_rows_and_merges_them():
    config = replace(CONFIG, lora_rank=2, freeze_vision=True, gradient_checkpointing=True)
    before, processor = model.build(config)
    vlm = train_vlm(samples(), config)
    rows = list(processor.action_ids)
    then, now = before.get_input_embeddings().weight, vlm.network.get_input_embeddings().weight
    assert not torch.equal(then[rows], now[rows])
    assert torch.equal(then[: rows[0]], now[: rows[0]])
    query = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before.get_parameter(query), vlm.network.get_parameter(query))
    assert not [n for n, _ in vlm.network.named_parameters() if "lora" in n]
    assert vlm.predict(samples()[:2]).valid.all()


def test_lora_starts_from_the_seed_whatever_was_drawn_before():
    config = replace(CONFIG, lora_rank=2)

    def start(seed: int, drawn: int) -> dict[str, torch.Tensor]:
        torch.rand(drawn)
        network, processor = model.build(config)
        wrapped = model.add_lora(network, with_training(config, seed=seed), processor.action_ids)
        return {n: p.detach() for n, p in wrapped.named_parameters() if "lora_A" in n}

    first, again, other = start(1, 3), start(1, 50), start(2, 3)
    assert first
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not any(torch.equal(value, other[name]) for name, value in first.items())


def test_scenes_without_label_are_not_trained_on():
    records, codes = world()
    codes = codes.copy()
    codes[2:] = -1
    assert train_vlm(build_samples(records, codes, CONFIG), CONFIG).metrics["samples"] == 2


# ---- folders


def test_a_saved_model_says_the_same_after_loading_offline(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    fresh().save(tmp_path, {"note": "x"})
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    again = load(tmp_path)
    one, two = fresh().predict(samples()), again.predict(samples())
    assert np.array_equal(one.logits, two.logits)
    assert again.config == CONFIG
    assert np.allclose(again.code_frequencies, fresh().code_frequencies)
    with pytest.raises(SetupError, match="no readable model"):
        load(tmp_path / "elsewhere")


def pretend_checkpoint(folder: Path, spare_rows: int) -> tuple[int, int]:
    """A folder as a 3B download looks, tiny: tokenizer without action tokens, table padded;
    (tokens, rows).
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    known = tokenizer.build_tiny()
    rows = len(known) + spare_rows
    shape = model.qwen_config(replace(CONFIG, text=replace(CONFIG.text, vocab_rows=rows)), known)
    torch.manual_seed(3)
    Qwen2_5_VLForConditionalGeneration(shape).save_pretrained(folder)
    known.save_pretrained(folder)
    model.load_image_processor(None).save_pretrained(folder)
    return len(known), rows


def pretrained(folder: Path) -> VlmConfig:
    return replace(
        CONFIG,
        backend="pretrained",
        pretrained_path=str(folder),
        text=replace(CONFIG.text, vocab_rows=1),
    )


def test_action_tokens_move_into_spare_rows_of_a_checkpoint_and_the_table_keeps_its_size(tmp_path):
    known, rows = pretend_checkpoint(tmp_path, spare_rows=100)
    network, processor = model.build(pretrained(tmp_path))
    table = network.get_input_embeddings().weight.detach()
    assert table.shape[0] == rows
    assert processor.action_ids == tuple(range(known, known + 16))
    assert network.lm_head.weight is network.get_input_embeddings().weight
    mean, typical = table[:known].mean(0), table[:known].norm(dim=1).mean()
    new = table[known : known + 16]
    assert (new - mean).norm(dim=1).max() < typical
    assert len(torch.unique(new, dim=0)) == 16


def test_the_table_grows_only_when_there_is_no_room(tmp_path):
    known, rows = pretend_checkpoint(tmp_path, spare_rows=3)
    network, processor = model.build(pretrained(tmp_path))
    assert network.get_input_embeddings().num_embeddings >= known + 16 > rows
    assert max(processor.action_ids) < network.get_input_embeddings().num_embeddings


def test_a_checkpoint_folder_trains_saves_and_comes_back(tmp_path):
    pretend_checkpoint(tmp_path / "base", spare_rows=100)
    vlm = train_vlm(samples(), pretrained(tmp_path / "base"))
    vlm.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "base")  # a trained model stands alone
    again = load(tmp_path / "model")
    assert np.array_equal(vlm.predict(samples()).logits, again.predict(samples()).logits)
    # its network folder is a checkpoint itself, whose action rows are kept
    network, _ = model.build(pretrained(tmp_path / "model" / "network"))
    assert torch.equal(
        network.get_input_embeddings().weight, vlm.network.get_input_embeddings().weight
    )


def test_a_missing_checkpoint_folder_says_what_to_do(tmp_path):
    with pytest.raises(SetupError, match="pretrained_path"):
        model.build(replace(pretrained(tmp_path), pretrained_path=""))
    with pytest.raises(SetupError, match="no such folder"):
        model.build(pretrained(tmp_path / "nothing"))


# ---- features and evaluation


def test_features_survive_rows_folders_and_reordering(tmp_path):
    found = fresh().predict(samples(), batch_size=8)
    flat = [
        {**row, "visual": row["visual"].ravel(), "action": row["action"].ravel()}
        for row in found.rows()
    ]
    for again in (vlm_features.from_rows(flat), vlm_features.load(found.save(tmp_path))):
        assert again.scene_tokens == found.scene_tokens
        for name in vlm_features.ARRAYS:
            assert np.array_equal(getattr(again, name), getattr(found, name)), name
    other = found.aligned([found.scene_tokens[5], "unknown", found.scene_tokens[0]])
    assert other.valid.tolist() == [True, False, True]
    assert "no features" in other.reasons[1]
    assert np.array_equal(other.codes[2], found.codes[0])


def test_scores_against_labels_by_hand():
    codes = np.zeros((4, 12), np.int8)
    codes[0, 0] = 5
    made = vlm_features.empty(["a", "b", "c", "d"], 1, 2, "")
    made.codes[:] = 0
    frequencies = code_frequencies(codes)
    found = compare(made, codes, frequencies)
    assert found["token_accuracy"] == pytest.approx(47 / 48)
    assert found["marginal_accuracy"] == pytest.approx(47 / 48)
    assert found["sequence_accuracy"] == pytest.approx(3 / 4)
    assert frequencies.sum(1) == pytest.approx(np.ones(12))
    assert frequencies[0, 5] == pytest.approx(1.5 / 12)
