// SPDX-License-Identifier: Apache-2.0
#include "tests/oracle/oracle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/oracle/wire.h"

/*
 * DOC: the check
 *
 * An event is drawn whole before it is executed, so that it can be printed later
 * as it was. Each event goes to the engine as a frame or a call, and to the model
 * as its meaning; then everything that either says of every (port, group) must
 * agree. An event may come after some time without a gmp_expire() between: a timer
 * set to expire at t has run out at t, whoever looks first.
 */

enum {
	RECORDS_MAX = 4,
	EXPIRE_ROUNDS_MAX = 10000,
	FIRST_IFINDEX = 11, /* of port 0 */
};

enum event_kind {
	EVENT_TIME,
	EVENT_REPORT,
	EVENT_OLD_REPORT,
	EVENT_OLD_LEAVE,
	EVENT_QUERY,
	EVENT_PORT_REMOVE,
	EVENT_PORT_ADD,
};

struct event_record {
	uint8_t type, aux_words;
	uint8_t group;
	uint8_t sources;
	bool twice; /* each source is named twice */
};

struct event {
	uint64_t number, now;
	enum event_kind kind;
	int port;
	struct wire_dress dress;
	enum gmp_version version;
	unsigned n_records;
	struct event_record records[RECORDS_MAX];
	struct oracle_query query;
};

struct check {
	const struct oracle_run *run;
	uint64_t random;
	uint64_t now;
	struct gmp *gmp;
	struct gmp_fx fx;
	struct oracle model;
	struct gmp_config configs[ORACLE_PORTS];
	struct event history[ORACLE_HISTORY];
	uint64_t number; /* of the present event */
	bool seen[ORACLE_PORTS][ORACLE_GROUPS];
	bool reported[ORACLE_PORTS][ORACLE_GROUPS]; /* by GMP_FX_MEMBERSHIP */
	struct oracle_view before[ORACLE_PORTS][ORACLE_GROUPS];
	int different; /* 1 + port * ORACLE_GROUPS + group */
};

/* splitmix64 */
static uint64_t draw(struct check *c)
{
	uint64_t z = c->random += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static unsigned below(struct check *c, unsigned n)
{
	return draw(c) % n;
}

static bool one_in(struct check *c, unsigned n)
{
	return below(c, n) == 0;
}

/* ---- what is told ------------------------------------------------------------- */

static void print_set(FILE *out, unsigned set)
{
	fputc('{', out);
	for (int i = 0; i < ORACLE_SOURCES; i++)
		if (set & 1u << i)
			fprintf(out, " s%d", i);
	fputs(" }", out);
}

static void print_event(FILE *out, const struct event *e)
{
	static const char *const kinds[] = { "time",  "report",	     "old report", "leave",
					     "query", "port remove", "port add" };
	static const char *const types[] = { "?0",    "IS_IN", "IS_EX", "TO_IN",
					     "TO_EX", "ALLOW", "BLOCK" };
	char text[ADDR_TEXT_MAX];

	fprintf(out, "  #%" PRIu64 " t=%" PRIu64 " %s", e->number, e->now, kinds[e->kind]);
	if (e->kind != EVENT_TIME)
		fprintf(out, " port %d", e->port);
	for (unsigned i = 0; i < e->n_records; i++) {
		const struct event_record *r = &e->records[i];

		fprintf(out, " %s(g%u, ", r->type <= ORACLE_BLOCK ? types[r->type] : "unknown",
			r->group);
		print_set(out, r->sources);
		fputc(')', out);
	}
	if (e->kind == EVENT_OLD_REPORT || e->kind == EVENT_OLD_LEAVE)
		fprintf(out, " g%d version %d", e->query.group, e->version);
	if (e->kind == EVENT_QUERY) {
		fprintf(out, " from %s g%d S=%d QRV=%d QQIC=%d ", addr_format(&e->query.from, text),
			e->query.group, e->query.suppress, e->query.qrv, e->query.qqic);
		print_set(out, e->query.sources);
	}
	fputc('\n', out);
}

static bool concerns(const struct event *e, int port, int group)
{
	if (e->port != port)
		return false;
	if (e->kind == EVENT_TIME || e->kind == EVENT_QUERY)
		return e->kind == EVENT_QUERY;
	for (unsigned i = 0; i < e->n_records; i++)
		if (e->records[i].group == group)
			return true;
	return e->n_records == 0 && (e->query.group < 0 || e->query.group == group);
}

static void print_history(struct check *c, int port, int group)
{
	uint64_t picks[ORACLE_HISTORY_SHOW];
	unsigned n = 0;

	for (uint64_t i = c->number; i && i + ORACLE_HISTORY > c->number; i--) {
		if (!concerns(&c->history[i % ORACLE_HISTORY], port, group))
			continue;
		picks[n++] = i;
		if (n == ORACLE_HISTORY_SHOW)
			break;
	}
	while (n--)
		print_event(c->run->out, &c->history[picks[n] % ORACLE_HISTORY]);
}

static void print_model(struct check *c, int port, int group)
{
	const struct oracle_group *g = &c->model.ports[port].groups[group];
	FILE *out = c->run->out;

	fprintf(out, "model:  %s timer=%" PRIu64 " version=%d v1=%" PRIu64 " v2=%" PRIu64,
		g->exclude ? "EXCLUDE" : "INCLUDE", g->timer,
		oracle_version(&c->model, port, group, c->now), g->v1_until, g->v2_until);
	for (int i = 0; i < ORACLE_SOURCES; i++)
		if (g->sources[i].state)
			fprintf(out, " s%d:%s:%" PRIu64, i,
				g->sources[i].state == ORACLE_WANTED ? "wanted" : "blocked",
				g->sources[i].expires);
	fprintf(out, " other querier until %" PRIu64 "\n",
		c->model.ports[port].other_querier_until);
}

static int source_index(const struct check *c, const struct addr *a)
{
	for (int i = 0; i < ORACLE_SOURCES; i++)
		if (addr_equal(a, &c->model.sources[i]))
			return i;
	return -1;
}

static int print_engine_view(const struct gmp_membership_view *view, void *userdata)
{
	struct check *c = userdata;
	FILE *out = c->run->out;

	fprintf(out, "engine: %s expires=%" PRIu64 " version=%d",
		view->mode == FILTER_EXCLUDE ? "EXCLUDE" : "INCLUDE", view->expires_ms,
		view->version);
	for (size_t i = 0; i < view->n_sources; i++)
		fprintf(out, " s%d:%s:%" PRIu64, source_index(c, &view->sources[i].addr),
			view->sources[i].forwarded ? "wanted" : "blocked",
			view->sources[i].expires_ms);
	fputc('\n', out);
	return 0;
}

/* Says it once, for the first (port, group). */
static int differ(struct check *c, int port, int group, const char *what)
{
	char text[ADDR_TEXT_MAX];
	FILE *out = c->run->out;
	const struct addr *g = &c->model.groups[group];

	fprintf(out, "%s: seed %" PRIu64 " event %" PRIu64 " t=%" PRIu64 " port %d g%d %s: %s\n",
		c->run->v6 ? "MLD" : "IGMP", c->run->seed, c->number, c->now, port, group,
		addr_format(g, text), what);
	print_history(c, port, group);
	print_model(c, port, group);
	if (gmp_membership_view(c->gmp, FIRST_IFINDEX + port, g, print_engine_view, c) == -ENOENT)
		fputs("engine: no membership\n", out);
	return 1;
}

/* ---- comparison ---------------------------------------------------------------- */

static int group_index(const struct check *c, const struct addr *a)
{
	for (int i = 0; i < ORACLE_GROUPS; i++)
		if (addr_equal(a, &c->model.groups[i]))
			return i;
	return -1;
}

static int compare_source(struct check *c, int port, int group, const struct gmp_source_view *view)
{
	int i = source_index(c, &view->addr);
	const struct oracle_source *s;

	if (i < 0)
		return differ(c, port, group, "a source that nobody named");
	s = &c->model.ports[port].groups[group].sources[i];
	if (s->state == ORACLE_ABSENT)
		return differ(c, port, group, "a source too many");
	if (view->forwarded != (s->state == ORACLE_WANTED))
		return differ(c, port, group, "forwarded or blocked");
	if (view->expires_ms != s->expires)
		return differ(c, port, group, "a source's expiry");
	return 0;
}

static int compare_view(const struct gmp_membership_view *view, void *userdata)
{
	struct check *c = userdata;
	int port = view->port - FIRST_IFINDEX, group = group_index(c, &view->group);
	const struct oracle_group *g;
	size_t n = 0;

	if (port < 0 || port >= ORACLE_PORTS || group < 0)
		return differ(c, 0, 0, "a membership that nobody asked for");
	g = &c->model.ports[port].groups[group];
	if (!oracle_exists(&c->model, port, group) || c->seen[port][group])
		return differ(c, port, group, "a membership too many");
	c->seen[port][group] = true;
	if ((view->mode == FILTER_EXCLUDE) != g->exclude)
		return differ(c, port, group, "the filter mode");
	if (view->version != oracle_version(&c->model, port, group, c->now))
		return differ(c, port, group, "the version");
	if (g->exclude && view->expires_ms != g->timer)
		return differ(c, port, group, "the group timer");
	for (int i = 0; i < ORACLE_SOURCES; i++)
		n += g->sources[i].state != ORACLE_ABSENT;
	if (view->n_sources != n)
		return differ(c, port, group, "the number of sources");
	for (size_t i = 0; i < view->n_sources; i++)
		if (compare_source(c, port, group, &view->sources[i]))
			return 1;
	return 0;
}

static int compare_filter(struct check *c, int port, int group)
{
	struct oracle_view want = oracle_view(&c->model, port, group), *before;
	struct filter filter = FILTER_NULL;
	unsigned set = 0;
	bool same, now_other;

	if (gmp_membership_filter(c->gmp, FIRST_IFINDEX + port, &c->model.groups[group], &filter))
		return -ENOMEM;
	for (uint32_t i = 0; i < filter.n_sources; i++) {
		int s = source_index(c, &filter.sources[i]);

		set |= s < 0 ? 1u << 31 : 1u << s;
	}
	same = (filter.mode == FILTER_EXCLUDE) == want.exclude && set == want.sources;
	filter_deinit(&filter);
	if (!same)
		return differ(c, port, group, "the filter");
	if (c->seen[port][group] != oracle_exists(&c->model, port, group))
		return differ(c, port, group, "a membership is missing");
	/* A view that is another than before must be told; one that never changed,
	 * also not for a moment between two records, must not. */
	before = &c->before[port][group];
	now_other = before->exclude != want.exclude || before->sources != want.sources;
	if (now_other && !c->reported[port][group])
		return differ(c, port, group, "the change was not told");
	if (c->reported[port][group] && !c->model.changed[port][group])
		return differ(c, port, group, "a change was told that is none");
	*before = want;
	return 0;
}

static int compare(struct check *c)
{
	int r;

	memset(c->seen, 0, sizeof(c->seen));
	memset(c->reported, 0, sizeof(c->reported));
	for (size_t i = 0; i < c->fx.n; i++) {
		const struct gmp_fx_item *item = &c->fx.items[i];
		int group = group_index(c, &item->group);
		int port = item->port - FIRST_IFINDEX;

		if (item->type != GMP_FX_MEMBERSHIP)
			continue;
		if (group < 0 || port < 0 || port >= ORACLE_PORTS)
			return differ(c, 0, 0, "a change of what nobody asked for");
		c->reported[port][group] = true;
	}
	r = gmp_memberships_walk(c->gmp, 0, compare_view, c);
	if (r)
		return r;
	for (int port = 0; port < ORACLE_PORTS; port++) {
		size_t n = 0;

		for (int group = 0; group < ORACLE_GROUPS; group++) {
			n += oracle_exists(&c->model, port, group);
			r = compare_filter(c, port, group);
			if (r)
				return r;
		}
		if (gmp_port_membership_count(c->gmp, FIRST_IFINDEX + port) != n)
			return differ(c, port, 0, "the port's number of memberships");
	}
	return 0;
}

/* ---- drawing ------------------------------------------------------------------- */

static struct addr station(const struct check *c, unsigned last)
{
	if (c->run->v6)
		return (struct addr){ { 0xfe, 0x80, [15] = last } };
	return (struct addr){ { [10] = 0xff, 0xff, 198, 18, 0, last } };
}

/* Of stations below the querier (.5) and above it, or of none. */
static void draw_query(struct check *c, struct event *e)
{
	static const uint8_t stations[] = { 1, 1, 3, 9, 9, 9 };
	struct oracle_query *q = &e->query;

	q->from = station(c, stations[below(c, sizeof(stations))]);
	if (!c->run->v6 && one_in(c, 8))
		q->from = (struct addr){ { [10] = 0xff, 0xff } };
	q->group = below(c, ORACLE_GROUPS + 3) - 3;
	if (q->group < 0)
		q->group = -1;
	else if (one_in(c, 2))
		q->sources = below(c, 1u << ORACLE_SOURCES);
	q->suppress = one_in(c, 3);
	q->qrv = one_in(c, 3) ? below(c, 8) : c->configs[e->port].robustness;
	q->qqic = c->configs[e->port].query_interval_ms / 1000;
	if (one_in(c, 3))
		q->qqic = one_in(c, 4) ? 128 + below(c, 16) : one_in(c, 4) ? 0 : 7 + below(c, 120);
	e->dress.from = q->from;
}

static void draw_records(struct check *c, struct event *e)
{
	e->n_records = one_in(c, 2) ? 1 : 1 + below(c, RECORDS_MAX);
	for (unsigned i = 0; i < e->n_records; i++) {
		struct event_record *r = &e->records[i];

		r->type = one_in(c, 40) ? 7 + below(c, 249) : 1 + below(c, 6);
		r->group = below(c, ORACLE_GROUPS);
		r->sources = below(c, 1u << ORACLE_SOURCES) & below(c, 1u << ORACLE_SOURCES);
		if (one_in(c, 5))
			r->sources = 0;
		r->aux_words = one_in(c, 10) ? below(c, 4) : 0;
		r->twice = one_in(c, 20);
	}
	e->dress.tail = one_in(c, 20) ? below(c, 13) : 0;
}

/* A deadline exactly, a tick to either side, or anything. */
static uint64_t draw_time(struct check *c)
{
	uint64_t at = 0;

	if (one_in(c, 2))
		at = oracle_deadline(&c->model, c->now, one_in(c, 4) ? below(c, 6) : 0);
	if (at)
		at = at - 1 + below(c, 3);
	else
		at = c->now + (one_in(c, 12) ? below(c, 120000) : below(c, 1500));
	return at < c->now ? c->now : at;
}

static void draw_event(struct check *c, struct event *e)
{
	unsigned kind = below(c, 1000);

	*e = (struct event){
		.number = c->number,
		.port = below(c, ORACLE_PORTS),
		.now = c->now,
		.query.group = below(c, ORACLE_GROUPS),
	};
	e->dress.host = 20 + below(c, 4);
	e->dress.from = station(c, e->dress.host);
	e->dress.no_alert = !c->run->v6 && one_in(c, 8);
	e->dress.padding = one_in(c, 8) ? below(c, 20) : 0;
	if (kind < 150 || one_in(c, 16))
		e->now = draw_time(c);
	if (kind < 150) {
		e->kind = EVENT_TIME;
	} else if (kind < 690) {
		e->kind = EVENT_REPORT;
		draw_records(c, e);
	} else if (kind < 790) {
		e->kind = EVENT_OLD_REPORT;
		e->version = c->run->v6 ? GMP_MLDV1 : one_in(c, 3) ? GMP_IGMPV1 : GMP_IGMPV2;
	} else if (kind < 890) {
		e->kind = EVENT_OLD_LEAVE;
	} else if (kind < 990) {
		e->kind = EVENT_QUERY;
		draw_query(c, e);
	} else {
		e->query.group = -1;
		e->kind = c->model.ports[e->port].present ? EVENT_PORT_REMOVE : EVENT_PORT_ADD;
	}
	if (!c->model.ports[e->port].present && one_in(c, 4)) {
		e->kind = EVENT_PORT_ADD;
		e->n_records = 0;
	}
}

/* ---- executing ----------------------------------------------------------------- */

static void frame_report(struct check *c, const struct event *e, struct wire_frame *f)
{
	struct wire_record records[RECORDS_MAX];

	for (unsigned i = 0; i < e->n_records; i++) {
		const struct event_record *from = &e->records[i];
		struct wire_record *r = &records[i];

		*r = (struct wire_record){
			.type = from->type,
			.aux_words = from->aux_words,
			.group = c->model.groups[from->group],
		};
		for (int round = 0; round <= from->twice; round++)
			for (int s = ORACLE_SOURCES - 1; s >= 0; s--)
				if (from->sources & 1u << s)
					r->sources[r->n_sources++] = c->model.sources[s];
	}
	wire_report(f, &e->dress, records, e->n_records);
}

static void frame_query(struct check *c, const struct event *e, struct wire_frame *f)
{
	const struct gmp_config *config = &c->configs[e->port];
	const struct oracle_query *q = &e->query;
	struct addr sources[ORACLE_SOURCES];
	struct wire_query query = { .sources = sources, .suppress = q->suppress };
	uint32_t response = q->group < 0 ? config->query_response_interval_ms
					 : config->last_member_query_interval_ms;

	if (q->group >= 0)
		query.group = c->model.groups[q->group];
	for (int s = 0; s < ORACLE_SOURCES; s++)
		if (q->sources & 1u << s)
			sources[query.n_sources++] = c->model.sources[s];
	query.qrv = q->qrv;
	query.qqic = q->qqic;
	query.max_resp_code = c->run->v6 ? response : response / 100;
	wire_query(f, &e->dress, &query);
}

static void engine_event(struct check *c, const struct event *e)
{
	const struct addr *group = &c->model.groups[e->query.group < 0 ? 0 : e->query.group];
	uint32_t port = FIRST_IFINDEX + e->port;
	struct wire_frame f = { .len = 0 };

	switch (e->kind) {
	case EVENT_TIME:
		return;
	case EVENT_PORT_REMOVE:
		gmp_port_remove(c->gmp, port, &c->fx);
		return;
	case EVENT_PORT_ADD:
		gmp_port_add(c->gmp, port, 1, &c->configs[e->port], e->now, &c->fx);
		return;
	case EVENT_REPORT:
		frame_report(c, e, &f);
		break;
	case EVENT_OLD_REPORT:
		wire_old_report(&f, &e->dress, e->version, group);
		break;
	case EVENT_OLD_LEAVE:
		wire_old_leave(&f, &e->dress, group);
		break;
	case EVENT_QUERY:
		frame_query(c, e, &f);
		break;
	}
	gmp_input(c->gmp, port, f.data, f.len, e->now, &c->fx);
}

static void model_event(struct oracle *o, const struct event *e)
{
	oracle_advance(o, e->now);
	switch (e->kind) {
	case EVENT_TIME:
		break;
	case EVENT_PORT_REMOVE:
		oracle_port_remove(o, e->port);
		break;
	case EVENT_PORT_ADD:
		/* of a port that is there: -EEXIST */
		break;
	case EVENT_REPORT:
		for (unsigned i = 0; i < e->n_records; i++)
			oracle_record(o, e->port, e->records[i].group, e->records[i].type,
				      e->records[i].sources, e->now);
		break;
	case EVENT_OLD_REPORT:
		oracle_old_report(o, e->port, e->query.group, e->version, e->now);
		break;
	case EVENT_OLD_LEAVE:
		oracle_old_leave(o, e->port, e->query.group, e->now);
		break;
	case EVENT_QUERY:
		oracle_query(o, e->port, &e->query, e->now);
		break;
	}
}

static int execute(struct check *c, const struct event *e)
{
	unsigned rounds = 0;

	gmp_fx_clear(&c->fx);
	oracle_forget_changes(&c->model);
	c->now = e->now;
	engine_event(c, e);
	model_event(&c->model, e);
	if (e->kind == EVENT_PORT_ADD && !c->model.ports[e->port].present)
		oracle_port_add(&c->model, e->port, &c->configs[e->port]);
	while (gmp_next_ms(c->gmp) <= c->now) {
		if (++rounds > EXPIRE_ROUNDS_MAX)
			return differ(c, e->port, 0, "gmp_expire() does not come to an end");
		gmp_expire(c->gmp, c->now, &c->fx);
	}
	return compare(c);
}

/* A port each with: the defaults; other intervals; no querier; an interval of
 * membership by hand; the guard against queries. */
static int configure(struct check *c)
{
	const char *why;

	for (int i = 0; i < ORACLE_PORTS; i++) {
		struct gmp_config *config = &c->configs[i];

		gmp_config_default(config);
		config->querier = i != 2;
		config->querier_guard = i == 4;
		config->fast_leave = false;
		config->require_router_alert = false;
		config->igmp_version = GMP_IGMPV3;
		config->mld_version = GMP_MLDV2;
		config->max_reports_per_second = 1000000;
		addr_parse("198.18.0.5", &config->query_source_v4);
		addr_parse("fe80::5", &config->query_source_v6);
		if (i == 1) {
			config->robustness = 3;
			config->query_interval_ms = 20000;
			config->query_response_interval_ms = 5000;
			config->last_member_query_interval_ms = 700;
			config->last_member_query_count = 4;
		}
		if (i == 3)
			config->membership_interval_ms = 30000;
		if (gmp_config_validate(config, &why)) {
			fprintf(c->run->out, "settings of port %d: %s\n", i, why);
			return -EINVAL;
		}
	}
	return 0;
}

int oracle_run(const struct oracle_run *run)
{
	struct check *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->run = run;
	c->random = run->seed;
	c->now = 1000000;
	oracle_init(&c->model, run->v6);
	r = configure(c);
	if (!r)
		r = gmp_new(&c->gmp);
	for (int i = 0; !r && i < ORACLE_PORTS; i++) {
		r = gmp_port_add(c->gmp, FIRST_IFINDEX + i, 1, &c->configs[i], c->now, &c->fx);
		oracle_port_add(&c->model, i, &c->configs[i]);
	}
	while (!r && c->number < run->events) {
		struct event *e = &c->history[++c->number % ORACLE_HISTORY];

		draw_event(c, e);
		r = execute(c, e);
	}
	gmp_fx_deinit(&c->fx);
	gmp_free(c->gmp);
	free(c);
	return r;
}
