/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define ARENA_BLOCK 65536
#define ARENA_ALIGN 16

struct arena_block {
	struct arena_block *next;
	size_t used, size;
	_Alignas(ARENA_ALIGN) uint8_t data[];
};

void *arena_alloc(struct arena *arena, size_t size)
{
	struct arena_block *b = arena->blocks;
	void *p;

	size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	if (!b || b->size - b->used < size) {
		size_t block = size > ARENA_BLOCK ? size : ARENA_BLOCK;

		b = malloc(sizeof(*b) + block);
		if (!b)
			abort();
		b->size = block;
		b->used = 0;
		b->next = arena->blocks;
		arena->blocks = b;
	}
	p = b->data + b->used;
	b->used += size;
	return memset(p, 0, size);
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
	va_list ap;
	char *text;
	int n;

	va_start(ap, format);
	n = vsnprintf(NULL, 0, format, ap);
	va_end(ap);
	text = arena_alloc(arena, (size_t)n + 1);
	va_start(ap, format);
	vsnprintf(text, (size_t)n + 1, format, ap);
	va_end(ap);
	return text;
}

void arena_reset(struct arena *arena)
{
	struct arena_block *b;

	while ((b = arena->blocks)) {
		arena->blocks = b->next;
		free(b);
	}
}

size_t wire_row_size(const struct log_row *row)
{
	return 64 + (row->config ? 64 : 0) + strlen(row->node->name) +
	       (size_t)row->filter.n_sources * 18;
}

static ProtobufCBinaryData wire_bytes(const struct addr *a)
{
	ProtobufCBinaryData b;

	b.data = (uint8_t *)addr_to_wire(a, &b.len);
	return b;
}

static ProtobufCBinaryData *wire_source_bytes(struct arena *arena, const struct filter *f)
{
	ProtobufCBinaryData *b;

	if (!f->n_sources)
		return NULL;
	b = arena_alloc(arena, f->n_sources * sizeof(*b));
	for (uint32_t i = 0; i < f->n_sources; i++)
		b[i] = wire_bytes(&f->sources[i]);
	return b;
}

Mcmesh__V1__Filter__Mode wire_mode(const struct filter *f)
{
	return f->mode == FILTER_EXCLUDE ? MCMESH__V1__FILTER__MODE__EXCLUDE
					 : MCMESH__V1__FILTER__MODE__INCLUDE;
}

static Mcmesh__V1__MemberChange *member_change(struct arena *arena, const struct log_row *row)
{
	Mcmesh__V1__MemberChange *m = arena_alloc(arena, sizeof(*m));

	mcmesh__v1__member_change__init(m);
	m->group = wire_bytes(&row->key.group);
	m->node = row->node->name;
	m->deleted = row->deleted;
	m->mode = wire_mode(&row->filter);
	m->n_sources = row->filter.n_sources;
	m->sources = wire_source_bytes(arena, &row->filter);
	m->revision = row->revision;
	return m;
}

static Mcmesh__V1__NodeChange *node_change(struct arena *arena, const struct log_row *row)
{
	Mcmesh__V1__NodeChange *n = arena_alloc(arena, sizeof(*n));

	mcmesh__v1__node_change__init(n);
	n->node = row->node->name;
	n->deleted = row->deleted;
	if (!row->deleted)
		n->vtep = wire_bytes(&row->vtep);
	n->revision = row->revision;
	return n;
}

/* One static port a change: a ConfigChange with static_ports is about those alone. */
static Mcmesh__V1__ConfigChange *static_change(struct arena *arena, const struct log_row *row)
{
	Mcmesh__V1__ConfigChange *c = arena_alloc(arena, sizeof(*c));
	Mcmesh__V1__StaticPort *p = arena_alloc(arena, sizeof(*p));

	mcmesh__v1__config_change__init(c);
	c->config = arena_alloc(arena, sizeof(*c->config));
	mcmesh__v1__segment_config__init(c->config);
	mcmesh__v1__static_port__init(p);
	p->node = row->node->name;
	p->port = (char *)row->key.port;
	p->group = wire_bytes(&row->key.group);
	p->mode = wire_mode(&row->filter);
	p->n_sources = row->filter.n_sources;
	p->sources = wire_source_bytes(arena, &row->filter);
	c->config->n_static_ports = 1;
	c->config->static_ports = arena_alloc(arena, sizeof(*c->config->static_ports));
	c->config->static_ports[0] = p;
	c->deleted = row->deleted;
	c->revision = row->revision;
	return c;
}

static Mcmesh__V1__ConfigChange *config_change(struct arena *arena, const struct log_row *row)
{
	Mcmesh__V1__ConfigChange *c = arena_alloc(arena, sizeof(*c));
	const struct log_config *from = row->config;
	Mcmesh__V1__SegmentConfig *to;

	mcmesh__v1__config_change__init(c);
	c->segment = row->key.subject;
	c->deleted = row->deleted;
	c->revision = row->revision;
	if (!from)
		return c;
	c->config = to = arena_alloc(arena, sizeof(*to));
	mcmesh__v1__segment_config__init(to);
	to->link_local_across_nodes = from->link_local_across_nodes;
	to->unregistered = from->unregistered;
	to->fast_leave = from->fast_leave;
	to->querier = from->querier;
	to->router_ports_across_nodes = from->router_ports_across_nodes;
	to->proxy = from->proxy;
	to->querier_guard = from->querier_guard;
	to->require_router_alert = from->require_router_alert;
	to->query_interval_ms = from->query_interval_ms;
	to->query_response_interval_ms = from->query_response_interval_ms;
	to->robustness = from->robustness;
	to->last_member_query_interval_ms = from->last_member_query_interval_ms;
	to->max_groups_per_port = from->max_groups_per_port;
	to->max_sources_per_group = from->max_sources_per_group;
	to->max_hosts_per_group = from->max_hosts_per_group;
	to->max_reports_per_second = from->max_reports_per_second;
	to->igmp_version = from->igmp_version;
	to->mld_version = from->mld_version;
	to->membership_interval_ms = from->membership_interval_ms;
	to->last_member_query_count = from->last_member_query_count;
	to->startup_query_interval_ms = from->startup_query_interval_ms;
	to->startup_query_count = from->startup_query_count;
	to->accept_global_mld_source = from->accept_global_mld_source;
	return c;
}

Mcmesh__V1__Change *wire_change(struct arena *arena, const struct log_row *row)
{
	Mcmesh__V1__Change *c = arena_alloc(arena, sizeof(*c));

	mcmesh__v1__change__init(c);
	switch (row->key.kind) {
	case LOG_NODE:
		c->change_case = MCMESH__V1__CHANGE__CHANGE_NODE;
		c->node = node_change(arena, row);
		break;
	case LOG_STATIC:
		c->change_case = MCMESH__V1__CHANGE__CHANGE_CONFIG;
		c->config = static_change(arena, row);
		break;
	case LOG_CONFIG:
		c->change_case = MCMESH__V1__CHANGE__CHANGE_CONFIG;
		c->config = config_change(arena, row);
		break;
	default:
		c->change_case = MCMESH__V1__CHANGE__CHANGE_MEMBER;
		c->member = member_change(arena, row);
		break;
	}
	return c;
}

char *wire_addr(struct arena *arena, const struct addr *a)
{
	return (char *)addr_format(a, arena_alloc(arena, ADDR_TEXT_MAX));
}

char *wire_group(struct arena *arena, const struct addr *a)
{
	return addr_is_null(a) ? (char *)"*" : wire_addr(arena, a);
}

char **wire_sources(struct arena *arena, const struct filter *f)
{
	char **texts;

	if (!f->n_sources)
		return NULL;
	texts = arena_alloc(arena, f->n_sources * sizeof(*texts));
	for (uint32_t i = 0; i < f->n_sources; i++)
		texts[i] = wire_addr(arena, &f->sources[i]);
	return texts;
}

Mcmesh__V1__Member *wire_member(struct arena *arena, const struct log_row *row)
{
	Mcmesh__V1__Member *m = arena_alloc(arena, sizeof(*m));

	mcmesh__v1__member__init(m);
	m->segment = row->key.segment;
	m->group = wire_group(arena, &row->key.group);
	m->node = row->node->name;
	m->mode = wire_mode(&row->filter);
	m->n_sources = row->filter.n_sources;
	m->sources = wire_sources(arena, &row->filter);
	m->revision = row->revision;
	return m;
}

int wire_filter(Mcmesh__V1__Filter__Mode mode, const ProtobufCBinaryData *sources, size_t n,
		struct filter *ret_filter)
{
	_cleanup_free_ struct addr *addrs = NULL;

	if (mode != MCMESH__V1__FILTER__MODE__INCLUDE && mode != MCMESH__V1__FILTER__MODE__EXCLUDE)
		return -EINVAL;
	if (n) {
		addrs = calloc(n, sizeof(*addrs));
		if (!addrs)
			return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		if (addr_from_wire(sources[i].data, sources[i].len, &addrs[i]) < 0 ||
		    addr_is_multicast(&addrs[i]) || addr_is_unspecified(&addrs[i]))
			return -EINVAL;
	}
	return filter_init(ret_filter,
			   mode == MCMESH__V1__FILTER__MODE__EXCLUDE ? FILTER_EXCLUDE
								     : FILTER_INCLUDE,
			   addrs, n);
}
