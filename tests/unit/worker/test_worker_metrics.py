from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import metrics
from machines import a_machine


def value(found: metrics.Metrics, name: str, **labels: str) -> float | None:
    return found.registry.get_sample_value(f"kubediffusion_worker_{name}", labels)


def test_gauges_show_the_state_machine() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a", size=30)
    machine.submit("b")
    machine.submit("c")
    found = metrics.Metrics()
    found.look(machine.core, watches=2)
    assert value(found, "generations", state="queued") == 2
    assert value(found, "generations", state="succeeded") == 1
    assert value(found, "queue_length") == 1
    assert value(found, "retained_bytes") == 30
    assert value(found, "watches") == 2
    assert value(found, "state", state="serving") == 1
    assert value(found, "state", state="draining") == 0


def test_an_ended_generation_is_counted_with_its_times() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    found = metrics.Metrics()
    found.count_end(machine["a"])
    assert value(found, "generations_ended_total", state="succeeded") == 1
    assert value(found, "compute_seconds_sum") == 5.0


def test_errors_are_counted_by_reason() -> None:
    found = metrics.Metrics()
    found.count_error(errors.QueueFullError("full"))
    assert value(found, "errors_total", reason="QUEUE_FULL") == 1


def test_reasons_that_nobody_knows_are_one_label() -> None:
    found = metrics.Metrics()
    for number in range(5):
        found.count_error(errors.rebuild("x", reason=f"NEW_{number}"))
    assert value(found, "errors_total", reason="OTHER") == 5


def test_the_text_names_model_and_version() -> None:
    found = metrics.Metrics()
    found.describe(worker_pb2.Model(id="m", pipeline="P", dtype="float32"), "1.2")
    assert (
        'kubediffusion_worker_build_info{dtype="float32",model="m",pipeline="P",version="1.2"} 1.0'
        in found.text().decode()
    )
