/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the segment as one host
 *
 * A router on a port is to know what the whole segment wants: hosts on other
 * ports of its node, members on other nodes, static members. It gets that as the
 * reports of one host, whose state is the merged filter of each group (RFC 4605
 * section 4.1), and not as the reports of the hosts themselves: those of other
 * nodes are not here, and those that are would be a second host beside the
 * first. A leave of one would make the router ask for what the other still
 * wants; an IGMPv2 host would put the router's group into version 2, where it
 * takes no sources from anybody (RFC 9776 7.3.2); each answer would come once a
 * host, and the router would track hosts that it cannot ask. RFC 4541 2.1.1
 * names this form, proxy reporting, beside forwarding, which remains as
 * `proxy: off`.
 *
 * Changes (5.1): a new filter is told at once and robustness - 1 times more,
 * each at random within the unsolicited report interval. While copies of a mode
 * change are left, a report says the whole filter; else those sources whose last
 * change has copies left, as ALLOW or BLOCK by what is wanted now. So a change
 * that overtakes another never says what is not true any more.
 *
 * Answers (5.2): one timer for the general query, one a group for the others,
 * which remembers the sources that were asked for. Nothing is suppressed.
 *
 * An older querier (7.2.1) makes us speak its version until it has been silent
 * for its time: reports and leaves of single groups, where any wish is a wish for
 * every source. Nothing of source-specific groups is said then (RFC 4604 2.2.1).
 * A change of version forgets what was still to be sent, as the RFC has it.
 */
#include "node/gmp/proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "common/cleanup.h"

#define OLDER_SLOTS 64 /* answers to a general query of an old version go in so many turns */

struct source_change {
	struct addr addr;
	uint32_t left; /* copies */
};

struct wanted {
	struct addr group; /* key */
	struct filter filter;
	uint32_t mode_left;	       /* copies of a change of mode; of a join, to an old router */
	bool leave_left;	       /* to an old router */
	struct source_change *changes; /* sorted */
	size_t n_changes;
	bool pending;	    /* on the list */
	uint64_t answer_ms; /* 0: not asked */
	struct addr *asked; /* sources; none: all */
	size_t n_asked;
	struct wanted *prev, *next;
	UT_hash_handle hh;
};

struct proxy {
	bool v6;
	struct proxy_config config;
	uint64_t random;
	struct wanted *wanted;
	struct wanted *pending;		/* with changes that have copies left */
	uint64_t change_ms, general_ms; /* 0: not due */
	uint64_t groups_ms;		/* no group's answer is due before; 0: none is */
	uint64_t older_until[2];	/* of version 1; of version 2, IGMP's */
	enum gmp_version spoken;
};

/* ---- helpers ------------------------------------------------------------------ */

/* xorshift64*, within 1 and n: a delay that collides with nobody's. */
static uint64_t random_delay(struct proxy *p, uint64_t n)
{
	p->random ^= p->random >> 12;
	p->random ^= p->random << 25;
	p->random ^= p->random >> 27;
	return 1 + (n ? (p->random * 2685821657736338717ULL >> 11) % n : 0);
}

static enum gmp_version version_at(const struct proxy *p, uint64_t now)
{
	if (p->older_until[0] > now)
		return p->v6 ? GMP_MLDV1 : GMP_IGMPV1;
	if (p->older_until[1] > now)
		return GMP_IGMPV2;
	return p->v6 ? GMP_MLDV2 : GMP_IGMPV3;
}

static bool speaks_sources(const struct proxy *p)
{
	return p->spoken == GMP_IGMPV3 || p->spoken == GMP_MLDV2;
}

static struct wanted *wanted_find(const struct proxy *p, const struct addr *group)
{
	struct wanted *w;

	HASH_FIND(hh, p->wanted, group, sizeof(*group), w);
	return w;
}

static void wanted_unpend(struct proxy *p, struct wanted *w)
{
	free(w->changes);
	w->changes = NULL;
	w->n_changes = 0;
	w->mode_left = 0;
	w->leave_left = false;
	if (w->pending)
		DL_DELETE(p->pending, w);
	w->pending = false;
}

static void wanted_pend(struct proxy *p, struct wanted *w, uint64_t now)
{
	if (!w->pending)
		DL_APPEND(p->pending, w);
	w->pending = true;
	p->change_ms = now;
}

static void answer_cancel(struct wanted *w)
{
	free(w->asked);
	w->asked = NULL;
	w->n_asked = 0;
	w->answer_ms = 0;
}

static void wanted_free(struct proxy *p, struct wanted *w)
{
	wanted_unpend(p, w);
	answer_cancel(w);
	HASH_DEL(p->wanted, w);
	filter_deinit(&w->filter);
	free(w);
}

/* Nothing is wanted, and nothing is left to say of it. */
static void wanted_settle(struct proxy *p, struct wanted *w)
{
	if (filter_is_none(&w->filter) && !w->pending)
		wanted_free(p, w);
}

int proxy_new(bool v6, const struct proxy_config *config, uint64_t seed, struct proxy **ret_proxy)
{
	struct proxy *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->v6 = v6;
	p->config = *config;
	p->random = seed * 0x9e3779b97f4a7c15ull | 1;
	p->spoken = version_at(p, 0);
	*ret_proxy = p;
	return 0;
}

void proxy_free(struct proxy *p)
{
	struct wanted *w, *next;

	if (!p)
		return;
	HASH_ITER (hh, p->wanted, w, next)
		wanted_free(p, w);
	free(p);
}

void proxy_configure(struct proxy *p, const struct proxy_config *config)
{
	p->config = *config;
}

/* ---- changes (5.1) ------------------------------------------------------------- */

static void change_put(struct source_change *changes, size_t *n, const struct addr *a,
		       uint32_t left)
{
	changes[(*n)++] = (struct source_change){ *a, left };
}

/* Sources on one side only changed, and keep company with those whose copies are
 * left: a merge of three sorted lists. */
static int changes_merge(struct wanted *w, const struct filter *now, uint32_t left)
{
	const struct filter *was = &w->filter;
	struct source_change *changes =
		malloc((was->n_sources + now->n_sources + w->n_changes + 1) * sizeof(*changes));
	size_t i = 0, k = 0, c = 0, n = 0;

	if (!changes)
		return -ENOMEM;
	while (i < was->n_sources || k < now->n_sources || c < w->n_changes) {
		const struct addr *least = NULL;
		bool in_was, in_now, in_old;

		if (i < was->n_sources)
			least = &was->sources[i];
		if (k < now->n_sources && (!least || addr_cmp(&now->sources[k], least) < 0))
			least = &now->sources[k];
		if (c < w->n_changes && (!least || addr_cmp(&w->changes[c].addr, least) < 0))
			least = &w->changes[c].addr;
		in_was = i < was->n_sources && addr_equal(&was->sources[i], least);
		in_now = k < now->n_sources && addr_equal(&now->sources[k], least);
		in_old = c < w->n_changes && addr_equal(&w->changes[c].addr, least);
		if (in_was != in_now)
			change_put(changes, &n, least, left);
		else if (in_old)
			change_put(changes, &n, least, w->changes[c].left);
		i += in_was;
		k += in_now;
		c += in_old;
	}
	free(w->changes);
	w->changes = changes;
	w->n_changes = n;
	return 0;
}

static struct wanted *wanted_add(struct proxy *p, const struct addr *group)
{
	struct wanted *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->group = *group;
	HASH_ADD(hh, p->wanted, group, sizeof(w->group), w);
	if (w->hh.tbl)
		return w;
	free(w);
	return NULL;
}

/* Of what an old router can be told: that a group is wanted, or no longer. */
static void want_older(struct proxy *p, struct wanted *w, bool was, uint64_t now)
{
	bool is = !filter_is_none(&w->filter);

	if (is == was)
		return;
	w->mode_left = is ? p->config.robustness : 0;
	w->leave_left = !is;
	wanted_pend(p, w, now);
}

int proxy_want(struct proxy *p, const struct addr *group, const struct filter *filter, uint64_t now)
{
	struct wanted *w = wanted_find(p, group);
	struct filter copy;
	bool was = w && !filter_is_none(&w->filter);
	int r = 0;

	if (w ? filter_equal(&w->filter, filter) : filter_is_none(filter))
		return 0;
	r = filter_copy(&copy, filter);
	if (r < 0)
		return r;
	if (!w)
		w = wanted_add(p, group);
	if (!w || (speaks_sources(p) && w->filter.mode == filter->mode &&
		   changes_merge(w, filter, p->config.robustness) < 0)) {
		filter_deinit(&copy);
		if (w)
			wanted_settle(p, w);
		return -ENOMEM;
	}
	if (speaks_sources(p) && w->filter.mode != filter->mode) {
		wanted_unpend(p, w);
		w->mode_left = p->config.robustness;
	}
	filter_deinit(&w->filter);
	w->filter = copy;
	if (speaks_sources(p))
		wanted_pend(p, w, now);
	else
		want_older(p, w, was, now);
	wanted_settle(p, w);
	return 0;
}

/* ---- reports ------------------------------------------------------------------- */

struct report {
	struct proxy *p;
	proxy_send *send;
	void *userdata;
	uint8_t records[WIRE_FRAME_MAX];
	size_t len;
	uint16_t n;
};

static void report_send(struct report *r, enum wire_kind kind, const struct addr *group)
{
	const struct proxy *p = r->p;
	uint8_t frame[WIRE_FRAME_MAX];
	struct wire_report report = {
		.kind = kind,
		.v6 = p->v6,
		.source = p->config.source,
		.records = r->records,
		.records_len = r->len,
		.n_records = r->n,
	};

	if (group)
		report.group = *group;
	memcpy(report.mac, p->config.mac, sizeof(report.mac));
	r->send(frame, wire_report_encode(&report, frame), r->userdata);
	r->len = r->n = 0;
}

static void report_flush(struct report *r)
{
	if (r->n)
		report_send(r, WIRE_REPORT_V3, NULL);
}

/* As many of the sources as there is room for; returns how many. */
static size_t record_put(struct report *r, enum wire_record_type type, const struct addr *group,
			 const struct addr *sources, size_t n)
{
	size_t width = r->p->v6 ? 16 : 4, head = 4 + width;
	size_t room = (wire_report_room(r->p->v6) - r->len - head) / width;
	uint8_t *at = r->records + r->len;

	if (n > room)
		n = room;
	at[0] = type;
	at[1] = 0;
	at[2] = (uint8_t)(n >> 8);
	at[3] = (uint8_t)n;
	memcpy(at + 4, group->b + 16 - width, width);
	for (size_t i = 0; i < n; i++)
		memcpy(at + head + i * width, sources[i].b + 16 - width, width);
	r->len += head + n * width;
	r->n++;
	return n;
}

/* 4.2.16: what does not fit goes into another record, but for an EXCLUDE one,
 * which there is only once: sources that it leaves out pass. */
static void record_add(struct report *r, enum wire_record_type type, const struct addr *group,
		       const struct addr *sources, size_t n)
{
	size_t width = r->p->v6 ? 16 : 4, head = 4 + width, room = wire_report_room(r->p->v6);
	bool whole = type == WIRE_IS_EX || type == WIRE_TO_EX;

	for (;;) {
		size_t put;

		if (r->len + head + (whole ? n : n > 0) * width > room)
			report_flush(r);
		put = record_put(r, type, group, sources, n);
		n -= put;
		if (!n || whole)
			return;
		sources += put;
	}
}

/* Counts a copy of each source, and forgets those that were the last. */
static void changes_count(struct wanted *w)
{
	size_t kept = 0;

	for (size_t i = 0; i < w->n_changes; i++) {
		if (--w->changes[i].left)
			w->changes[kept++] = w->changes[i];
	}
	w->n_changes = kept;
}

static int changes_report(struct report *r, struct wanted *w)
{
	_cleanup_free_ struct addr *list = NULL;

	list = malloc((w->n_changes + 1) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (int wants = 1; wants >= 0; wants--) {
		size_t n = 0;

		for (size_t i = 0; i < w->n_changes; i++) {
			if (filter_wants(&w->filter, &w->changes[i].addr) == wants)
				list[n++] = w->changes[i].addr;
		}
		if (n)
			record_add(r, wants ? WIRE_ALLOW : WIRE_BLOCK, &w->group, list, n);
	}
	return 0;
}

static void change_report(struct report *r, struct wanted *w)
{
	if (w->mode_left) {
		record_add(r, w->filter.mode == FILTER_EXCLUDE ? WIRE_TO_EX : WIRE_TO_IN, &w->group,
			   w->filter.sources, w->filter.n_sources);
		w->mode_left--;
	} else if (changes_report(r, w) < 0) {
		return; /* said next time */
	}
	changes_count(w);
}

static enum wire_kind older_report(const struct proxy *p)
{
	return p->spoken == GMP_IGMPV1 ? WIRE_REPORT_V1 : WIRE_REPORT_V2;
}

static void change_report_older(struct report *r, struct wanted *w)
{
	bool silent = addr_is_ssm_group(&w->group);

	if (w->mode_left) {
		if (!silent)
			report_send(r, older_report(r->p), &w->group);
		w->mode_left--;
	} else if (w->leave_left) {
		/* RFC 1112 knows no leaving. */
		if (!silent && r->p->spoken != GMP_IGMPV1)
			report_send(r, WIRE_LEAVE, &w->group);
		w->leave_left = false;
	}
}

static void changes_send(struct report *r, uint64_t now)
{
	struct proxy *p = r->p;
	struct wanted *w, *next;

	DL_FOREACH_SAFE (p->pending, w, next) {
		if (speaks_sources(p))
			change_report(r, w);
		else
			change_report_older(r, w);
		if (w->mode_left || w->leave_left || w->n_changes)
			continue;
		wanted_unpend(p, w);
		wanted_settle(p, w);
	}
	report_flush(r);
	p->change_ms = p->pending ? now + random_delay(p, p->config.unsolicited_interval_ms) : 0;
}

/* ---- answers (5.2) --------------------------------------------------------------- */

static void state_report(struct report *r, const struct wanted *w)
{
	if (!filter_is_none(&w->filter))
		record_add(r, w->filter.mode == FILTER_EXCLUDE ? WIRE_IS_EX : WIRE_IS_IN, &w->group,
			   w->filter.sources, w->filter.n_sources);
}

static void answer_send(struct report *r, struct wanted *w)
{
	size_t n = 0;

	if (!speaks_sources(r->p)) {
		if (!filter_is_none(&w->filter) && !addr_is_ssm_group(&w->group))
			report_send(r, older_report(r->p), &w->group);
	} else if (!w->n_asked) {
		state_report(r, w);
	} else {
		for (size_t i = 0; i < w->n_asked; i++) {
			if (filter_wants(&w->filter, &w->asked[i]))
				w->asked[n++] = w->asked[i];
		}
		if (n)
			record_add(r, WIRE_IS_IN, &w->group, w->asked, n);
	}
	answer_cancel(w);
}

static void answer_at(struct proxy *p, struct wanted *w, uint64_t at)
{
	if (!w->answer_ms || at < w->answer_ms)
		w->answer_ms = at;
	if (!p->groups_ms || w->answer_ms < p->groups_ms)
		p->groups_ms = w->answer_ms;
}

/* The sources of the query beside those that were asked for already. */
static int asked_add(struct wanted *w, const struct wire_message *m)
{
	struct addr *grown = reallocarray(w->asked, w->n_asked + m->n, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	w->asked = grown;
	for (uint16_t i = 0; i < m->n; i++) {
		struct addr a = wire_source(m->v6, m->body, i);
		size_t k = 0;

		while (k < w->n_asked && !addr_equal(&w->asked[k], &a))
			k++;
		if (k == w->n_asked)
			w->asked[w->n_asked++] = a;
	}
	return 0;
}

static void group_asked(struct proxy *p, struct wanted *w, const struct wire_message *m,
			uint64_t at)
{
	bool whole = !m->n || !speaks_sources(p) || (w->answer_ms && !w->n_asked);

	if (whole || asked_add(w, m) < 0) {
		free(w->asked);
		w->asked = NULL;
		w->n_asked = 0;
	}
	answer_at(p, w, at);
}

/* In few turns, and not in one. */
static void all_asked_older(struct proxy *p, uint64_t max_ms, uint64_t now)
{
	uint64_t slot = max_ms / OLDER_SLOTS ? max_ms / OLDER_SLOTS : 1;
	struct wanted *w, *next;

	HASH_ITER (hh, p->wanted, w, next) {
		if (!filter_is_none(&w->filter))
			answer_at(p, w, now + random_delay(p, max_ms / slot) * slot);
	}
}

/* ---- versions (7.2.1) ------------------------------------------------------------- */

static void version_settle(struct proxy *p, uint64_t now)
{
	enum gmp_version version = version_at(p, now);
	struct wanted *w, *next;

	for (int i = 0; i < 2; i++) {
		if (p->older_until[i] <= now)
			p->older_until[i] = 0;
	}
	if (version == p->spoken)
		return;
	p->spoken = version;
	p->change_ms = p->general_ms = p->groups_ms = 0;
	HASH_ITER (hh, p->wanted, w, next) {
		wanted_unpend(p, w);
		answer_cancel(w);
		wanted_settle(p, w);
	}
}

/* 8.12 */
static void version_heard(struct proxy *p, const struct wire_message *m, uint64_t now)
{
	uint64_t until = now + (uint64_t)p->config.robustness * p->config.query_interval_ms +
			 10ull * m->max_response_ms;

	if (m->version == GMP_IGMPV1 || m->version == GMP_MLDV1)
		p->older_until[0] = until;
	else if (m->version == GMP_IGMPV2)
		p->older_until[1] = until;
	version_settle(p, now);
}

/* ---- input and time ---------------------------------------------------------------- */

void proxy_query(struct proxy *p, const struct wire_message *m, uint64_t now)
{
	uint64_t at = now + random_delay(p, m->max_response_ms);
	struct wanted *w;

	version_heard(p, m, now);
	if (p->general_ms && p->general_ms <= at)
		return; /* that answers this one, too */
	if (addr_is_unspecified(&m->group)) {
		if (speaks_sources(p))
			p->general_ms = at;
		else
			all_asked_older(p, m->max_response_ms, now);
		return;
	}
	w = wanted_find(p, &m->group);
	if (w && !filter_is_none(&w->filter))
		group_asked(p, w, m, at);
}

static void groups_answer(struct report *r, uint64_t now)
{
	struct proxy *p = r->p;
	struct wanted *w, *next;

	p->groups_ms = 0;
	HASH_ITER (hh, p->wanted, w, next) {
		if (w->answer_ms && w->answer_ms <= now)
			answer_send(r, w);
		else if (w->answer_ms)
			answer_at(p, w, w->answer_ms);
	}
	report_flush(r);
}

static void general_answer(struct report *r)
{
	struct wanted *w, *next;

	r->p->general_ms = 0;
	HASH_ITER (hh, r->p->wanted, w, next)
		state_report(r, w);
	report_flush(r);
}

void proxy_expire(struct proxy *p, uint64_t now, proxy_send *send, void *userdata)
{
	struct report r = { .p = p, .send = send, .userdata = userdata };

	version_settle(p, now);
	if (p->change_ms && p->change_ms <= now)
		changes_send(&r, now);
	if (p->general_ms && p->general_ms <= now)
		general_answer(&r);
	if (p->groups_ms && p->groups_ms <= now)
		groups_answer(&r, now);
}

static void earlier(uint64_t *next, uint64_t t)
{
	if (t && t < *next)
		*next = t;
}

uint64_t proxy_next_ms(const struct proxy *p)
{
	uint64_t next = UINT64_MAX;

	earlier(&next, p->change_ms);
	earlier(&next, p->general_ms);
	earlier(&next, p->groups_ms);
	earlier(&next, p->older_until[0]);
	earlier(&next, p->older_until[1]);
	return next;
}
