/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

static struct segment *segment_find(struct datapath *dp, uint32_t id)
{
	struct segment *s;

	HASH_FIND(hh, dp->segment_index, &id, sizeof(id), s);
	return s;
}

static int segment_note(struct datapath *dp, const struct dp_segment *value)
{
	struct segment *s = segment_find(dp, value->id);

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return -ENOMEM;
		s->id = value->id;
		HASH_ADD(hh, dp->segment_index, id, sizeof(s->id), s);
	}
	s->value = *value;
	return 0;
}

/* One whose value does not name its key is nobody's. */
int datapath_segments_adopt(struct datapath *dp)
{
	_cleanup_free_ void *keys = NULL;
	size_t n;
	int rc;

	rc = datapath_map_keys(dp->skel->maps.segments, &keys, &n);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const uint32_t *id = (const uint32_t *)keys + i;
		struct dp_segment value;

		rc = datapath_map_get(dp->skel->maps.segments, id, &value);
		if (rc == 0)
			rc = value.id == *id ? segment_note(dp, &value)
					     : datapath_map_del(dp->skel->maps.segments, id);
	}
	return rc;
}

void datapath_segments_deinit(struct datapath *dp)
{
	struct segment *s, *next;

	HASH_ITER (hh, dp->segment_index, s, next) {
		HASH_DEL(dp->segment_index, s);
		free(s);
	}
}

int datapath_segment_set(struct datapath *dp, const struct datapath_segment *segment)
{
	struct dp_segment value = {
		.id = segment->id,
		.unregistered = (uint8_t)segment->unregistered,
		.link_local_remote = segment->link_local_remote,
		.routers_within = segment->routers_within,
		.revision = segment->revision,
	};

	int rc;

	if (segment->id >= 1U << 24 || (unsigned int)segment->unregistered > DP_UNREGISTERED_FLOOD)
		return -EINVAL;
	rc = datapath_map_set(dp->skel->maps.segments, &segment->id, &value);
	return rc < 0 ? rc : segment_note(dp, &value);
}

int datapath_segment_del(struct datapath *dp, uint32_t id)
{
	struct segment *s = segment_find(dp, id);

	if (s) {
		HASH_DEL(dp->segment_index, s);
		free(s);
	}
	return datapath_map_del(dp->skel->maps.segments, &id);
}

int datapath_segments_walk(struct datapath *dp,
			   int (*fn)(const struct datapath_segment *segment, void *userdata),
			   void *userdata)
{
	_cleanup_free_ void *keys = NULL;
	size_t n;
	int rc;

	rc = datapath_map_keys(dp->skel->maps.segments, &keys, &n);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct datapath_segment segment;
		struct dp_segment value;

		if (datapath_map_get(dp->skel->maps.segments, (uint32_t *)keys + i, &value) < 0)
			continue;
		segment = (struct datapath_segment){
			.id = value.id,
			.unregistered = value.unregistered,
			.link_local_remote = value.link_local_remote,
			.routers_within = value.routers_within,
			.revision = value.revision,
		};
		rc = fn(&segment, userdata);
	}
	return rc;
}
