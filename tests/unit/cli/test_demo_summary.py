import dataclasses
import json

from kubediffusion.cli.demo import summary

LIFE = summary.Life(process_id=7, incarnation="0123456789abcdef")
FACTS = summary.Facts(
    before={"worker-1": LIFE},
    after={"worker-1": LIFE},
    requested=10,
    done_before_kill=3,
    running_at_kill={"picture-04": (12, 20), "picture-05": (8, 20)},
    waiting_at_kill=5,
    advanced_alone={"picture-04": (20, 20), "picture-05": (15, 20)},
    executed_once=10,
    delivered=10,
    matching=9,
    restart_seconds=0.1234,
    load_seconds=8.2,
    step_seconds=0.1,
    takeover=None,
    total_seconds=41.5,
    output="out/demo",
    sheet="out/demo/contact-sheet.png",
)

TAKEOVER = summary.Takeover(
    killed="worker-1",
    killed_at=112,
    total=200,
    went_on="worker-2",
    resumed_from=98,
    resumed_seconds=0.7,
    exactness="exact",
    sha256="a" * 64,
    undisturbed_sha256="a" * 64,
)


def told(facts):
    return "\n".join(summary.lines(facts))


def test_the_workers_are_shown_to_be_the_same():
    assert "pid 7, incarnation 01234567: the same now" in told(FACTS)


def test_a_worker_that_was_replaced_is_no_success():
    other = dataclasses.replace(LIFE, process_id=8)
    facts = dataclasses.replace(FACTS, after={"worker-1": other})
    assert "now pid 8" in told(facts)
    assert not facts.is_good


def test_what_was_measured_is_told():
    text = told(FACTS)
    assert "10: 3 done, 2 running and 5 waiting at the kill" in text
    assert "10 of 10 exactly once" in text
    assert "9 of 10 pictures show what their prompts say" in text
    assert "123 ms from exec to first event" in text
    assert "the model (8.2 s to load) and 20 steps of work (2.0 s)" in text


def test_prompts_that_cannot_be_checked_are_not_told_as_checked():
    assert "checked" not in told(dataclasses.replace(FACTS, matching=None))


def test_a_picture_that_differs_from_its_prompt_is_no_failure_of_the_engine():
    assert FACTS.is_good
    assert not dataclasses.replace(FACTS, executed_once=9).is_good
    assert not dataclasses.replace(FACTS, delivered=9).is_good


def test_json_holds_everything():
    row = json.loads(json.dumps(summary.as_json(FACTS)))
    assert (row["lost_steps"], row["is_good"], row["before"]["worker-1"]["process_id"]) == (
        20,
        True,
        7,
    )


def test_the_death_of_a_worker_is_told_with_its_steps_and_digests():
    facts = dataclasses.replace(FACTS, takeover=TAKEOVER)
    text = told(facts)
    assert "worker-1, at step 112 of 200" in text
    assert "worker-2 after step 98, 0.7 s after the kill; 14 steps computed again" in text
    assert "sha256 aaaaaaaa; undisturbed: the same (exact)" in text
    assert facts.is_good


def test_a_picture_that_differs_from_the_undisturbed_one_is_a_failure():
    other = dataclasses.replace(TAKEOVER, undisturbed_sha256="b" * 64)
    facts = dataclasses.replace(FACTS, takeover=other)
    assert "undisturbed: bbbbbbbb" in told(facts)
    assert not facts.is_good


def test_a_generation_that_nobody_took_over_is_a_failure():
    other = dataclasses.replace(TAKEOVER, went_on="worker-1")
    assert not dataclasses.replace(FACTS, takeover=other).is_good


def test_a_generation_that_began_anew_is_told_as_such():
    anew = dataclasses.replace(TAKEOVER, resumed_from=0, exactness="restarted")
    text = told(dataclasses.replace(FACTS, takeover=anew))
    assert "worker-2 from the seed" in text
    assert "112 steps computed again" in text
