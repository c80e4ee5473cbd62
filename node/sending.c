/* SPDX-License-Identifier: Apache-2.0 */
#include "node/sending.h"

#include <string.h>

#include "common/cleanup.h"

void sending_count(struct sending *s, struct sending_port *port, uint32_t generation,
		   uint64_t packets)
{
	port->grew = false;
	if (!port->known || port->generation != generation) {
		*port = (struct sending_port){ .known = true,
					       .generation = generation,
					       .packets = packets };
		return;
	}
	/* Counters are read while they move: a sum that went back comes again. */
	if (packets <= port->packets)
		return;
	s->packets += packets - port->packets;
	port->packets = packets;
	port->grew = true;
}

bool sending_counted(struct sending *s, uint64_t link_local)
{
	uint64_t chatter = s->early, packets = s->packets;

	if (s->known)
		chatter += link_local - s->link_local;
	s->known = true;
	s->link_local = link_local;
	s->packets = 0;
	/* The ports were read first. */
	s->early = chatter > packets ? chatter - packets : 0;
	if (s->early > SENDING_EARLY_MAX)
		s->early = SENDING_EARLY_MAX;
	return packets > chatter;
}

bool sending_is_on(struct sending_port *port, bool any, uint64_t now_ms)
{
	if (any && port->grew)
		port->until_ms = now_ms + SENDING_HOLD_MS;
	return now_ms < port->until_ms;
}

void sending_list_add(struct sending_list *list, uint32_t segment)
{
	size_t i = 0;

	while (i < list->n && list->segments[i] < segment)
		i++;
	if ((i < list->n && list->segments[i] == segment) || list->n == ARRAY_SIZE(list->segments))
		return;
	memmove(&list->segments[i + 1], &list->segments[i],
		(list->n - i) * sizeof(list->segments[0]));
	list->segments[i] = segment;
	list->n++;
}

bool sending_list_equal(const struct sending_list *a, const struct sending_list *b)
{
	return a->n == b->n && memcmp(a->segments, b->segments, a->n * sizeof(a->segments[0])) == 0;
}
