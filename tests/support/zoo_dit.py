# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Tiny image pipelines whose denoiser is a transformer."""

import diffusers
import torch

import zoo_parts
from zoo_parts import frozen, noise, seeded
from zoo_specimen import Specimen

_SIZE_32: dict[str, object] = {"height": 32, "width": 32}


def _flow(**config: object) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def dit() -> Specimen:
    """Draws classes instead of prompts."""
    seeded()
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    pipeline = diffusers.DiTPipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(),
        scheduler=diffusers.DDIMScheduler(),
    )
    return Specimen(pipeline=pipeline, arguments={"class_labels": [1], "guidance_scale": 4.0})


def pixart_sigma() -> Specimen:
    seeded()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    pipeline = diffusers.PixArtSigmaPipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(),
        scheduler=diffusers.DDIMScheduler(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt": None,
        "negative_prompt": None,
        "prompt_embeds": noise(1, 10, 32, seed=1),
        "prompt_attention_mask": torch.ones(1, 10),
        "negative_prompt_embeds": noise(1, 10, 32, seed=2),
        "negative_prompt_attention_mask": torch.ones(1, 10),
        "guidance_scale": 4.5,
        "height": 16,
        "width": 16,
        "use_resolution_binning": False,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def _sana_vae() -> diffusers.AutoencoderDC:
    seeded()
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return frozen(vae)


def sana() -> Specimen:
    """Has linear attention and a multistep solver."""
    seeded()
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
    )
    pipeline = diffusers.SanaPipeline(
        transformer=frozen(transformer),
        vae=_sana_vae(),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 10, 8, seed=1),
        "prompt_attention_mask": torch.ones(1, 10),
        "negative_prompt_embeds": noise(1, 10, 8, seed=2),
        "negative_prompt_attention_mask": torch.ones(1, 10),
        "negative_prompt": None,
        "guidance_scale": 4.5,
        **_SIZE_32,
        "use_resolution_binning": False,
        "complex_human_instruction": None,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def sd3() -> Specimen:
    """Skips layers in a window of the steps, with a forward more in each."""
    seeded()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=1,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(shift_factor=0.0609, scaling_factor=1.5035),
        scheduler=_flow(shift=3.0),
        text_encoder=None,
        text_encoder_2=None,
        text_encoder_3=None,
        tokenizer=None,
        tokenizer_2=None,
        tokenizer_3=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 10, 32, seed=1),
        "negative_prompt_embeds": noise(1, 10, 32, seed=2),
        "pooled_prompt_embeds": noise(1, 64, seed=3),
        "negative_pooled_prompt_embeds": noise(1, 64, seed=4),
        "guidance_scale": 5.0,
        **_SIZE_32,
        "skip_guidance_layers": [1],
        "skip_layer_guidance_scale": 2.8,
        "skip_layer_guidance_start": 0.2,
        "skip_layer_guidance_stop": 0.7,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def qwen_image() -> Specimen:
    seeded()
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    seeded()
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipeline = diffusers.QwenImagePipeline(
        transformer=frozen(transformer),
        vae=frozen(vae),
        scheduler=_flow(
            base_image_seq_len=256,
            base_shift=0.5,
            max_image_seq_len=8192,
            max_shift=0.9,
            use_dynamic_shifting=True,
            shift=1.0,
            shift_terminal=0.02,
            time_shift_type="exponential",
        ),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 7, 16, seed=1),
        "prompt_embeds_mask": torch.ones(1, 7, dtype=torch.long),
        "negative_prompt_embeds": noise(1, 5, 16, seed=2),
        "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
        "true_cfg_scale": 4.0,
        **_SIZE_32,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def z_image() -> Specimen:
    """Takes and returns lists of tensors in its transformer."""
    seeded()
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        # They are made without values, to be loaded.
        transformer.x_pad_token.fill_(1.0)
        transformer.cap_pad_token.fill_(1.0)
    pipeline = diffusers.ZImagePipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(16, (8, 8), shift_factor=0.0609, scaling_factor=0.3611),
        scheduler=_flow(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": [noise(7, 16, seed=1)],
        "negative_prompt_embeds": [noise(5, 16, seed=2)],
        "guidance_scale": 3.0,
        **_SIZE_32,
        "cfg_normalization": False,
        "cfg_truncation": 1.0,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def lumina2() -> Specimen:
    seeded()
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        ffn_dim_multiplier=None,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=(4, 2, 2),
        cap_feat_dim=8,
    )
    pipeline = diffusers.Lumina2Pipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(shift_factor=0.0609, scaling_factor=1.5035),
        scheduler=_flow(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 8, 8, seed=1),
        "prompt_attention_mask": torch.ones(1, 8, dtype=torch.bool),
        "negative_prompt_embeds": noise(1, 8, 8, seed=2),
        "negative_prompt_attention_mask": torch.ones(1, 8, dtype=torch.bool),
        "guidance_scale": 4.0,
        **_SIZE_32,
        "cfg_trunc_ratio": 0.5,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def aura_flow() -> Specimen:
    seeded()
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        out_channels=4,
        pos_embed_max_size=256,
    )
    pipeline = diffusers.AuraFlowPipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(),
        scheduler=_flow(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 10, 32, seed=1),
        "prompt_attention_mask": torch.ones(1, 10),
        "negative_prompt_embeds": noise(1, 10, 32, seed=2),
        "negative_prompt_attention_mask": torch.ones(1, 10),
        "guidance_scale": 4.0,
        **_SIZE_32,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


SPECIES = (
    dit,
    pixart_sigma,
    sana,
    sd3,
    qwen_image,
    z_image,
    lumina2,
    aura_flow,
)
