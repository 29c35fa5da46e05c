from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NullValue(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NULL_VALUE_UNSPECIFIED: _ClassVar[NullValue]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_ENGINE: _ClassVar[Role]
    ROLE_OBSERVER: _ClassVar[Role]
    ROLE_OPERATOR: _ClassVar[Role]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_SERVING: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_DRAINED: _ClassVar[WorkerState]
    WORKER_STATE_FAILED: _ClassVar[WorkerState]

class ResumeCapability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESUME_CAPABILITY_UNSPECIFIED: _ClassVar[ResumeCapability]
    RESUME_CAPABILITY_EXACT: _ClassVar[ResumeCapability]
    RESUME_CAPABILITY_CLOSE: _ClassVar[ResumeCapability]
    RESUME_CAPABILITY_RESTART: _ClassVar[ResumeCapability]

class CancelCapability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANCEL_CAPABILITY_UNSPECIFIED: _ClassVar[CancelCapability]
    CANCEL_CAPABILITY_STEP: _ClassVar[CancelCapability]
    CANCEL_CAPABILITY_FORWARD: _ClassVar[CancelCapability]

class OutputType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_TYPE_UNSPECIFIED: _ClassVar[OutputType]
    OUTPUT_TYPE_UINT8: _ClassVar[OutputType]
    OUTPUT_TYPE_FLOAT: _ClassVar[OutputType]
    OUTPUT_TYPE_LATENT: _ClassVar[OutputType]

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_UNSPECIFIED: _ClassVar[Encoding]
    ENCODING_RAW: _ClassVar[Encoding]
    ENCODING_PNG: _ClassVar[Encoding]
    ENCODING_JPEG: _ClassVar[Encoding]
    ENCODING_WEBP: _ClassVar[Encoding]
    ENCODING_MP4: _ClassVar[Encoding]

class GenerationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATION_STATE_UNSPECIFIED: _ClassVar[GenerationState]
    GENERATION_STATE_QUEUED: _ClassVar[GenerationState]
    GENERATION_STATE_RUNNING: _ClassVar[GenerationState]
    GENERATION_STATE_PARKED: _ClassVar[GenerationState]
    GENERATION_STATE_SUCCEEDED: _ClassVar[GenerationState]
    GENERATION_STATE_FAILED: _ClassVar[GenerationState]
    GENERATION_STATE_CANCELLED: _ClassVar[GenerationState]
    GENERATION_STATE_HANDED_OVER: _ClassVar[GenerationState]

class Exactness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXACTNESS_UNSPECIFIED: _ClassVar[Exactness]
    EXACTNESS_EXACT: _ClassVar[Exactness]
    EXACTNESS_CLOSE: _ClassVar[Exactness]
    EXACTNESS_RESTARTED: _ClassVar[Exactness]

class OutputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_KIND_UNSPECIFIED: _ClassVar[OutputKind]
    OUTPUT_KIND_IMAGE: _ClassVar[OutputKind]
    OUTPUT_KIND_VIDEO: _ClassVar[OutputKind]
    OUTPUT_KIND_LATENTS: _ClassVar[OutputKind]
    OUTPUT_KIND_AUDIO: _ClassVar[OutputKind]
    OUTPUT_KIND_ARRAY: _ClassVar[OutputKind]

class DrainPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DRAIN_POLICY_UNSPECIFIED: _ClassVar[DrainPolicy]
    DRAIN_POLICY_FINISH: _ClassVar[DrainPolicy]
    DRAIN_POLICY_CHECKPOINT: _ClassVar[DrainPolicy]
    DRAIN_POLICY_FINISH_THEN_CHECKPOINT: _ClassVar[DrainPolicy]
NULL_VALUE_UNSPECIFIED: NullValue
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_BOOL: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
ROLE_UNSPECIFIED: Role
ROLE_ENGINE: Role
ROLE_OBSERVER: Role
ROLE_OPERATOR: Role
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_SERVING: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_DRAINED: WorkerState
WORKER_STATE_FAILED: WorkerState
RESUME_CAPABILITY_UNSPECIFIED: ResumeCapability
RESUME_CAPABILITY_EXACT: ResumeCapability
RESUME_CAPABILITY_CLOSE: ResumeCapability
RESUME_CAPABILITY_RESTART: ResumeCapability
CANCEL_CAPABILITY_UNSPECIFIED: CancelCapability
CANCEL_CAPABILITY_STEP: CancelCapability
CANCEL_CAPABILITY_FORWARD: CancelCapability
OUTPUT_TYPE_UNSPECIFIED: OutputType
OUTPUT_TYPE_UINT8: OutputType
OUTPUT_TYPE_FLOAT: OutputType
OUTPUT_TYPE_LATENT: OutputType
ENCODING_UNSPECIFIED: Encoding
ENCODING_RAW: Encoding
ENCODING_PNG: Encoding
ENCODING_JPEG: Encoding
ENCODING_WEBP: Encoding
ENCODING_MP4: Encoding
GENERATION_STATE_UNSPECIFIED: GenerationState
GENERATION_STATE_QUEUED: GenerationState
GENERATION_STATE_RUNNING: GenerationState
GENERATION_STATE_PARKED: GenerationState
GENERATION_STATE_SUCCEEDED: GenerationState
GENERATION_STATE_FAILED: GenerationState
GENERATION_STATE_CANCELLED: GenerationState
GENERATION_STATE_HANDED_OVER: GenerationState
EXACTNESS_UNSPECIFIED: Exactness
EXACTNESS_EXACT: Exactness
EXACTNESS_CLOSE: Exactness
EXACTNESS_RESTARTED: Exactness
OUTPUT_KIND_UNSPECIFIED: OutputKind
OUTPUT_KIND_IMAGE: OutputKind
OUTPUT_KIND_VIDEO: OutputKind
OUTPUT_KIND_LATENTS: OutputKind
OUTPUT_KIND_AUDIO: OutputKind
OUTPUT_KIND_ARRAY: OutputKind
DRAIN_POLICY_UNSPECIFIED: DrainPolicy
DRAIN_POLICY_FINISH: DrainPolicy
DRAIN_POLICY_CHECKPOINT: DrainPolicy
DRAIN_POLICY_FINISH_THEN_CHECKPOINT: DrainPolicy

class Value(_message.Message):
    __slots__ = ("null", "boolean", "integer", "big_integer", "number", "text", "data", "list", "map", "tensor", "image")
    NULL_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    BIG_INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    null: NullValue
    boolean: bool
    integer: int
    big_integer: str
    number: float
    text: str
    data: bytes
    list: ListValue
    map: MapValue
    tensor: Tensor
    image: Image
    def __init__(self, null: _Optional[_Union[NullValue, str]] = ..., boolean: bool = ..., integer: _Optional[int] = ..., big_integer: _Optional[str] = ..., number: _Optional[float] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ..., list: _Optional[_Union[ListValue, _Mapping]] = ..., map: _Optional[_Union[MapValue, _Mapping]] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class ListValue(_message.Message):
    __slots__ = ("items", "is_tuple")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    IS_TUPLE_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Value]
    is_tuple: bool
    def __init__(self, items: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., is_tuple: bool = ...) -> None: ...

class MapValue(_message.Message):
    __slots__ = ("entries",)
    class EntriesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.MessageMap[str, Value]
    def __init__(self, entries: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("raw", "encoded")
    RAW_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    raw: RawImage
    encoded: bytes
    def __init__(self, raw: _Optional[_Union[RawImage, _Mapping]] = ..., encoded: _Optional[bytes] = ...) -> None: ...

class RawImage(_message.Message):
    __slots__ = ("mode", "width", "height", "data")
    MODE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    mode: str
    width: int
    height: int
    data: bytes
    def __init__(self, mode: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Caller(_message.Message):
    __slots__ = ("engine_id", "epoch", "instance", "role")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    epoch: int
    instance: str
    role: Role
    def __init__(self, engine_id: _Optional[str] = ..., epoch: _Optional[int] = ..., instance: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("id", "revision", "dtype", "pipeline", "weights_digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    revision: str
    dtype: str
    pipeline: str
    weights_digest: str
    def __init__(self, id: _Optional[str] = ..., revision: _Optional[str] = ..., dtype: _Optional[str] = ..., pipeline: _Optional[str] = ..., weights_digest: _Optional[str] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("resume", "cancel", "preview", "batch", "adapters", "encodings")
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    resume: ResumeCapability
    cancel: CancelCapability
    preview: bool
    batch: bool
    adapters: bool
    encodings: _containers.RepeatedScalarFieldContainer[Encoding]
    def __init__(self, resume: _Optional[_Union[ResumeCapability, str]] = ..., cancel: _Optional[_Union[CancelCapability, str]] = ..., preview: bool = ..., batch: bool = ..., adapters: bool = ..., encodings: _Optional[_Iterable[_Union[Encoding, str]]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "kinds", "is_required", "accepts_none")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    IS_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_NONE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kinds: _containers.RepeatedScalarFieldContainer[str]
    is_required: bool
    accepts_none: bool
    def __init__(self, name: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ..., is_required: bool = ..., accepts_none: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_height", "max_width", "max_steps", "max_frames", "max_outputs", "max_prompt_bytes", "max_queued", "max_retained_bytes")
    MAX_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_WIDTH_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_FIELD_NUMBER: _ClassVar[int]
    MAX_RETAINED_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_height: int
    max_width: int
    max_steps: int
    max_frames: int
    max_outputs: int
    max_prompt_bytes: int
    max_queued: int
    max_retained_bytes: int
    def __init__(self, max_height: _Optional[int] = ..., max_width: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_frames: _Optional[int] = ..., max_outputs: _Optional[int] = ..., max_prompt_bytes: _Optional[int] = ..., max_queued: _Optional[int] = ..., max_retained_bytes: _Optional[int] = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("name", "incarnation", "process_id", "version", "protocol_minor", "state", "model", "capabilities", "fingerprint", "fingerprint_facts", "parameters", "limits", "load", "adapters", "methods", "device", "start_time")
    class FingerprintFactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FACTS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    incarnation: str
    process_id: int
    version: str
    protocol_minor: int
    state: WorkerState
    model: Model
    capabilities: Capabilities
    fingerprint: str
    fingerprint_facts: _containers.ScalarMap[str, str]
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    limits: Limits
    load: WorkerLoad
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    methods: _containers.RepeatedScalarFieldContainer[str]
    device: str
    start_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., incarnation: _Optional[str] = ..., process_id: _Optional[int] = ..., version: _Optional[str] = ..., protocol_minor: _Optional[int] = ..., state: _Optional[_Union[WorkerState, str]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., fingerprint: _Optional[str] = ..., fingerprint_facts: _Optional[_Mapping[str, str]] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., load: _Optional[_Union[WorkerLoad, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., methods: _Optional[_Iterable[str]] = ..., device: _Optional[str] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WorkerLoad(_message.Message):
    __slots__ = ("slots", "running", "queued", "queued_seconds", "retained_bytes")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RETAINED_BYTES_FIELD_NUMBER: _ClassVar[int]
    slots: int
    running: int
    queued: int
    queued_seconds: float
    retained_bytes: int
    def __init__(self, slots: _Optional[int] = ..., running: _Optional[int] = ..., queued: _Optional[int] = ..., queued_seconds: _Optional[float] = ..., retained_bytes: _Optional[int] = ...) -> None: ...

class GetWorkerRequest(_message.Message):
    __slots__ = ("engine_id",)
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    def __init__(self, engine_id: _Optional[str] = ...) -> None: ...

class GetWorkerResponse(_message.Message):
    __slots__ = ("worker", "engine_epoch")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ENGINE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    engine_epoch: int
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ..., engine_epoch: _Optional[int] = ...) -> None: ...

class OutputOptions(_message.Message):
    __slots__ = ("type", "encoding", "quality", "frames_per_second")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    FRAMES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    type: OutputType
    encoding: Encoding
    quality: int
    frames_per_second: float
    def __init__(self, type: _Optional[_Union[OutputType, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., quality: _Optional[int] = ..., frames_per_second: _Optional[float] = ...) -> None: ...

class AdapterUse(_message.Message):
    __slots__ = ("name", "scale")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    name: str
    scale: float
    def __init__(self, name: _Optional[str] = ..., scale: _Optional[float] = ...) -> None: ...

class GenerationSpec(_message.Message):
    __slots__ = ("model", "prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "seed", "num_outputs", "num_frames", "strength", "image", "mask_image", "adapters", "output", "extra_args", "generator_device")
    class ExtraArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    NUM_INFERENCE_STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MASK_IMAGE_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EXTRA_ARGS_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_DEVICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    negative_prompt: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_outputs: int
    num_frames: int
    strength: float
    image: Image
    mask_image: Image
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterUse]
    output: OutputOptions
    extra_args: _containers.MessageMap[str, Value]
    generator_device: str
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., num_inference_steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., seed: _Optional[int] = ..., num_outputs: _Optional[int] = ..., num_frames: _Optional[int] = ..., strength: _Optional[float] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., mask_image: _Optional[_Union[Image, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[AdapterUse, _Mapping]]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., extra_args: _Optional[_Mapping[str, Value]] = ..., generator_device: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("reason", "message", "violations", "retry_delay", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    violations: _containers.RepeatedCompositeFieldContainer[FieldViolation]
    retry_delay: _duration_pb2.Duration
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[FieldViolation, _Mapping]]] = ..., retry_delay: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class FieldViolation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("kind", "encoding", "dtype", "shape", "offset", "size", "seed", "is_flagged", "sha256", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IS_FLAGGED_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: OutputKind
    encoding: Encoding
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    size: int
    seed: int
    is_flagged: bool
    sha256: str
    name: str
    def __init__(self, kind: _Optional[_Union[OutputKind, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., seed: _Optional[int] = ..., is_flagged: bool = ..., sha256: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("size", "sha256", "outputs", "exactness", "resumed_from", "fingerprint", "metrics")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EXACTNESS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FROM_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    size: int
    sha256: str
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    exactness: Exactness
    resumed_from: int
    fingerprint: str
    metrics: GenerationMetrics
    def __init__(self, size: _Optional[int] = ..., sha256: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., exactness: _Optional[_Union[Exactness, str]] = ..., resumed_from: _Optional[int] = ..., fingerprint: _Optional[str] = ..., metrics: _Optional[_Union[GenerationMetrics, _Mapping]] = ...) -> None: ...

class GenerationMetrics(_message.Message):
    __slots__ = ("queue_seconds", "compute_seconds", "step_seconds", "steps", "encode_seconds", "peak_memory_bytes")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    compute_seconds: float
    step_seconds: float
    steps: int
    encode_seconds: float
    peak_memory_bytes: int
    def __init__(self, queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., step_seconds: _Optional[float] = ..., steps: _Optional[int] = ..., encode_seconds: _Optional[float] = ..., peak_memory_bytes: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("step", "total", "timestep", "seconds_per_step", "eta_seconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    total: int
    timestep: float
    seconds_per_step: float
    eta_seconds: float
    def __init__(self, step: _Optional[int] = ..., total: _Optional[int] = ..., timestep: _Optional[float] = ..., seconds_per_step: _Optional[float] = ..., eta_seconds: _Optional[float] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("engine_id", "request_id", "state", "spec_digest", "attempt", "priority", "last_sequence", "progress", "progress_age", "submit_time", "result", "error", "position")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_AGE_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    request_id: str
    state: GenerationState
    spec_digest: str
    attempt: int
    priority: int
    last_sequence: int
    progress: Progress
    progress_age: _duration_pb2.Duration
    submit_time: _timestamp_pb2.Timestamp
    result: Result
    error: Error
    position: int
    def __init__(self, engine_id: _Optional[str] = ..., request_id: _Optional[str] = ..., state: _Optional[_Union[GenerationState, str]] = ..., spec_digest: _Optional[str] = ..., attempt: _Optional[int] = ..., priority: _Optional[int] = ..., last_sequence: _Optional[int] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., progress_age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., submit_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., position: _Optional[int] = ...) -> None: ...

class SubmitGenerationRequest(_message.Message):
    __slots__ = ("caller", "request_id", "spec", "attempt", "priority", "deadline", "checkpoint_reference", "min_exactness")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    MIN_EXACTNESS_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    spec: GenerationSpec
    attempt: int
    priority: int
    deadline: _timestamp_pb2.Timestamp
    checkpoint_reference: str
    min_exactness: Exactness
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ..., spec: _Optional[_Union[GenerationSpec, _Mapping]] = ..., attempt: _Optional[int] = ..., priority: _Optional[int] = ..., deadline: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., checkpoint_reference: _Optional[str] = ..., min_exactness: _Optional[_Union[Exactness, str]] = ...) -> None: ...

class SubmitGenerationResponse(_message.Message):
    __slots__ = ("generation", "is_created", "incarnation")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IS_CREATED_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    is_created: bool
    incarnation: str
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ..., is_created: bool = ..., incarnation: _Optional[str] = ...) -> None: ...

class GenerationEvent(_message.Message):
    __slots__ = ("engine_id", "request_id", "sequence", "time", "attempt", "coalesced", "queued", "started", "progress", "preview", "checkpointed", "parked", "unpaused", "resumed", "succeeded", "failed", "cancelled", "handed_over", "gap")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    COALESCED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTED_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    UNPAUSED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    HANDED_OVER_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    request_id: str
    sequence: int
    time: _timestamp_pb2.Timestamp
    attempt: int
    coalesced: int
    queued: QueuedEvent
    started: StartedEvent
    progress: Progress
    preview: PreviewEvent
    checkpointed: CheckpointedEvent
    parked: ParkedEvent
    unpaused: UnpausedEvent
    resumed: ResumedEvent
    succeeded: SucceededEvent
    failed: FailedEvent
    cancelled: CancelledEvent
    handed_over: HandedOverEvent
    gap: GapEvent
    def __init__(self, engine_id: _Optional[str] = ..., request_id: _Optional[str] = ..., sequence: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., coalesced: _Optional[int] = ..., queued: _Optional[_Union[QueuedEvent, _Mapping]] = ..., started: _Optional[_Union[StartedEvent, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., preview: _Optional[_Union[PreviewEvent, _Mapping]] = ..., checkpointed: _Optional[_Union[CheckpointedEvent, _Mapping]] = ..., parked: _Optional[_Union[ParkedEvent, _Mapping]] = ..., unpaused: _Optional[_Union[UnpausedEvent, _Mapping]] = ..., resumed: _Optional[_Union[ResumedEvent, _Mapping]] = ..., succeeded: _Optional[_Union[SucceededEvent, _Mapping]] = ..., failed: _Optional[_Union[FailedEvent, _Mapping]] = ..., cancelled: _Optional[_Union[CancelledEvent, _Mapping]] = ..., handed_over: _Optional[_Union[HandedOverEvent, _Mapping]] = ..., gap: _Optional[_Union[GapEvent, _Mapping]] = ...) -> None: ...

class QueuedEvent(_message.Message):
    __slots__ = ("position", "wait_seconds")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    position: int
    wait_seconds: float
    def __init__(self, position: _Optional[int] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class StartedEvent(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PreviewEvent(_message.Message):
    __slots__ = ("step", "image", "width", "height")
    STEP_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    step: int
    image: bytes
    width: int
    height: int
    def __init__(self, step: _Optional[int] = ..., image: _Optional[bytes] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class CheckpointedEvent(_message.Message):
    __slots__ = ("step", "size", "sha256")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    step: int
    size: int
    sha256: str
    def __init__(self, step: _Optional[int] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class ParkedEvent(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class UnpausedEvent(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumedEvent(_message.Message):
    __slots__ = ("from_step", "exactness")
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    EXACTNESS_FIELD_NUMBER: _ClassVar[int]
    from_step: int
    exactness: Exactness
    def __init__(self, from_step: _Optional[int] = ..., exactness: _Optional[_Union[Exactness, str]] = ...) -> None: ...

class SucceededEvent(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: Result
    def __init__(self, result: _Optional[_Union[Result, _Mapping]] = ...) -> None: ...

class FailedEvent(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: Error
    def __init__(self, error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class CancelledEvent(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class HandedOverEvent(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: CheckpointInfo
    def __init__(self, checkpoint: _Optional[_Union[CheckpointInfo, _Mapping]] = ...) -> None: ...

class GapEvent(_message.Message):
    __slots__ = ("first_available_sequence",)
    FIRST_AVAILABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    first_available_sequence: int
    def __init__(self, first_available_sequence: _Optional[int] = ...) -> None: ...

class WatchGenerationsRequest(_message.Message):
    __slots__ = ("caller", "request_ids", "after_sequences", "min_interval", "until_terminal", "previews")
    class AfterSequencesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    UNTIL_TERMINAL_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    after_sequences: _containers.ScalarMap[str, int]
    min_interval: _duration_pb2.Duration
    until_terminal: bool
    previews: bool
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_ids: _Optional[_Iterable[str]] = ..., after_sequences: _Optional[_Mapping[str, int]] = ..., min_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., until_terminal: bool = ..., previews: bool = ...) -> None: ...

class WatchGenerationsResponse(_message.Message):
    __slots__ = ("events", "load", "state", "incarnation", "is_live")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    IS_LIVE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[GenerationEvent]
    load: WorkerLoad
    state: WorkerState
    incarnation: str
    is_live: bool
    def __init__(self, events: _Optional[_Iterable[_Union[GenerationEvent, _Mapping]]] = ..., load: _Optional[_Union[WorkerLoad, _Mapping]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., incarnation: _Optional[str] = ..., is_live: bool = ...) -> None: ...

class ListGenerationsRequest(_message.Message):
    __slots__ = ("engine_id", "states")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    states: _containers.RepeatedScalarFieldContainer[GenerationState]
    def __init__(self, engine_id: _Optional[str] = ..., states: _Optional[_Iterable[_Union[GenerationState, str]]] = ...) -> None: ...

class ListGenerationsResponse(_message.Message):
    __slots__ = ("generations", "incarnation")
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    generations: _containers.RepeatedCompositeFieldContainer[Generation]
    incarnation: str
    def __init__(self, generations: _Optional[_Iterable[_Union[Generation, _Mapping]]] = ..., incarnation: _Optional[str] = ...) -> None: ...

class FetchResultRequest(_message.Message):
    __slots__ = ("engine_id", "request_id", "offset")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    request_id: str
    offset: int
    def __init__(self, engine_id: _Optional[str] = ..., request_id: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchResultResponse(_message.Message):
    __slots__ = ("data", "header")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    header: Result
    def __init__(self, data: _Optional[bytes] = ..., header: _Optional[_Union[Result, _Mapping]] = ...) -> None: ...

class AckGenerationRequest(_message.Message):
    __slots__ = ("caller", "request_id")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class AckGenerationResponse(_message.Message):
    __slots__ = ("is_released",)
    IS_RELEASED_FIELD_NUMBER: _ClassVar[int]
    is_released: bool
    def __init__(self, is_released: bool = ...) -> None: ...

class CancelGenerationRequest(_message.Message):
    __slots__ = ("caller", "request_id")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CancelGenerationResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: GenerationState
    def __init__(self, state: _Optional[_Union[GenerationState, str]] = ...) -> None: ...

class PauseGenerationRequest(_message.Message):
    __slots__ = ("caller", "request_id")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class PauseGenerationResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: GenerationState
    def __init__(self, state: _Optional[_Union[GenerationState, str]] = ...) -> None: ...

class UnpauseGenerationRequest(_message.Message):
    __slots__ = ("caller", "request_id")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UnpauseGenerationResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: GenerationState
    def __init__(self, state: _Optional[_Union[GenerationState, str]] = ...) -> None: ...

class CheckpointInfo(_message.Message):
    __slots__ = ("step", "size", "sha256", "fingerprint", "format")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    step: int
    size: int
    sha256: str
    fingerprint: str
    format: int
    def __init__(self, step: _Optional[int] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ..., fingerprint: _Optional[str] = ..., format: _Optional[int] = ...) -> None: ...

class TakeCheckpointRequest(_message.Message):
    __slots__ = ("caller", "request_id")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class TakeCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: CheckpointInfo
    def __init__(self, checkpoint: _Optional[_Union[CheckpointInfo, _Mapping]] = ...) -> None: ...

class FetchCheckpointRequest(_message.Message):
    __slots__ = ("engine_id", "request_id", "step", "offset")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    request_id: str
    step: int
    offset: int
    def __init__(self, engine_id: _Optional[str] = ..., request_id: _Optional[str] = ..., step: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchCheckpointResponse(_message.Message):
    __slots__ = ("data", "header")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    header: CheckpointInfo
    def __init__(self, data: _Optional[bytes] = ..., header: _Optional[_Union[CheckpointInfo, _Mapping]] = ...) -> None: ...

class ImportCheckpointRequest(_message.Message):
    __slots__ = ("data", "header", "caller", "request_id")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    header: CheckpointInfo
    caller: Caller
    request_id: str
    def __init__(self, data: _Optional[bytes] = ..., header: _Optional[_Union[CheckpointInfo, _Mapping]] = ..., caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ImportCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint_reference",)
    CHECKPOINT_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    checkpoint_reference: str
    def __init__(self, checkpoint_reference: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("caller", "policy", "budget")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    policy: DrainPolicy
    budget: _duration_pb2.Duration
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., policy: _Optional[_Union[DrainPolicy, str]] = ..., budget: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: WorkerState
    def __init__(self, state: _Optional[_Union[WorkerState, str]] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ("caller",)
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ...) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: WorkerState
    def __init__(self, state: _Optional[_Union[WorkerState, str]] = ...) -> None: ...

class CallMethodRequest(_message.Message):
    __slots__ = ("caller", "method", "args", "kwargs")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    CALLER_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    method: str
    args: _containers.RepeatedCompositeFieldContainer[Value]
    kwargs: _containers.MessageMap[str, Value]
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., method: _Optional[str] = ..., args: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class CallMethodResponse(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: Value
    def __init__(self, value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class LoadAdapterRequest(_message.Message):
    __slots__ = ("caller", "name", "source", "weight_name")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_NAME_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    name: str
    source: str
    weight_name: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., name: _Optional[str] = ..., source: _Optional[str] = ..., weight_name: _Optional[str] = ...) -> None: ...

class LoadAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class UnloadAdapterRequest(_message.Message):
    __slots__ = ("caller", "name")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    name: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., name: _Optional[str] = ...) -> None: ...

class UnloadAdapterResponse(_message.Message):
    __slots__ = ("is_unloaded",)
    IS_UNLOADED_FIELD_NUMBER: _ClassVar[int]
    is_unloaded: bool
    def __init__(self, is_unloaded: bool = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ...) -> None: ...
