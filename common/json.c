/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>

#include "common/cleanup.h"

#define KEY_MAX 64

static json_t *object_of(const ProtobufCMessage *message);

/* "next_page_token" → "nextPageToken" */
static void key_of(const char *name, char ret_key[static KEY_MAX])
{
	size_t n = 0;
	bool upper = false;

	for (; *name && n < KEY_MAX - 1; name++) {
		if (*name == '_') {
			upper = true;
			continue;
		}
		ret_key[n++] = (char)(upper ? toupper((unsigned char)*name) : *name);
		upper = false;
	}
	ret_key[n] = '\0';
}

static json_t *bytes_of(const ProtobufCBinaryData *data)
{
	size_t len = sodium_base64_ENCODED_LEN(data->len, sodium_base64_VARIANT_ORIGINAL);
	_cleanup_free_ char *text = malloc(len);

	if (!text)
		return NULL;
	sodium_bin2base64(text, len, data->data, data->len, sodium_base64_VARIANT_ORIGINAL);
	return json_string(text);
}

static json_t *enum_of(const ProtobufCEnumDescriptor *descriptor, int number)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(descriptor, number);

	/* A newer peer's value has no name here. */
	return value ? json_string(value->name) : json_integer(number);
}

static json_t *value_of(const ProtobufCFieldDescriptor *f, const void *p)
{
	const char *text;
	char digits[24];

	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return json_integer(*(const int32_t *)p);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return json_integer(*(const uint32_t *)p);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		snprintf(digits, sizeof(digits), "%" PRId64, *(const int64_t *)p);
		return json_string(digits);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		snprintf(digits, sizeof(digits), "%" PRIu64, *(const uint64_t *)p);
		return json_string(digits);
	case PROTOBUF_C_TYPE_FLOAT:
		return json_real((double)*(const float *)p);
	case PROTOBUF_C_TYPE_DOUBLE:
		return json_real(*(const double *)p);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)p);
	case PROTOBUF_C_TYPE_ENUM:
		return enum_of(f->descriptor, *(const int *)p);
	case PROTOBUF_C_TYPE_STRING:
		text = *(const char *const *)p;
		return json_string(text ?: "");
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_of(p);
	case PROTOBUF_C_TYPE_MESSAGE:
		return object_of(*(const ProtobufCMessage *const *)p);
	}
	return NULL;
}

static size_t value_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

static json_t *list_of(const ProtobufCFieldDescriptor *f, const char *base)
{
	size_t n = *(const size_t *)(base + f->quantifier_offset);
	const char *rows = *(const char *const *)(base + f->offset);
	json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++)
		if (json_array_append_new(list, value_of(f, rows + i * value_size(f->type))) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static bool field_is_set(const ProtobufCFieldDescriptor *f, const char *base)
{
	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)(base + f->quantifier_offset) != f->id)
		return false;
	return f->type != PROTOBUF_C_TYPE_MESSAGE || *(const void *const *)(base + f->offset);
}

static json_t *object_of(const ProtobufCMessage *message)
{
	const char *base = (const char *)message;
	json_t *object = json_object();

	for (unsigned int i = 0; object && i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
		bool repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
		char key[KEY_MAX];
		json_t *value;

		if (!repeated && !field_is_set(f, base))
			continue;
		key_of(f->name, key);
		value = repeated ? list_of(f, base) : value_of(f, base + f->offset);
		if (json_object_set_new(object, key, value) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

char *json_from_message(const ProtobufCMessage *message, bool pretty)
{
	json_t *object = object_of(message);
	char *text;

	if (!object)
		return NULL;
	text = json_dumps(object, pretty ? JSON_INDENT(2) : JSON_COMPACT);
	json_decref(object);
	return text;
}
