"""The errors that the state machine answers with: what was wanted, what was found, what to do."""

from kubediffusion_wire import errors
from kubediffusion_worker import identity

_MIN_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 30.0


def not_found(key: identity.GenerationKey) -> errors.GenerationNotFoundError:
    """Nobody submitted the generation to this incarnation."""
    return errors.GenerationNotFoundError(
        f"no generation {key.request_id!r} of engine {key.engine_id!r} is here; submit it"
    )


def released(
    key: identity.GenerationKey, *, is_evicted: bool
) -> errors.EvictedError | errors.AlreadyAcknowledgedError:
    """The generation was here, and is no more."""
    if is_evicted:
        return errors.EvictedError(
            f"generation {key.request_id!r} was dropped before it was acknowledged, for room "
            "or age; submit it with a higher attempt to compute it again"
        )
    return errors.AlreadyAcknowledgedError(
        f"generation {key.request_id!r} was acknowledged and released; choose a new request id"
    )


def conflict(key: identity.GenerationKey) -> errors.RequestConflictError:
    """The id is taken by other content."""
    return errors.RequestConflictError(
        f"request id {key.request_id!r} is in use for another request; choose a new id"
    )


def stale_epoch(
    engine_id: str, found: identity.Epoch, highest: identity.Epoch
) -> errors.StaleEpochError:
    """A newer start of the engine took over."""
    return errors.StaleEpochError(
        f"engine {engine_id!r} of epoch {found.number} was replaced by epoch {highest.number}; "
        "stop this process or give it an engine id of its own",
        metadata={"engine_id": engine_id, "epoch": str(highest.number)},
    )


def wrong_role(role: identity.Role, *, operators_allowed: bool) -> errors.MethodNotAllowedError:
    """The caller's role does not allow a write."""
    wanted = "ENGINE or OPERATOR" if operators_allowed else "ENGINE"
    return errors.MethodNotAllowedError(
        f"a caller of role {role.name} may not do this; the role must be {wanted}"
    )


def starting() -> errors.WorkerStartingError:
    """The worker does not know yet what its pipeline accepts."""
    return errors.WorkerStartingError(
        "the model is still being loaded; try again", retry_delay=1.0
    )


def draining(remaining: float) -> errors.WorkerDrainingError:
    """The worker takes no new work; `remaining` is in seconds until it is gone."""
    return errors.WorkerDrainingError(
        "this worker is being emptied and takes no new work; use another one",
        retry_delay=_retry_delay(remaining),
    )


def failed() -> errors.WorkerFailedError:
    """The worker will never serve again."""
    return errors.WorkerFailedError("this worker has failed; use another one")


def queue_full(found: str, wait: float) -> errors.QueueFullError:
    """A bound of the line is reached; `wait` is in seconds until a place is free."""
    return errors.QueueFullError(f"{found}; try again", retry_delay=_retry_delay(wait))


def retention_full(found: str) -> errors.RetentionFullError:
    """A bound of what is kept is reached."""
    return errors.RetentionFullError(
        f"{found}; fetch and acknowledge results", retry_delay=_retry_delay(1.0)
    )


def deadline_exceeded() -> errors.DeadlineExceededError:
    """The deadline of a generation is over."""
    return errors.DeadlineExceededError("the deadline of the generation has passed")


def past_its_steps(key: identity.GenerationKey, state: str) -> errors.NotResumableError:
    """The generation takes no more steps, so that it has no boundary."""
    return errors.NotResumableError(
        f"generation {key.request_id!r} takes no more steps; it is {state}",
        metadata={"state": state},
    )


def not_begun(key: identity.GenerationKey) -> errors.NotResumableError:
    """The generation has no state yet."""
    return errors.NotResumableError(
        f"generation {key.request_id!r} has not begun, so that there is nothing to save",
        metadata={"state": "QUEUED"},
    )


def not_saved(key: identity.GenerationKey, reason: str) -> errors.NotResumableError:
    """The state of the generation could not be turned into a checkpoint."""
    return errors.NotResumableError(f"generation {key.request_id!r} was not saved: {reason}")


def too_many_parked(limit: int) -> errors.NotResumableError:
    """More generations would stand still than there is memory for."""
    return errors.NotResumableError(
        f"{limit} generations that have begun stand still already; let one go on, or cancel it"
    )


def no_checkpoint(key: identity.GenerationKey, step: int = 0) -> errors.CheckpointNotFoundError:
    """The generation has no checkpoint, or none of a step."""
    which = f"of step {step}" if step else "yet"
    return errors.CheckpointNotFoundError(
        f"generation {key.request_id!r} has no checkpoint {which}"
    )


def unknown_reference() -> errors.CheckpointNotFoundError:
    """The checkpoint was not imported for the request, or too long ago."""
    return errors.CheckpointNotFoundError(
        "checkpoint_reference names no checkpoint that was imported for this request within "
        "the last minute; import it again"
    )


def no_room_for_checkpoint(size: int) -> errors.RetentionFullError:
    """A bound of what is kept is reached."""
    return errors.RetentionFullError(
        f"there is no room for a checkpoint of {size} bytes", retry_delay=_retry_delay(1.0)
    )


def _retry_delay(seconds: float) -> float:
    return min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)
