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
    total_seconds=41.5,
    output="out/demo",
    sheet="out/demo/contact-sheet.png",
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
