/* SPDX-License-Identifier: Apache-2.0 */
#include "node/hello.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"

static void hello_segment(uint32_t segment, uint64_t revision __attribute__((unused)),
			  void *userdata)
{
	struct hello *b = userdata;

	if (b->n_segments == b->cap_segments) {
		size_t cap = b->cap_segments ? b->cap_segments * 2 : 8;
		void *grown = reallocarray(b->segments, cap, sizeof(*b->segments));

		if (!grown) {
			b->failed = true;
			return;
		}
		b->segments = grown;
		b->cap_segments = cap;
	}
	mcmesh__v1__subscription__init(&b->segments[b->n_segments]);
	b->segments[b->n_segments].segment = segment;
	b->segments[b->n_segments].revision = mirror_resumable(b->mirror, segment);
	b->n_segments++;
}

static void hello_node(const char *node, const struct addr *vtep __attribute__((unused)),
		       void *userdata)
{
	struct hello *b = userdata;

	if (b->n_nodes == b->cap_nodes) {
		size_t cap = b->cap_nodes ? b->cap_nodes * 2 : 64;
		void *grown = reallocarray(b->nodes, cap, sizeof(*b->nodes));

		if (!grown) {
			b->failed = true;
			return;
		}
		b->nodes = grown;
		b->cap_nodes = cap;
	}
	b->nodes[b->n_nodes++] = (char *)node;
}

int hello_init(struct hello *hello, const struct mirror *mirror)
{
	static char *features[] = { "ack-snapshot" };

	*hello = (struct hello){ .message = MCMESH__V1__HELLO__INIT, .mirror = mirror };
	mirror_segments_walk(mirror, hello_segment, hello);
	mirror_nodes_walk(mirror, hello_node, hello);
	hello->segment_pointers = calloc(hello->n_segments + 1, sizeof(*hello->segment_pointers));
	if (!hello->segment_pointers || hello->failed) {
		hello_deinit(hello);
		return -ENOMEM;
	}
	for (size_t i = 0; i < hello->n_segments; i++)
		hello->segment_pointers[i] = &hello->segments[i];
	hello->message.features = features;
	hello->message.n_features = ARRAY_SIZE(features);
	hello->message.epoch.data = (uint8_t *)mirror_epoch(mirror);
	hello->message.epoch.len = EPOCH_LEN;
	hello->message.segments = hello->segment_pointers;
	hello->message.n_segments = hello->n_segments;
	hello->message.known_nodes = hello->nodes;
	hello->message.n_known_nodes = hello->n_nodes;
	return 0;
}

void hello_deinit(struct hello *hello)
{
	free(hello->segment_pointers);
	free(hello->segments);
	free(hello->nodes);
}

Mcmesh__V1__MemberChange *hello_row_new(uint32_t segment, const struct addr *group,
					const struct filter *filter)
{
	Mcmesh__V1__MemberChange *row = malloc(sizeof(*row));
	size_t len;

	if (!row)
		return NULL;
	mcmesh__v1__member_change__init(row);
	row->segment = segment;
	row->group.data = (uint8_t *)addr_to_wire(group, &len);
	row->group.len = len;
	row->deleted = filter_is_none(filter);
	row->mode = filter->mode == FILTER_EXCLUDE ? MCMESH__V1__FILTER__MODE__EXCLUDE
						   : MCMESH__V1__FILTER__MODE__INCLUDE;
	if (filter->n_sources) {
		row->sources = calloc(filter->n_sources, sizeof(*row->sources));
		if (!row->sources) {
			free(row);
			return NULL;
		}
	}
	row->n_sources = filter->n_sources;
	for (uint32_t i = 0; i < filter->n_sources; i++) {
		row->sources[i].data = (uint8_t *)addr_to_wire(&filter->sources[i], &len);
		row->sources[i].len = len;
	}
	return row;
}

void hello_row_free(Mcmesh__V1__MemberChange *row)
{
	free(row->sources);
	free(row);
}
