/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_SIZE (32u << 10)

struct rpc_chunk {
	struct rpc_chunk *next;
	size_t size, used;
	_Alignas(max_align_t) unsigned char data[];
};

static struct rpc_chunk *chunk_new(struct rpc_arena *arena, size_t size)
{
	struct rpc_chunk *c;

	if (size <= CHUNK_SIZE && arena->rpc->spare) {
		c = TAKE_PTR(arena->rpc->spare);
	} else {
		size = size < CHUNK_SIZE ? CHUNK_SIZE : size;
		c = malloc(sizeof(*c) + size);
		if (!c)
			return NULL;
		c->size = size;
	}
	c->used = 0;
	c->next = arena->chunk;
	arena->chunk = c;
	return c;
}

static void *arena_alloc(void *data, size_t size)
{
	struct rpc_arena *arena = data;
	struct rpc_chunk *c = arena->chunk;
	void *p;

	size = (size + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
	if (size > RPC_DECODE_MEMORY_MAX - arena->total)
		return NULL;
	if (!c || size > c->size - c->used) {
		c = chunk_new(arena, size);
		if (!c)
			return NULL;
	}
	p = c->data + c->used;
	c->used += size;
	arena->total += size;
	return p;
}

static void arena_free(void *data, void *p)
{
}

void rpc_arena_init(struct rpc_arena *arena, struct rpc *rpc)
{
	*arena = (struct rpc_arena){
		.allocator = { .alloc = arena_alloc, .free = arena_free, .allocator_data = arena },
		.rpc = rpc,
	};
}

void rpc_arena_deinit(struct rpc_arena *arena)
{
	struct rpc_chunk *c;

	while ((c = arena->chunk)) {
		arena->chunk = c->next;
#ifndef __SANITIZE_ADDRESS__ /* there, a kept chunk would hide uses after the callback */
		if (c->size == CHUNK_SIZE && !arena->rpc->spare) {
			arena->rpc->spare = c;
			continue;
		}
#endif
		free(c);
	}
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool utf8_is_valid(const unsigned char *s)
{
	while (*s) {
		unsigned char lead = *s++, low = 0x80, high = 0xbf;
		int more;

		if (lead < 0x80)
			continue;
		if (lead < 0xc2 || lead > 0xf4)
			return false;
		more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
		if (lead == 0xe0)
			low = 0xa0;
		else if (lead == 0xed)
			high = 0x9f;
		else if (lead == 0xf0)
			low = 0x90;
		else if (lead == 0xf4)
			high = 0x8f;
		for (; more; more--, low = 0x80, high = 0xbf)
			if (*s < low || *s++ > high)
				return false;
	}
	return true;
}

static bool strings_are_valid(const ProtobufCMessage *message);

static bool value_is_valid(const ProtobufCFieldDescriptor *f, const void *value)
{
	if (f->type == PROTOBUF_C_TYPE_STRING) {
		const unsigned char *s = *(const unsigned char *const *)value;

		return !s || utf8_is_valid(s);
	}
	if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
		const ProtobufCMessage *m = *(const ProtobufCMessage *const *)value;

		return !m || strings_are_valid(m);
	}
	return true;
}

static bool strings_are_valid(const ProtobufCMessage *message)
{
	const ProtobufCMessageDescriptor *d = message->descriptor;

	for (unsigned int i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		const char *base = (const char *)message;

		if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)(base + f->quantifier_offset);
			char *const *list = *(char *const *const *)(base + f->offset);

			for (size_t k = 0; k < n; k++)
				if (!value_is_valid(f, &list[k]))
					return false;
			continue;
		}
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		    *(const uint32_t *)(base + f->quantifier_offset) != f->id)
			continue;
		if (!value_is_valid(f, base + f->offset))
			return false;
	}
	return true;
}

static const ProtobufCMessage *decode(struct rpc_arena *arena,
				      const ProtobufCMessageDescriptor *descriptor,
				      const uint8_t *data, size_t len, const char **ret_why)
{
	const struct rpc *rpc = arena->rpc;
	const ProtobufCMessage *message = NULL;

	if (rpc->known_message)
		message = rpc->known_message(descriptor, data, len, rpc->known_userdata);
	if (message)
		return message;
	message = protobuf_c_message_unpack(descriptor, &arena->allocator, len, data);
	if (!message) {
		*ret_why = "its bytes do not decode";
		return NULL;
	}
	if (!strings_are_valid(message)) {
		*ret_why = "a string in it is not UTF-8";
		return NULL;
	}
	return message;
}

void rpc_set_known(struct rpc *rpc, rpc_known *fn, void *userdata)
{
	rpc->known_message = fn;
	rpc->known_userdata = userdata;
}

const ProtobufCMessage *rpc_decode(struct rpc_arena *arena,
				   const ProtobufCMessageDescriptor *descriptor,
				   grpc_byte_buffer *buffer, const char **ret_why)
{
	grpc_byte_buffer_reader reader;
	const ProtobufCMessage *message;
	grpc_slice bytes;

	if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
		*ret_why = "it cannot be decompressed";
		return NULL;
	}
	bytes = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	message = decode(arena, descriptor, GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes),
			 ret_why);
	grpc_slice_unref(bytes);
	return message;
}

int rpc_encode(const ProtobufCMessage *message, grpc_slice *ret_slice)
{
	size_t len = protobuf_c_message_get_packed_size(message);

	if (len > RPC_MESSAGE_MAX)
		return -EMSGSIZE;
	*ret_slice = grpc_slice_malloc(len);
	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(*ret_slice));
	return 0;
}
