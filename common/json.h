/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * proto3 JSON of any message, from its protobuf-c descriptor: keys in
 * lowerCamelCase, defaults and empty lists printed, 64-bit integers as strings,
 * enum values by name, bytes in base64; a member of a oneof that is not set,
 * and a message that is not there, are left out.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* One line, or indented; to be freed. NULL when memory ran out. */
char *json_from_message(const ProtobufCMessage *message, bool pretty);
