import torch
from diffusers.models import attention_processor

from kubediffusion_worker import guard


def attention() -> attention_processor.Attention:
    return attention_processor.Attention(query_dim=8, heads=2, dim_head=4)


def test_swapped_processor_is_put_back() -> None:
    module = attention()
    original = module.processor
    guarded = guard.ModuleGuard([torch.nn.Sequential(module)])
    module.processor = attention_processor.AttnProcessor()
    guarded.restore()
    assert module.processor is original


def test_processor_that_is_a_module_is_replaced() -> None:
    module = attention()
    original = module.processor
    guarded = guard.ModuleGuard([module])
    module.set_processor(torch.nn.Identity())  # pyright: ignore[reportArgumentType]  # a stand-in
    guarded.restore()
    assert module.processor is original


def test_type_of_the_weights_is_put_back() -> None:
    module = torch.nn.Linear(2, 2, dtype=torch.float16)
    guarded = guard.ModuleGuard([module])
    module.to(torch.float32)
    guarded.restore()
    assert module.weight.dtype is torch.float16


def test_hooks_that_libraries_install_are_left_alone() -> None:
    module = torch.nn.Linear(2, 2)
    guarded = guard.ModuleGuard([module])
    module.register_forward_hook(lambda *_: None)
    guarded.restore()
    assert len(module._forward_hooks) == 1


def test_modules_without_weights_are_fine() -> None:
    guard.ModuleGuard([torch.nn.Identity()]).restore()


def test_processors_of_a_parked_run_are_set_aside_and_come_back() -> None:
    module = attention()
    guarded = guard.ModuleGuard([module])
    before = module.processor
    module.set_processor(attention_processor.AttnProcessor())
    swapped = module.processor
    resume = guarded.set_aside()
    assert resume is not None
    assert module.processor is before
    resume()
    assert module.processor is swapped
    guarded.restore()
    assert module.processor is before


def test_modules_of_another_type_cannot_be_set_aside() -> None:
    module = torch.nn.Linear(2, 2).half()
    guarded = guard.ModuleGuard([module])
    module.float()
    assert guarded.set_aside() is None
    assert module.weight.dtype is torch.float32
    guarded.restore()
    assert guarded.set_aside() is not None
