# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Tiny pipelines that make videos or sound."""

import diffusers
import torch
from diffusers.pipelines.stable_audio import modeling_stable_audio

import zoo_parts
from zoo_parts import frozen, noise, seeded
from zoo_specimen import Specimen

_NINE_FRAMES_16: dict[str, object] = {"height": 16, "width": 16, "num_frames": 9}
_NINE_FRAMES_32: dict[str, object] = {"height": 32, "width": 32, "num_frames": 9}


def _flow(**config: object) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def _flow_unipc(shift: float) -> diffusers.UniPCMultistepScheduler:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def _wan_transformer(seed: int = 0) -> diffusers.WanTransformer3DModel:
    seeded(seed)
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return frozen(transformer)


def _wan_arguments() -> dict[str, object]:
    return {
        "prompt_embeds": noise(1, 16, 32, seed=1),
        "negative_prompt_embeds": noise(1, 16, 32, seed=2),
        "guidance_scale": 5.0,
    }


def wan() -> Specimen:
    """Keeps state on its VAE while it decodes."""
    pipeline = diffusers.WanPipeline(
        transformer=_wan_transformer(),
        vae=zoo_parts.wan_vae(),
        scheduler=_flow_unipc(3.0),
        text_encoder=None,
        tokenizer=None,
        transformer_2=None,
    )
    return Specimen(pipeline=pipeline, arguments={**_wan_arguments(), **_NINE_FRAMES_32})


def wan22() -> Specimen:
    """Hands over from one transformer to another between two steps."""
    pipeline = diffusers.WanPipeline(
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer(7),
        vae=zoo_parts.wan_vae(),
        scheduler=_flow_unipc(3.0),
        text_encoder=None,
        tokenizer=None,
        boundary_ratio=0.6,
    )
    arguments = {**_wan_arguments(), **_NINE_FRAMES_32, "guidance_scale_2": 3.0}
    return Specimen(pipeline=pipeline, arguments=arguments)


def skyreels_df() -> Specimen:
    """Denoises each frame with a copy of the scheduler, one behind the other."""
    seeded()
    transformer = diffusers.SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    pipeline = diffusers.SkyReelsV2DiffusionForcingPipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.wan_vae(),
        scheduler=_flow_unipc(8.0),
        text_encoder=None,
        tokenizer=None,
    )
    staggered = {"prompt": None, "ar_step": 2, "causal_block_size": 1}
    arguments = {**_wan_arguments(), **_NINE_FRAMES_16, **staggered}
    return Specimen(pipeline=pipeline, arguments=arguments)


def helios() -> Specimen:
    """Makes its video in two chunks, each with a loop of its own."""
    seeded()
    transformer = diffusers.HeliosTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    pipeline = diffusers.HeliosPipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.wan_vae(),
        scheduler=diffusers.HeliosScheduler(
            stage_range=[0, 1], stages=1, use_dynamic_shifting=True
        ),
        text_encoder=None,
        tokenizer=None,
    )
    size = {"height": 16, "width": 16, "num_frames": 66}
    return Specimen(
        pipeline=pipeline, arguments={**_wan_arguments(), **size, "guidance_scale": 1.0}
    )


def hunyuan_video() -> Specimen:
    seeded()
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    seeded()
    vae = diffusers.AutoencoderKLHunyuanVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        act_fn="silu",
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )
    pipeline = diffusers.HunyuanVideoPipeline(
        transformer=frozen(transformer),
        vae=frozen(vae),
        scheduler=_flow(shift=7.0),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 16, 16, seed=1),
        "pooled_prompt_embeds": noise(1, 8, seed=3),
        "prompt_attention_mask": torch.ones(1, 16),
        "guidance_scale": 4.5,
        **_NINE_FRAMES_16,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def hunyuan_video15() -> Specimen:
    """Guides with an object that keeps a running average."""
    seeded()
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    seeded()
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipeline = diffusers.HunyuanVideo15Pipeline(
        transformer=frozen(transformer),
        vae=frozen(vae),
        scheduler=_flow(shift=7.0),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        guider=diffusers.AdaptiveProjectedGuidance(
            guidance_scale=3.0, adaptive_projected_guidance_momentum=-0.5
        ),
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 10, 16, seed=1),
        "prompt_embeds_mask": torch.ones(1, 10),
        "prompt_embeds_2": noise(1, 6, 32, seed=5),
        "prompt_embeds_mask_2": torch.ones(1, 6),
        "negative_prompt_embeds": noise(1, 10, 16, seed=2),
        "negative_prompt_embeds_mask": torch.ones(1, 10),
        "negative_prompt_embeds_2": noise(1, 6, 32, seed=6),
        "negative_prompt_embeds_mask_2": torch.ones(1, 6),
        **_NINE_FRAMES_16,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def cogvideox() -> Specimen:
    """Hands a solver the arguments of its step in an order of its own."""
    seeded()
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
    )
    seeded()
    vae = diffusers.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    pipeline = diffusers.CogVideoXPipeline(
        transformer=frozen(transformer),
        vae=frozen(vae),
        scheduler=diffusers.CogVideoXDPMScheduler(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments = {**_wan_arguments(), **_NINE_FRAMES_16, "max_sequence_length": 16}
    return Specimen(pipeline=pipeline, arguments=arguments)


def stable_audio() -> Specimen:
    """Makes sound only."""
    seeded()
    transformer = diffusers.StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        num_layers=2,
        attention_head_dim=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
    )
    seeded()
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    projection = modeling_stable_audio.StableAudioProjectionModel(
        text_encoder_dim=4, conditioning_dim=4, min_value=0, max_value=32
    )
    pipeline = diffusers.StableAudioPipeline(
        transformer=frozen(transformer),
        vae=frozen(vae),
        text_encoder=None,
        tokenizer=None,
        projection_model=frozen(projection),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 6, 4, seed=1),
        "attention_mask": torch.ones(1, 6, dtype=torch.long),
        "negative_prompt_embeds": noise(1, 6, 4, seed=2),
        "negative_attention_mask": torch.ones(1, 6, dtype=torch.long),
        "audio_end_in_s": 2.0,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


SPECIES = (
    wan,
    wan22,
    skyreels_df,
    helios,
    hunyuan_video,
    hunyuan_video15,
    cogvideox,
    stable_audio,
)
