# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Tiny pipelines whose denoiser is a UNet: Stable Diffusion and its relatives, pixel space."""

import diffusers
import torch
import transformers

import zoo_parts
from zoo_parts import SD_BETAS, frozen, seeded
from zoo_specimen import Specimen

_GUIDED: dict[str, object] = {"prompt": "a red cat", "guidance_scale": 5.0}
_GUIDED_32: dict[str, object] = {**_GUIDED, "height": 32, "width": 32}


def _ddim() -> diffusers.DDIMScheduler:
    # The steps_offset of 0 that it gets here is corrected by the pipeline when it is made.
    return diffusers.DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False)


def sd_parts(**overrides: object) -> dict[str, object]:
    """Returns the components of Stable Diffusion 1.5."""
    parts: dict[str, object] = {
        "unet": zoo_parts.sd_unet(),
        "vae": zoo_parts.kl_vae(),
        "scheduler": _ddim(),
        "text_encoder": zoo_parts.clip_text(),
        "tokenizer": zoo_parts.clip_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return parts | overrides


def sd15() -> Specimen:
    pipeline = diffusers.StableDiffusionPipeline(**sd_parts())
    return Specimen(pipeline=pipeline, arguments=dict(_GUIDED_32))


def sd15_heun() -> Specimen:
    """Steps in a solver of second order, with two forwards for most steps."""
    heun = diffusers.HeunDiscreteScheduler(**SD_BETAS, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(**sd_parts(scheduler=heun))
    return Specimen(pipeline=pipeline, arguments=dict(_GUIDED_32))


def sd15_unipc() -> Specimen:
    """Keeps a history on its scheduler, which outlives a run."""
    unipc = diffusers.UniPCMultistepScheduler(**SD_BETAS, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(**sd_parts(scheduler=unipc))
    return Specimen(pipeline=pipeline, arguments=dict(_GUIDED_32))


def sdxl() -> Specimen:
    unet = zoo_parts.sd_unet(
        transformer_layers_per_block=(1, 1),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        use_linear_projection=True,
        attention_head_dim=(2, 4),
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=unet,
        vae=zoo_parts.kl_vae(),
        scheduler=diffusers.EulerDiscreteScheduler(**SD_BETAS),
        text_encoder=zoo_parts.clip_text(),
        text_encoder_2=zoo_parts.clip_text_with_projection(),
        tokenizer=zoo_parts.clip_tokenizer(),
        tokenizer_2=zoo_parts.clip_tokenizer(),
        add_watermarker=False,
    )
    return Specimen(pipeline=pipeline, arguments=dict(_GUIDED_32))


def sd_img2img() -> Specimen:
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**sd_parts())
    arguments = {**_GUIDED, "image": zoo_parts.picture(), "strength": 0.8}
    return Specimen(pipeline=pipeline, arguments=arguments)


def sd_inpaint() -> Specimen:
    pipeline = diffusers.StableDiffusionInpaintPipeline(**sd_parts())
    images = {"image": zoo_parts.picture(), "mask_image": zoo_parts.mask()}
    arguments = {**_GUIDED_32, **images, "strength": 0.8}
    return Specimen(pipeline=pipeline, arguments=arguments)


def sd_controlnet() -> Specimen:
    """Runs its ControlNet in a window of the steps only."""
    seeded(1)
    controlnet = diffusers.ControlNetModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(2, 4),
        cross_attention_dim=32,
        norm_num_groups=2,
        attention_head_dim=2,
    )
    with torch.no_grad():
        # A new ControlNet ends in zeros, so that it would not change the image.
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        **sd_parts(controlnet=frozen(controlnet))
    )
    window = {"control_guidance_start": 0.2, "control_guidance_end": 0.7}
    arguments = {**_GUIDED_32, "image": zoo_parts.picture(), **window}
    return Specimen(pipeline=pipeline, arguments=arguments)


def sd_pag() -> Specimen:
    """Swaps attention processors on its UNet while it runs."""
    pipeline = diffusers.StableDiffusionPAGPipeline(**sd_parts(), pag_applied_layers=["mid"])
    return Specimen(pipeline=pipeline, arguments={**_GUIDED_32, "pag_scale": 3.0})


def latent_consistency() -> Specimen:
    scheduler = diffusers.LCMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False)
    unet = zoo_parts.sd_unet(time_cond_proj_dim=32)
    pipeline = diffusers.LatentConsistencyModelPipeline(**sd_parts(unet=unet, scheduler=scheduler))
    arguments = {**_GUIDED_32, "guidance_scale": 8.0, "original_inference_steps": 50}
    return Specimen(pipeline=pipeline, arguments=arguments)


def ddpm() -> Specimen:
    """Works in pixels, without a prompt, and returns no latents."""
    seeded()
    unet = diffusers.UNet2DModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet=frozen(unet), scheduler=diffusers.DDPMScheduler())
    return Specimen(pipeline=pipeline, arguments={"batch_size": 1})


def deepfloyd_if() -> Specimen:
    """Works in pixels with learned variances."""
    unet = zoo_parts.sd_unet(
        sample_size=32,
        block_out_channels=(32, 64),
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    pipeline = diffusers.IFPipeline(
        unet=unet,
        scheduler=scheduler,
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    embeddings = {
        "prompt_embeds": zoo_parts.noise(1, 77, 32, seed=1),
        "negative_prompt_embeds": zoo_parts.noise(1, 77, 32, seed=2),
    }
    return Specimen(pipeline=pipeline, arguments={**embeddings, "height": 32, "width": 32})


def marigold() -> Specimen:
    """Estimates depth: returns arrays that are no pictures."""
    pipeline = diffusers.MarigoldDepthPipeline(
        unet=zoo_parts.sd_unet(in_channels=8),
        vae=zoo_parts.kl_vae(),
        scheduler=_ddim(),
        text_encoder=zoo_parts.clip_text(),
        tokenizer=zoo_parts.clip_tokenizer(),
        prediction_type="depth",
        scale_invariant=True,
        shift_invariant=True,
    )
    arguments = {"image": zoo_parts.picture(), "processing_resolution": 0}
    return Specimen(pipeline=pipeline, arguments=arguments)


def _kandinsky_unet() -> diffusers.UNet2DConditionModel:
    return zoo_parts.sd_unet(
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=32,
    )


def _kandinsky_movq() -> diffusers.VQModel:
    seeded()
    movq = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        in_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        out_channels=3,
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        vq_embed_dim=4,
    )
    return frozen(movq)


def _clip_vision() -> transformers.CLIPVisionModelWithProjection:
    seeded()
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=37,
        patch_size=32,
    )
    return frozen(transformers.CLIPVisionModelWithProjection(config))


def _clip_images() -> transformers.CLIPImageProcessor:
    size = {"height": 224, "width": 224}
    return transformers.CLIPImageProcessor(crop_size=size, size=size)


def _kandinsky_prior() -> diffusers.PriorTransformer:
    seeded()
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1
    )
    prior.clip_std = torch.nn.Parameter(torch.ones(prior.clip_std.shape))
    return frozen(prior)


def kandinsky_combined() -> Specimen:
    """Is made of two inner pipelines, each with a loop of its own."""
    pipeline = diffusers.KandinskyV22CombinedPipeline(
        unet=_kandinsky_unet(),
        scheduler=diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False),
        movq=_kandinsky_movq(),
        prior_prior=_kandinsky_prior(),
        prior_image_encoder=_clip_vision(),
        prior_text_encoder=zoo_parts.clip_text_with_projection(),
        prior_tokenizer=zoo_parts.clip_tokenizer(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=10.0,
        ),
        prior_image_processor=_clip_images(),
    )
    arguments = {**_GUIDED_32, "prior_num_inference_steps": 2}
    return Specimen(pipeline=pipeline, arguments=arguments)


def animatediff() -> Specimen:
    seeded()
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 8),
        motion_layers_per_block=2,
        motion_norm_num_groups=2,
        motion_num_attention_heads=4,
    )
    unet = zoo_parts.sd_unet(
        block_out_channels=(8, 8),
        layers_per_block=2,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    pipeline = diffusers.AnimateDiffPipeline(
        unet=unet,
        vae=zoo_parts.kl_vae(),
        scheduler=diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False),
        motion_adapter=frozen(adapter),
        text_encoder=zoo_parts.clip_text(),
        tokenizer=zoo_parts.clip_tokenizer(),
    )
    arguments = {**_GUIDED, "num_frames": 4, "height": 16, "width": 16}
    return Specimen(pipeline=pipeline, arguments=arguments)


def stable_video_diffusion() -> Specimen:
    """Makes a video of a picture, without a prompt."""
    seeded()
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        **SD_BETAS,
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    pipeline = diffusers.StableVideoDiffusionPipeline(
        vae=frozen(vae),
        image_encoder=_clip_vision(),
        unet=frozen(unet),
        scheduler=scheduler,
        feature_extractor=_clip_images(),
    )
    size = {"num_frames": 2, "height": 32, "width": 32}
    guidance = {"min_guidance_scale": 1.0, "max_guidance_scale": 2.5}
    arguments = {"image": zoo_parts.picture(), **size, **guidance}
    return Specimen(pipeline=pipeline, arguments=arguments)


SPECIES = (
    sd15,
    sd15_heun,
    sd15_unipc,
    sdxl,
    sd_img2img,
    sd_inpaint,
    sd_controlnet,
    sd_pag,
    latent_consistency,
    ddpm,
    deepfloyd_if,
    marigold,
    kandinsky_combined,
    animatediff,
    stable_video_diffusion,
)
