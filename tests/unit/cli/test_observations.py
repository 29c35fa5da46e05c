from kubediffusion.cli import observations
from kubediffusion_proto.v1 import worker_pb2

NOW = 1_000.0


def generation(state, **fields):
    message = worker_pb2.Generation(request_id="cat", engine_id="e", state=state, **fields)
    message.submit_time.FromSeconds(int(NOW) - 5)
    return observations.generation_view("w", message, now=NOW)


def note(view):
    return observations.generations_table([view]).splitlines()[1].split("   ")[-1]


def test_a_worker_is_described_with_its_load_and_age():
    worker = worker_pb2.Worker(
        name="w",
        state=worker_pb2.WORKER_STATE_SERVING,
        process_id=7,
        load=worker_pb2.WorkerLoad(running=1, queued=2),
    )
    worker.start_time.FromSeconds(int(NOW) - 60)
    view = observations.worker_view("unix:/w", worker, now=NOW)
    assert (view.state, view.running, view.queued) == ("SERVING", 1, 2)
    assert view.uptime_seconds == 60.0


def test_a_silent_worker_has_no_numbers_in_the_table():
    view = observations.WorkerView(name="w", address="unix:/w", state="UNREACHABLE")
    cells = observations.workers_table([view]).splitlines()[1].split()
    assert cells == ["w", "unix:/w", "UNREACHABLE", *"---------"]


def test_a_worker_tells_what_becomes_of_its_work_elsewhere():
    worker = worker_pb2.Worker(
        name="w",
        incarnation="i",
        fingerprint="f",
        capabilities=worker_pb2.Capabilities(
            resume=worker_pb2.RESUME_CAPABILITY_EXACT, preview=True
        ),
    )
    view = observations.worker_view("unix:/w", worker, now=NOW)
    assert (view.resume, view.has_previews, view.fingerprint) == ("exact", True, "f")
    assert observations.workers_table([view]).splitlines()[1].split()[7:9] == ["exact", "yes"]


def test_a_queued_generation_says_how_many_are_ahead():
    assert (
        note(generation(worker_pb2.GENERATION_STATE_QUEUED, position=2)) == "2 ahead in the queue"
    )


def test_a_running_generation_says_what_is_left():
    progress = worker_pb2.Progress(step=1, total=4, eta_seconds=3.0)
    view = generation(worker_pb2.GENERATION_STATE_RUNNING, progress=progress)
    assert note(view) == "3.0 s left"
    assert not view.is_over


def test_a_succeeded_generation_says_how_large_its_result_is():
    view = generation(worker_pb2.GENERATION_STATE_SUCCEEDED, result=worker_pb2.Result(size=12_000))
    assert note(view) == "12.0 kB"
    assert view.is_over


def test_a_failed_generation_says_why():
    view = generation(
        worker_pb2.GENERATION_STATE_FAILED, error=worker_pb2.Error(reason="PIPELINE_ERROR")
    )
    assert note(view) == "PIPELINE_ERROR"


def test_json_has_the_fields_by_their_names():
    row = observations.as_json(generation(worker_pb2.GENERATION_STATE_PARKED))
    assert (row["request_id"], row["state"], row["age_seconds"]) == ("cat", "PARKED", 5.0)
