"""What the others decode a page into.

`FULL` types every row to the bottom with plain Structs, no option set: what a careful user of
msgspec writes from the vendor's pages, and the decoder of the limit (b). `OURS` is the library's
own row types. `pydantic_page()` is the same as `FULL` in pydantic, as generated SDKs do it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from unpod_async import Task as LibraryTask

Number = int | float | str | None


class UserInfo(Struct):
    id: str | None = None
    email: str | None = None
    full_name: str | None = None
    user_token: str | None = None


class Objective(Struct):
    objective: str | None = None


class Input(Struct):
    name: str | None = None
    email: str | None = None
    contact_number: str | int | None = None
    alternate_number: str | int | None = None
    occupation: str | None = None
    company_name: str | None = None
    address: str | None = None
    about: str | None = None
    context: str | None = None
    labels: list[str] = []
    title: str | None = None
    document_id: str | None = None
    created: str | dict[str, Any] | None = None
    token: str | None = None
    quality: str | None = None


class Message(Struct):
    role: str
    content: str
    timestamp: str | None = None


class Summary(Struct):
    status: str | None = None
    summary: str | None = None
    name: str | None = None
    callback_datetime: str | None = None


class FollowUp(Struct):
    required: bool | str | None = None
    time: str | None = None
    reason: str | None = None


class PostCall(Struct):
    summary: Summary | str | None = None
    success_evaluator: Number = None
    classification: dict[str, Any] | str | None = None
    follow_up: FollowUp | None = None
    structured_data: dict[str, Any] | str | None = None


class Customer(Struct):
    number: str | None = None
    name: str | None = None


class Cost(Struct):
    type: str | None = None
    cost: float | None = None


class Output(Struct):
    """Both dialects in one: msgspec can tell two only by a tag, which the wire has not."""

    call_id: str | None = None
    customer: Customer | str | None = None
    contact_number: str | int | None = None
    call_end_reason: str | None = None
    recording_url: str | None = None
    transcript: list[Message] | str | None = None
    start_time: str | None = None
    end_time: str | None = None
    assistant_number: str | None = None
    duration: Number = None
    cost: Number = None
    call_type: str | None = None
    call_status: str | None = None
    post_call_data: PostCall | None = None
    id: str | None = None
    assistant_id: str | None = field(name="assistantId", default=None)
    phone_number_id: str | None = field(name="phoneNumberId", default=None)
    type: str | None = None
    started_at: str | None = field(name="startedAt", default=None)
    ended_at: str | None = field(name="endedAt", default=None)
    camel_recording_url: str | None = field(name="recordingUrl", default=None)
    stereo_recording_url: str | None = field(name="stereoRecordingUrl", default=None)
    summary: str | None = None
    created_at: str | None = field(name="createdAt", default=None)
    updated_at: str | None = field(name="updatedAt", default=None)
    org_id: str | None = field(name="orgId", default=None)
    status: str | None = None
    ended_reason: str | None = field(name="endedReason", default=None)
    analysis: dict[str, Any] | None = None
    costs: list[Cost] = []


class Task(Struct):
    task_id: str
    space_id: str | None = None
    thread_id: str | None = None
    user: str | None = None
    user_org_id: str | None = None
    user_info: UserInfo | None = None
    run_id: str | None = None
    collection_ref: str | None = None
    execution_type: str | None = None
    task: Objective | None = None
    input: Input | None = None
    output: Output | None = None
    attachments: list[Any] | None = None
    ref_id: str | None = None
    assignee: str | None = None
    run_mode: str | None = None
    status: str | None = None
    created: str | None = None
    modified: str | None = None


class FullPage(Struct):
    data: list[Task]
    count: int | None = None
    status_code: int | None = None
    message: str | None = None


class OurPage(Struct, gc=False):
    data: list[LibraryTask]
    count: int | None = None
    status_code: int | None = None
    message: str | None = None


FULL = msgspec.json.Decoder(FullPage).decode
OURS = msgspec.json.Decoder(OurPage).decode


def pydantic_page() -> Any:
    """The pydantic model of a page, made of the same fields."""
    import pydantic

    made: dict[type, Any] = {}

    def model(struct: type[Struct]) -> Any:
        if struct not in made:
            fields = {
                one.name: (_swap(one.type, model), _default(pydantic, one))
                for one in msgspec.structs.fields(struct)
            }
            made[struct] = pydantic.create_model(struct.__name__, **fields)
        return made[struct]

    return model(FullPage)


def _swap(kind: Any, model: Any) -> Any:
    """A type with models in the place of Structs."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return model(kind)
    inner = tuple(_swap(part, model) for part in getattr(kind, "__args__", ()))
    if not inner:
        return kind
    if getattr(kind, "__origin__", None) is not None:
        return kind.__origin__[inner]
    union = inner[0]
    for part in inner[1:]:
        union |= part
    return union


def _default(pydantic: Any, one: msgspec.structs.FieldInfo) -> Any:
    if one.required:
        return pydantic.Field(alias=one.encode_name)
    if one.default is msgspec.NODEFAULT:
        return pydantic.Field(default_factory=one.default_factory, alias=one.encode_name)
    return pydantic.Field(default=one.default, alias=one.encode_name)
