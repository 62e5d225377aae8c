"""Recipes: what each size has, the paper's numbers, what starts from what, and nano's size."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from helpers_train import tiny_whole

from emu2 import presets, recipes
from emu2.data.readers import FORMATS
from emu2.data.settings import DataConfig
from emu2.decoder.conditioning import with_places
from emu2.decoder.presets import unet_config, vae_config, video_unet_config
from emu2.decoder.video_unet import FilmUNet, predict_clip
from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.recipes.checks import check_folder, check_start, context_of, size_of
from emu2.recipes.fresh import add_video_decoder
from emu2.recipes.stage import started
from emu2.recipes.start import kind_of, open_sources, start_whole
from emu2.world.world import KINDS

ALL = [(size, name) for size in recipes.SIZES for name in recipes.names(size)]
STAGES = {"vision", "language", "caption", "unified", "autoencoder", "decoder", "video_decoder", "chat", "gen"}


def test_every_stage_has_a_recipe_at_every_size():
    assert set(recipes.names("debug")) == STAGES
    assert set(recipes.names("nano")) == STAGES | {"reading"}
    # The paper's size starts from public parts, and its first and last stages come in two forms.
    assert set(recipes.names("37b")) == STAGES - {"vision", "language", "autoencoder"} | {"caption_448", "gen_quality"}


@pytest.mark.parametrize(("size", "name"), ALL)
def test_a_recipe_reads_kinds_that_exist(size, name):
    data = recipes.recipe(name, size).data
    for kind in data.kinds:
        if size == "37b":
            assert kind_of(kind) in FORMATS[data.sources[kind]["format"]].kinds
        else:
            assert kind_of(kind) in KINDS
    assert sum(data.kinds.values()) == pytest.approx(1.0, abs=0.02)


#: Recipe -> what tables 6 to 9 of the paper say: steps, rate, betas, eps, clip, warmup, batches.
PAPER = {
    "caption": (35_200, 3e-5, (0.9, 0.95), 1e-6, 5.0, 704, {"pair": 6144, "video_pair": 768}),
    "caption_448": (4000, 3e-5, (0.9, 0.95), 1e-6, 5.0, 80, {"pair": 6144, "video_pair": 768}),
    "unified": (
        *(20_350, 1e-5, (0.9, 0.95), 1e-6, 5.0, 2035),
        {"pair": 12_800, "video_pair": 6400, "document": 3200, "storyboard": 3200, "text": 800},
    ),
    "decoder": (8000, 1e-4, (0.9, 0.999), 1e-8, 1.0, 2000, {"pair": 2048}),
    "chat": (8000, 1e-5, (0.9, 0.98), 1e-6, 5.0, 100, {"chat/vqav2": 768}),
    "gen": (
        *(3000, 5e-5, (0.9, 0.95), 1e-6, 1.0, 100),
        {"text_to_image": 4096, "grounded_generation": 3584, "edit": 2048},
    ),
    "gen_quality": (
        *(900, 1e-5, (0.9, 0.95), 1e-6, 1.0, 0),
        {"text_to_image": 2048, "grounded_generation": 1024, "edit": 2048},
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(name):
    steps, rate, betas, eps, clip, warmup, batches = PAPER[name]
    config = recipes.recipe(name, "37b")
    optim = config.optim
    assert (config.steps, optim.lr, optim.betas, optim.eps) == (steps, rate, betas, eps)
    assert (optim.clip_norm, optim.warmup_steps) == (clip, warmup)
    assert {kind: config.data.batch_sizes.get(kind, config.data.batch_size) for kind in batches} == batches
    assert optim.part_lr == ({"vision": 5e-5, "language": 3e-5, "bridge": 1e-4} if name.startswith("caption") else {})
    assert ("vision" in config.parts) == name.startswith("caption")


def test_what_else_the_paper_says():
    assert recipes.recipe("caption", "37b").resolution == 224
    assert {recipes.recipe(name, "37b").resolution for name in ("caption_448", "unified", "chat", "gen")} == {448}
    chat = recipes.recipe("chat", "37b")
    assert (chat.num_query, chat.data.frames, chat.data.frame_choice, chat.data.max_length) == (
        *(256, (8, 12, 16), "uniform"),
        2048,
    )
    decoder = recipes.recipe("decoder", "37b")
    assert (decoder.diffusion.drop_embeddings, decoder.diffusion.noise_offset) == (0.1, 0.1)
    assert (decoder.optim.warmup_shape, decoder.optim.schedule, decoder.optim.weight_decay) == ("log", "linear", 0.01)


def test_micro_batches_learn_the_same_batch():
    whole = recipes.recipe("unified", "37b")
    parts = recipes.accumulated(whole, 50)
    assert parts.accumulation == 50
    assert (parts.data.batch_size, parts.data.batch_sizes["text"]) == (256, 16)
    with pytest.raises(ValueError, match=r"3 micro-batches do not divide the batch of 12800 \(batch_size\)"):
        recipes.accumulated(whole, 3)


def test_all_of_nano_takes_less_than_64_megabytes():
    def numbers(module):
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        # 1536 words and bytes, 272 + 2 special tokens
        model = Emu2ForConditionalGeneration(presets.nano(vocab_size=1810, first_special_id=1536))
        shared = [
            model.model.visual,
            AutoencoderKL.from_config(vae_config("nano")),
            UNet2DConditionModel.from_config(unet_config("nano")),
        ]
        over_time = FilmUNet.from_config(video_unet_config("nano")).temporal_weights().values()
        variants = 3 * (numbers(model) - numbers(model.model.visual))
    assert model.config.vision_config.image_size >= 96
    bfloat16, tokeniser = 2, 200_000
    temporal = sum(tensor.numel() for tensor in over_time)
    assert bfloat16 * (sum(map(numbers, shared)) + temporal + variants) + tokeniser < 64e6


@torch.no_grad()
def test_the_decoders_of_nano_fit_each_other():
    vae = AutoencoderKL.from_config(vae_config("nano"))
    unet = UNet2DConditionModel.from_config(unet_config("nano"))
    video = FilmUNet.of_image_unet(unet)
    latents = vae.encode(torch.zeros(1, 3, 96, 96)).latent_dist.mean
    assert vae.decode(latents).sample.shape == (1, 3, 96, 96)
    embeddings = torch.zeros(1, 16, 256)
    conditions = {"text_embeds": torch.zeros(1, 256), "time_ids": torch.zeros(1, 6)}
    noisy = with_places(latents, embeddings, unet.config.in_channels)
    drawn = unet(noisy, 5, encoder_hidden_states=embeddings, added_cond_kwargs=conditions).sample
    assert drawn.shape == latents.shape
    clip = latents[:, :, None].expand(-1, -1, 2, -1, -1)
    assert predict_clip(video, clip, 5, embeddings, (96, 96)).shape == clip.shape


def test_a_stage_adds_what_it_needs(tmp_path):
    base = tiny_whole()
    base.video_unet = base.video_scheduler = None
    base.save(tmp_path / "base")
    assert start_whole(recipes.recipe("chat"), tmp_path / "base").text_tower is None
    with pytest.raises(ValueError, match="has no video decoder to train, and one is made from nothing only for"):
        start_whole(recipes.recipe("video_decoder"), tmp_path / "base")
    assert start_whole(recipes.recipe("vision"), tmp_path / "base").text_tower is not None
    with pytest.raises(ValueError, match=r"'debug' and 'nano' start from nothing; got '37b'. Give a model folder"):
        start_whole(recipes.recipe("caption", "37b"), None)
    assert size_of(tmp_path / "base") == "debug"
    assert context_of(tmp_path / "base") == 128
    assert size_of(tmp_path) is None


def test_a_stage_is_not_started_from_the_wrong_kind_of_folder(tmp_path):
    def folder(name, file, text="{}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
        return tmp_path / name

    cases = [
        (tmp_path / "nowhere", "There is no model folder"),
        (folder("lora", "adapter_config.json"), "holds an adapter, not a model. Merge it"),
        (folder("step", "state.json"), "a checkpoint in the middle of a run"),
        (folder("run", "config.json", '{"objective": "caption"}'), "a run's folder, not a model. Its run is not fin"),
        (folder("llama", "config.json", '{"model_type": "llama"}'), "a model of the type 'llama', not an Emu2"),
    ]
    for path, message in cases:
        with pytest.raises(ValueError, match=message):
            check_folder(path)
    (tmp_path / "run" / "model").mkdir()
    with pytest.raises(ValueError, match=r"a run's folder, not a model. Give .*run/model"):
        check_folder(tmp_path / "run")


def test_drawing_stages_do_not_start_from_a_chat_model():
    whole = tiny_whole()
    whole.model.config.num_query = 16
    with pytest.raises(ValueError, match="chat model: it takes 16 embeddings of a picture, and drawing goes by 4"):
        check_start(recipes.recipe("gen"), whole, "folder")
    check_start(recipes.recipe("chat"), whole, "folder")


def test_a_kind_may_have_a_world_of_its_own():
    data = DataConfig(
        kinds={"pair": 0.5, "pair/few": 0.4, "text": 0.1},
        image_size=16,
        worlds={"pair/few": {"concepts": ["dog face"]}},
    )
    sources = open_sources(data)
    few = [sources["pair/few"][index] for index in range(12)]
    assert all("dog" in record.truth["caption"] for record in few)
    assert not all("dog" in sources["pair"][index].truth["caption"] for index in range(12))
    assert few[0].key != sources["pair"][0].key
    with pytest.raises(ValueError, match=r"data.worlds names 'chat', which data.kinds does not weigh; it weighs pair"):
        DataConfig(worlds={"chat": {}})


def test_a_source_without_data_is_named():
    data = DataConfig(kinds={"chat/mine": 1.0}, sources={"chat/mine": {"format": "llava", "path": "nowhere.jsonl"}})
    with pytest.raises(ValueError, match=r"data.sources.chat/mine: No data found: .*nowhere.jsonl"):
        open_sources(data)
    with pytest.raises(ValueError, match=r"data.sources names 'chat', which data.kinds does not weigh; it weighs pair"):
        DataConfig(sources={"chat": {}})
    with pytest.raises(ValueError, match=r'data.batch_sizes needs data.mode="one_kind"'):
        DataConfig(batch_sizes={"pair": 3})
    with pytest.raises(ValueError, match=r"data.opening names 'chat', which data.kinds does not weigh"):
        DataConfig(opening={"chat": 3})
    with pytest.raises(ValueError, match=r"data.opening gives a number of steps.*got 'text': 3, of weight 0"):
        DataConfig(kinds={"pair": 1.0, "text": 0.0}, opening={"text": 3})


def test_a_stage_takes_the_vision_tower_of_another(tmp_path):
    base, other = tiny_whole(), tiny_whole()
    with torch.no_grad():
        other.model.model.visual.pos_embed.add_(1.0)
    base.save(tmp_path / "base")
    other.save(tmp_path / "other")
    config = recipes.recipe("chat")
    whole = started(config, {"whole": str(tmp_path / "base"), "vision": str(tmp_path / "other")})
    assert torch.equal(whole.model.model.visual.pos_embed, other.model.model.visual.pos_embed)
    assert torch.equal(whole.model.model.project_up.weight, base.model.model.project_up.weight)


def test_the_video_decoder_of_nano_is_its_image_decoder_over_time():
    whole = tiny_whole()
    whole.video_unet = whole.video_scheduler = None
    whole.model.config.vision_config.hidden_size = 256  # of nano
    add_video_decoder(whole, seed=3)
    assert isinstance(whole.video_unet, FilmUNet)
    assert whole.video_unet.draws_as(whole.unet)
    assert whole.video_unet.conv_in.weight is not whole.unet.conv_in.weight
    whole.unet = None
    with pytest.raises(ValueError, match="its image decoder over time, and this model has no image decoder: train"):
        add_video_decoder(whole)
