# SPDX-License-Identifier: Apache-2.0
"""A gRPC client that has only the proto files, for tests to run in a namespace.

  client.py TARGET list GROUP       what MeshService says, as JSON
  client.py TARGET watch [TOKEN]    one JSON object a line until SYNCED (or, with
                                    a token, the first BOOKMARK), then the token
  client.py TARGET sync NODE VTEP   a Hello as an agent; how its stream ends
  client.py TARGET flood N          N Watch streams on one connection
  client.py TARGET big BYTES        a request of that size

MCMESH_CACERT, MCMESH_CERT, MCMESH_KEY: TLS. PYTHONPATH has the generated code.
The last line of a call that failed is {"code": …, "details": …}.
"""
import ipaddress
import json
import os
import sys

import grpc
from google.protobuf import json_format
from mcmesh.v1 import mesh_pb2 as mesh
from mcmesh.v1 import mesh_pb2_grpc as mesh_grpc
from mcmesh.v1 import node_pb2 as node
from mcmesh.v1 import node_pb2_grpc as node_grpc

TIMEOUT_S = 8


def connect(target):
    options = [("grpc.enable_retries", 0)]
    if not os.environ.get("MCMESH_CACERT"):
        return grpc.insecure_channel(target, options)
    files = []
    for key in ("CACERT", "KEY", "CERT"):
        name = os.environ.get(f"MCMESH_{key}")
        files.append(open(name, "rb").read() if name else None)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*files), options)


def full(message):
    return json_format.MessageToDict(message, including_default_value_fields=True)


def say(value):
    print(json.dumps(value), flush=True)


def do_list(channel, group):
    stub = mesh_grpc.MeshServiceStub(channel)
    answers = [stub.ListNodes(mesh.ListNodesRequest(), timeout=TIMEOUT_S),
               stub.ListGroups(mesh.ListGroupsRequest(), timeout=TIMEOUT_S),
               stub.ListMembers(mesh.ListMembersRequest(group=group), timeout=TIMEOUT_S),
               stub.ListRoutes(mesh.ListRoutesRequest(node="n1"), timeout=TIMEOUT_S),
               stub.Verify(mesh.VerifyRequest(), timeout=TIMEOUT_S)]
    say([full(a) for a in answers])


def do_watch(channel, token=""):
    stub = mesh_grpc.MeshServiceStub(channel)
    request = mesh.WatchRequest(resume_token=token, members_only=True)
    for event in stub.Watch(request, timeout=TIMEOUT_S):
        say(full(event))
        if event.type in (mesh.WatchResponse.SYNCED, mesh.WatchResponse.BOOKMARK):
            return


def do_sync(channel, name, vtep):
    def messages():
        yield node.AgentMessage(hello=node.Hello(
            protocol_min=1, protocol_max=1, node=name, instance=b"0123456789abcdef",
            vtep=ipaddress.ip_address(vtep).packed, start_count=1, attempt=1))
    for answer in node_grpc.NodeServiceStub(channel).Sync(messages(), timeout=TIMEOUT_S):
        say({"message": answer.WhichOneof("message")})


def do_flood(channel, number):
    stub = mesh_grpc.MeshServiceStub(channel)
    streams = [stub.Watch(mesh.WatchRequest(), timeout=TIMEOUT_S) for _ in range(int(number))]
    codes = {}
    for stream in streams:
        try:
            next(stream)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        codes[code] = codes.get(code, 0) + 1
    for stream in streams:
        stream.cancel()
    say(codes)


def do_big(channel, size):
    stub = mesh_grpc.MeshServiceStub(channel)
    stub.ListMembers(mesh.ListMembersRequest(node="x" * int(size)), timeout=TIMEOUT_S)
    say("taken")


COMMANDS = {"list": do_list, "watch": do_watch, "sync": do_sync, "flood": do_flood, "big": do_big}


def main(target, command, *args):
    with connect(target) as channel:
        try:
            COMMANDS[command](channel, *args)
        except grpc.RpcError as error:
            say({"code": error.code().name, "details": error.details()})


if __name__ == "__main__":
    main(*sys.argv[1:])
