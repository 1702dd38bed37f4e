"""Flower's own grid over a SuperLink's client in memory, whose nodes send whatever objects they like."""

from __future__ import annotations

import json
from types import SimpleNamespace

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.superlink.grid.http_grid import HttpGrid

from fedveil.engine import _flower

_RUN = 1


class Client:
    """Holds replies as objects; what `held_back` names is never there."""

    def __init__(self):
        self.answers, self.objects, self.held_back = {}, {}, set()
        self.fetched, self.confirmed, self.error = [], [], None

    def answer(self, question: Message, root: str, contents: dict[str, bytes]):
        """Keep a reply: its root, and all of its objects."""
        self.answers[question.metadata.message_id] = (root, question.metadata.dst_node_id)
        self.objects |= contents

    def PullMessages(self, request):
        if self.error is not None:
            raise self.error
        found = PullAppMessagesResponse()
        for name in request.message_ids:
            if name in self.answers:
                root, node = self.answers.pop(name)
                about = ProtoMetadata(
                    run_id=_RUN, message_id=root, src_node_id=node, dst_node_id=1, reply_to_message_id=name
                )
                found.messages_list.append(ProtoMessage(metadata=about))
                found.message_object_trees.append(self.tree(root))
        return found

    def tree(self, name):
        head = self.objects[name].partition(b"\0")[0].decode().split(" ")[1]
        return ObjectTree(object_id=name, children=[self.tree(child) for child in head.split(",") if child])

    def PullObject(self, request):
        self.fetched.append(request.object_id)
        there = request.object_id not in self.held_back
        content = self.objects[request.object_id] if there else b""
        return PullObjectResponse(object_found=True, object_available=there, object_content=content)

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


def grid() -> tuple[HttpGrid, Client]:
    """Return Flower's grid and what it asks."""
    _flower.identify()
    made, client = HttpGrid(token="t"), Client()
    made._client, made._run = client, SimpleNamespace(run_id=_RUN)
    return made, client


def objects(message: Message) -> tuple[str, dict[str, bytes]]:
    """Return an honest reply's root and objects."""
    found = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
    return message.object_id, found


def made(kind: str, children: list[str], body: bytes) -> tuple[str, bytes]:
    """Return an object of any kind, children and body, and its name."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body
    return get_object_id(content), content


def wrapped(question: Message, arrays: dict[str, str], contents: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """Return a reply with one record of arrays, whatever those are."""
    record, record_is = made("ArrayRecord", list(dict.fromkeys(arrays.values())), json.dumps(arrays).encode())
    content, content_is = made("RecordDict", [record], json.dumps({"update": record}).encode())
    about = ProtoMetadata(
        run_id=_RUN, src_node_id=question.metadata.dst_node_id, dst_node_id=1, message_type="train", ttl=60.0,
        reply_to_message_id=question.metadata.message_id, created_at=question.metadata.created_at,
    )  # fmt: skip
    root, root_is = made("Message", [content], ProtoMessage(metadata=about).SerializeToString())
    return root, {**contents, record: record_is, content: content_is, root: root_is}


def array(parts: list[str], named: list[int], **changes) -> tuple[str, bytes]:
    """Return an array object that names its parts."""
    body = {"dtype": "float32", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": named, **changes}
    return made("Array", parts, json.dumps(body).encode())
