# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Tiny pipelines of the LTX family: videos, upsampled videos, videos with sound."""

import diffusers
import torch
from diffusers.pipelines import ltx2 as diffusers_ltx2
from diffusers.pipelines.ltx import modeling_latent_upsampler

import zoo_parts
from zoo_parts import frozen, noise, seeded
from zoo_specimen import Specimen


def _flow(**config: object) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def _ltx_vae() -> diffusers.AutoencoderKLLTXVideo:
    seeded()
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = False
    vae.use_framewise_decoding = False
    return frozen(vae)


def ltx() -> Specimen:
    seeded()
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    pipeline = diffusers.LTXPipeline(
        transformer=frozen(transformer),
        vae=_ltx_vae(),
        scheduler=_flow(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 16, 32, seed=1),
        "prompt_attention_mask": torch.ones(1, 16),
        "negative_prompt_embeds": noise(1, 16, 32, seed=2),
        "negative_prompt_attention_mask": torch.ones(1, 16),
        "guidance_scale": 3.0,
        "height": 32,
        "width": 32,
        "num_frames": 9,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def ltx_upsample() -> Specimen:
    """Has no scheduler and no loop."""
    seeded()
    upsampler = modeling_latent_upsampler.LTXLatentUpsamplerModel(
        in_channels=8, mid_channels=32, num_blocks_per_stage=1
    )
    pipeline = diffusers.LTXLatentUpsamplePipeline(
        vae=_ltx_vae(), latent_upsampler=frozen(upsampler)
    )
    frames = [zoo_parts.picture(seed=number) for number in range(9)]
    arguments: dict[str, object] = {"video": frames, "height": 32, "width": 32}
    return Specimen(pipeline=pipeline, arguments=arguments)


def _ltx2_transformer() -> diffusers.LTX2VideoTransformer3DModel:
    seeded()
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        qk_norm="rms_norm_across_heads",
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
    )
    return frozen(transformer)


def _ltx2_connectors() -> diffusers_ltx2.LTX2TextConnectors:
    seeded()
    connectors = diffusers_ltx2.LTX2TextConnectors(
        caption_channels=32,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    return frozen(connectors)


def _ltx2_video_vae() -> diffusers.AutoencoderKLLTX2Video:
    seeded()
    vae = diffusers.AutoencoderKLLTX2Video(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = False
    vae.use_framewise_decoding = False
    return frozen(vae)


def _ltx2_audio_vae() -> diffusers.AutoencoderKLLTX2Audio:
    seeded()
    vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        dropout=0.0,
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=8,
    )
    return frozen(vae)


def _ltx2_vocoder() -> diffusers_ltx2.LTX2Vocoder:
    seeded()
    vocoder = diffusers_ltx2.LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000,
    )
    return frozen(vocoder)


def ltx2() -> Specimen:
    """Makes a video and its sound, with a copy of the scheduler for the second."""
    pipeline = diffusers.LTX2Pipeline(
        transformer=_ltx2_transformer(),
        vae=_ltx2_video_vae(),
        audio_vae=_ltx2_audio_vae(),
        scheduler=_flow(),
        text_encoder=None,
        tokenizer=None,
        connectors=_ltx2_connectors(),
        vocoder=_ltx2_vocoder(),
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 16, 96, seed=1),
        "prompt_attention_mask": torch.ones(1, 16),
        "negative_prompt_embeds": noise(1, 16, 96, seed=2),
        "negative_prompt_attention_mask": torch.ones(1, 16),
        "guidance_scale": 3.0,
        "stg_scale": 1.0,
        "spatio_temporal_guidance_blocks": [1],
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "frame_rate": 25.0,
        "max_sequence_length": 16,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


SPECIES = (ltx, ltx_upsample, ltx2)
