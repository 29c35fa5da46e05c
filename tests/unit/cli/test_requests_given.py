import itertools

import click
import pytest

from kubediffusion.cli import requests


def test_only_what_was_given_is_asked_for():
    wanted = requests.Wanted(steps=4, guidance_scale=0.0)
    assert wanted.fields() == {"num_inference_steps": 4, "guidance_scale": 0.0}


def test_the_demo_model_gets_what_suits_it():
    given = requests.for_models(requests.Wanted(), ["demo", "demo"])
    assert given == requests.Wanted(guidance_scale=1.5, steps=100)


@pytest.mark.parametrize("models", [[], ["other"], ["demo", "other"]])
def test_other_models_get_their_own_defaults(models):
    assert requests.for_models(requests.Wanted(), models) == requests.Wanted()


def test_what_the_user_says_suits_the_demo_model_too():
    wanted = requests.Wanted(guidance_scale=0.0, steps=4)
    assert requests.for_models(wanted, ["demo"]) == wanted


def test_one_prompt_gets_the_id_and_several_get_numbered_ones():
    assert requests.request_ids("cat", 1, []) == ("cat",)
    assert requests.request_ids("cat", 2, []) == ("cat-0", "cat-1")


def test_without_an_id_one_is_drawn_for_each_prompt():
    drawn = (f"r{i}" for i in itertools.count())
    assert requests.request_ids(None, 3, drawn) == ("r0", "r1", "r2")


@pytest.mark.parametrize(
    ("text", "lora"),
    [("ink", ("ink", 1.0)), ("ink:0.5", ("ink", 0.5)), ("a:b:2", ("a:b", 2.0))],
)
def test_a_lora_has_a_name_and_perhaps_a_scale(text, lora):
    assert requests.parse_lora(text) == lora


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(click.BadParameter, match="NAME:SCALE"):
        requests.parse_lora("ink:strong")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("eta=0.5", ("eta", 0.5)),
        ("clip_skip=2", ("clip_skip", 2)),
        ("flag=true", ("flag", True)),
        ('sigmas=[1, "x"]', ("sigmas", [1, "x"])),
        ("mode=fast", ("mode", "fast")),
        ("note=a=b", ("note", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_a_setting_is_json_or_else_a_text(text, setting):
    assert requests.parse_setting(text) == setting


@pytest.mark.parametrize("text", ["eta", "=1", ""])
def test_a_setting_needs_a_key_and_an_equals_sign(text):
    with pytest.raises(click.BadParameter, match="KEY=VALUE"):
        requests.parse_setting(text)
