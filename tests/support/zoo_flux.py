# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Tiny image pipelines of the Flux family."""

import diffusers

import zoo_parts
from zoo_parts import frozen, noise, seeded
from zoo_specimen import Specimen

_SIZE_32: dict[str, object] = {"height": 32, "width": 32}


def _flow(**config: object) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def _flux_parts() -> dict[str, object]:
    seeded()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return {
        "transformer": frozen(transformer),
        "vae": zoo_parts.flux_vae(),
        "scheduler": _flow(use_dynamic_shifting=True),
        "text_encoder": None,
        "text_encoder_2": None,
        "tokenizer": None,
        "tokenizer_2": None,
    }


def _flux_arguments() -> dict[str, object]:
    return {
        "prompt_embeds": noise(1, 12, 32, seed=1),
        "pooled_prompt_embeds": noise(1, 32, seed=3),
        "guidance_scale": 3.5,
        **_SIZE_32,
    }


def flux() -> Specimen:
    return Specimen(pipeline=diffusers.FluxPipeline(**_flux_parts()), arguments=_flux_arguments())


def flux_stochastic() -> Specimen:
    """Draws noise in its steps from the global random generator."""
    scheduler = _flow(use_dynamic_shifting=True, stochastic_sampling=True)
    pipeline = diffusers.FluxPipeline(**(_flux_parts() | {"scheduler": scheduler}))
    return Specimen(pipeline=pipeline, arguments=_flux_arguments())


def flux_kontext() -> Specimen:
    """Edits a picture."""
    picture = {"image": zoo_parts.picture(), "_auto_resize": False, "max_area": 32 * 32}
    pipeline = diffusers.FluxKontextPipeline(**_flux_parts())
    return Specimen(pipeline=pipeline, arguments={**_flux_arguments(), **picture})


def _flux2_transformer(**config: object) -> diffusers.Flux2Transformer2DModel:
    seeded()
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=256,
        axes_dims_rope=(4, 4, 4, 4),
        **config,
    )
    return frozen(transformer)


def _flux2_vae() -> diffusers.AutoencoderKLFlux2:
    seeded()
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return frozen(vae)


def flux2() -> Specimen:
    pipeline = diffusers.Flux2Pipeline(
        transformer=_flux2_transformer(),
        vae=_flux2_vae(),
        scheduler=_flow(use_dynamic_shifting=True),
        text_encoder=None,
        tokenizer=None,
    )
    size = {"height": 16, "width": 16}
    arguments = {"prompt_embeds": noise(1, 12, 16, seed=1), "guidance_scale": 3.5, **size}
    return Specimen(pipeline=pipeline, arguments=arguments)


def flux2_klein_kv() -> Specimen:
    """Fills a cache of keys and values in its first step."""
    pipeline = diffusers.Flux2KleinKVPipeline(
        transformer=_flux2_transformer(guidance_embeds=False),
        vae=_flux2_vae(),
        scheduler=_flow(use_dynamic_shifting=True),
        text_encoder=None,
        tokenizer=None,
    )
    arguments = {
        "prompt_embeds": noise(1, 12, 16, seed=1),
        "image": zoo_parts.picture(64, 64),
        "height": 16,
        "width": 16,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


def bria() -> Specimen:
    """Compares the type of its scheduler with a class."""
    seeded()
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    pipeline = diffusers.BriaPipeline(
        transformer=frozen(transformer),
        vae=zoo_parts.kl_vae(4, (8, 8, 8, 8), shift_factor=0.0609, scaling_factor=1.5035),
        scheduler=_flow(),
        text_encoder=None,
        tokenizer=None,
    )
    arguments: dict[str, object] = {
        "prompt_embeds": noise(1, 8, 32, seed=1),
        "negative_prompt_embeds": noise(1, 8, 32, seed=2),
        "guidance_scale": 4.0,
        **_SIZE_32,
    }
    return Specimen(pipeline=pipeline, arguments=arguments)


SPECIES = (flux, flux_stochastic, flux_kontext, flux2, flux2_klein_kv, bria)
