/* SPDX-License-Identifier: Apache-2.0 */
#include "gmp_harness.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define TEXT_MAX 4096

struct text {
	char b[TEXT_MAX];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static void say(struct text *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	t->len += (size_t)vsnprintf(t->b + t->len, sizeof(t->b) - t->len, format, args);
	va_end(args);
	cr_assert(t->len < sizeof(t->b));
}

struct addr addr_of(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0, "%s", text);
	return a;
}

struct addr source_of(bool v6, unsigned int number)
{
	struct addr a = addr_of(v6 ? "2001:db8::" : "192.0.0.0");

	a.b[14] = (uint8_t)(v6 ? number >> 8 : 2 + (number >> 8));
	a.b[15] = (uint8_t)number;
	return a;
}

struct addr host_of(bool v6, unsigned int number)
{
	struct addr a = addr_of(v6 ? "fe80::" : "10.0.0.0");

	a.b[14] = (uint8_t)(number >> 8);
	a.b[15] = (uint8_t)number;
	return a;
}

struct addr group_of(bool v6)
{
	return addr_of(v6 ? "ff1e::a0a:a0a" : "239.10.10.10");
}

static size_t parse_sources(bool v6, const char *text, struct addr *list)
{
	size_t n = 0;

	for (char *end; *text; text = end) {
		unsigned long k = strtoul(text, &end, 10);

		cr_assert(end != text);
		list[n++] = source_of(v6, (unsigned int)k);
	}
	return n;
}

/* ---- frames ------------------------------------------------------------------ */

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t sum(uint32_t s, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		s += i % 2 ? p[i] : (uint32_t)p[i] << 8;
	return s;
}

static uint16_t fold(uint32_t s)
{
	while (s > 0xffff)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static size_t width(bool v6)
{
	return v6 ? 16 : 4;
}

static void put_addr(uint8_t *p, bool v6, const struct addr *a)
{
	memcpy(p, a->b + 16 - width(v6), width(v6));
}

struct ip ip_from(bool v6, const struct addr *source)
{
	return (struct ip){ .source = *source,
			    .destination = addr_of(v6 ? "ff02::16" : "224.0.0.22"),
			    .ttl = 1,
			    .options = v6 ? 8 : 4,
			    .router_alert = true };
}

void frame_sums(struct frame *f)
{
	uint8_t *ip = f->b + 14, *p;
	size_t len, pseudo = 0;
	bool v6 = f->b[12] == 0x86;

	if (v6) {
		p = ip + 40;
		len = (size_t)(ip[4] << 8 | ip[5]);
		for (uint8_t next = ip[6]; next != 58; p += 8 + p[1] * 8) {
			len -= 8u + p[1] * 8u;
			next = p[0];
		}
		pseudo = sum(0, ip + 8, 32) + (uint32_t)len + 58;
	} else {
		p = ip + (ip[0] & 15) * 4;
		len = (size_t)(ip[2] << 8 | ip[3]) - (size_t)(p - ip);
		put16(ip + 10, 0);
		put16(ip + 10, fold(sum(0, ip, (size_t)(p - ip))));
	}
	put16(p + 2, 0);
	put16(p + 2, fold(sum((uint32_t)pseudo, p, len)));
}

static uint8_t *wrap_v4(uint8_t *p, const struct ip *ip, size_t len)
{
	p[0] = (uint8_t)(0x40 | (5 + ip->options / 4));
	p[1] = 0xc0;
	put16(p + 2, (uint32_t)(20 + ip->options + len));
	put16(p + 6, ip->fragment);
	p[8] = ip->ttl;
	p[9] = 2;
	put_addr(p + 12, false, &ip->source);
	put_addr(p + 16, false, &ip->destination);
	memset(p + 20, 1, ip->options); /* no operation */
	if (ip->router_alert && ip->options)
		memcpy(p + 20 + ip->options - 4, "\x94\x04\x00\x00", 4);
	return p + 20 + ip->options;
}

static uint8_t *wrap_v6(uint8_t *p, const struct ip *ip, size_t len)
{
	uint8_t *h = p + 40;

	p[0] = 0x60;
	put16(p + 4, (uint32_t)(ip->options + len));
	p[6] = ip->options ? 0 : 58;
	p[7] = ip->ttl;
	put_addr(p + 8, true, &ip->source);
	put_addr(p + 24, true, &ip->destination);
	if (!ip->options)
		return h;
	memset(h, 0, ip->options); /* pad1 */
	h[0] = 58;
	h[1] = (uint8_t)(ip->options / 8 - 1);
	if (ip->router_alert)
		memcpy(h + ip->options - 4, "\x05\x02\x00\x00", 4);
	return h + ip->options;
}

void frame_wrap(struct frame *f, bool v6, const struct ip *ip, const uint8_t *payload, size_t len)
{
	uint8_t *p;

	memset(f, 0, sizeof(*f));
	f->b[0] = 1;
	f->b[6] = 2;
	put16(f->b + 12, v6 ? 0x86dd : 0x0800);
	p = v6 ? wrap_v6(f->b + 14, ip, len) : wrap_v4(f->b + 14, ip, len);
	cr_assert((size_t)(p - f->b) + len <= sizeof(f->b));
	memcpy(p, payload, len);
	f->len = (size_t)(p - f->b) + len;
	frame_sums(f);
}

size_t report_build(uint8_t *payload, bool v6, const struct record *records, size_t n)
{
	struct addr list[512];
	uint8_t *p = payload + 8;

	memset(payload, 0, 8);
	payload[0] = v6 ? 143 : 0x22;
	put16(payload + 6, (uint32_t)n);
	for (size_t i = 0; i < n; i++) {
		size_t k = parse_sources(v6, records[i].sources, list);

		p[0] = (uint8_t)records[i].type;
		p[1] = 0;
		put16(p + 2, (uint32_t)k);
		put_addr(p + 4, v6, &records[i].group);
		p += 4 + width(v6);
		for (size_t s = 0; s < k; s++, p += width(v6))
			put_addr(p, v6, &list[s]);
	}
	return (size_t)(p - payload);
}

void frame_report(struct frame *f, bool v6, const struct addr *host, const struct record *records,
		  size_t n)
{
	struct ip ip = ip_from(v6, host);
	uint8_t payload[1900];

	frame_wrap(f, v6, &ip, payload, report_build(payload, v6, records, n));
}

void frame_simple(struct frame *f, uint8_t type, const struct addr *host, const struct addr *group)
{
	bool v6 = type >= 130;
	struct ip ip = ip_from(v6, host);
	uint8_t payload[24] = { type };

	ip.destination = *group;
	if (type == 0x17)
		ip.destination = addr_of("224.0.0.2");
	if (type == 132)
		ip.destination = addr_of("ff02::2");
	put_addr(payload + (v6 ? 8 : 4), v6, group);
	frame_wrap(f, v6, &ip, payload, v6 ? 24 : 8);
}

void frame_query(struct frame *f, const struct query *q)
{
	bool v6 = q->version >= GMP_MLDV1;
	struct ip ip = ip_from(v6, &q->source);
	uint8_t payload[1500] = { v6 ? 130 : 0x11 }, *p = payload + (v6 ? 24 : 8);
	struct addr list[400];
	size_t n = parse_sources(v6, q->sources ? q->sources : "", list);

	ip.destination = addr_is_null(&q->group) ? addr_of(v6 ? "ff02::1" : "224.0.0.1") : q->group;
	if (v6)
		put16(payload + 4, 10000);
	else
		payload[1] = q->version == GMP_IGMPV1 ? 0 : 100;
	if (!addr_is_null(&q->group))
		put_addr(payload + (v6 ? 8 : 4), v6, &q->group);
	if (q->version == GMP_IGMPV3 || q->version == GMP_MLDV2) {
		p[0] = (uint8_t)((q->s_flag ? 8 : 0) | q->qrv);
		p[1] = q->qqic;
		put16(p + 2, (uint32_t)n);
		p += 4;
		for (size_t i = 0; i < n; i++, p += width(v6))
			put_addr(p, v6, &list[i]);
	}
	frame_wrap(f, v6, &ip, payload, (size_t)(p - payload));
}

/* ---- the rig ----------------------------------------------------------------- */

struct gmp_config rig_config(void)
{
	struct gmp_config config;

	gmp_config_default(&config);
	config.query_source_v4 = addr_of("10.9.9.9");
	config.query_source_v6 = addr_of("fe80::9:9");
	memcpy(config.query_mac, "\x02\x01\x02\x03\x04\x05", 6);
	return config;
}

struct rig *rig_new(bool v6, const struct gmp_config *config)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	const uint32_t ports[] = { P1, P2, R };

	cr_assert(rig);
	rig->v6 = v6;
	rig->now = 1000000;
	rig->config = config ? *config : rig_config();
	cr_assert_eq(gmp_new(&rig->gmp), 0);
	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(gmp_port_add(rig->gmp, ports[i], 7, &rig->config, rig->now, &rig->fx),
			     0);
	rig_wait(rig, 200000);
	gmp_fx_clear(&rig->fx);
	return rig;
}

void rig_free(struct rig *rig)
{
	gmp_free(rig->gmp);
	gmp_fx_deinit(&rig->fx);
	free(rig);
}

void rig_frame(struct rig *rig, uint32_t port, const struct frame *f)
{
	uint8_t *exact = malloc(f->len ? f->len : 1); /* a byte too far is seen */

	cr_assert(exact);
	memcpy(exact, f->b, f->len);
	gmp_fx_clear(&rig->fx);
	gmp_input(rig->gmp, port, exact, f->len, rig->now, &rig->fx);
	free(exact);
}

void rig_report_host(struct rig *rig, uint32_t port, unsigned int host, unsigned int type,
		     const char *sources)
{
	struct addr from = host_of(rig->v6, host);
	struct record record = { type, group_of(rig->v6), sources };
	struct frame f;

	frame_report(&f, rig->v6, &from, &record, 1);
	rig_frame(rig, port, &f);
}

void rig_report(struct rig *rig, uint32_t port, unsigned int type, const char *sources)
{
	rig_report_host(rig, port, port, type, sources);
}

void rig_old_host(struct rig *rig, uint32_t port, unsigned int host, uint8_t type)
{
	struct addr from = host_of(rig->v6, host), group = group_of(rig->v6);
	struct frame f;

	frame_simple(&f, type, &from, &group);
	rig_frame(rig, port, &f);
}

void rig_old(struct rig *rig, uint32_t port, uint8_t type)
{
	rig_old_host(rig, port, port, type);
}

void rig_query(struct rig *rig, uint32_t port, const struct query *query)
{
	struct frame f;

	frame_query(&f, query);
	rig_frame(rig, port, &f);
}

void rig_wait(struct rig *rig, uint64_t ms)
{
	uint64_t end = rig->now + ms;
	unsigned int still = 0;

	for (uint64_t next; (next = gmp_next_ms(rig->gmp)) <= end;) {
		still = next > rig->now ? 0 : still + 1;
		cr_assert_lt(still, 1000, "what is due does not go away");
		if (next > rig->now)
			rig->now = next;
		gmp_expire(rig->gmp, rig->now, &rig->fx);
	}
	rig->now = end;
}

/* ---- words ------------------------------------------------------------------- */

static unsigned int number_of(bool v6, const struct addr *a)
{
	return (unsigned int)(v6 ? a->b[14] << 8 : (a->b[14] - 2) << 8) | a->b[15];
}

struct telling {
	const struct rig *rig;
	struct text *text;
};

static void say_seconds(struct text *t, uint64_t ms)
{
	if (ms % 1000)
		say(t, ":%.1f", (double)ms / 1000);
	else
		say(t, ":%u", (unsigned int)(ms / 1000));
}

static int tell_state(const struct gmp_membership_view *view, void *userdata)
{
	struct telling *tell = userdata;
	struct text *t = tell->text;
	bool exclude = view->mode == FILTER_EXCLUDE;

	say(t, exclude ? "EX" : "IN");
	if (exclude && !view->is_static)
		say_seconds(t, view->expires_ms - tell->rig->now);
	for (int blocked = 0; blocked <= exclude; blocked++) {
		const char *gap = "";

		say(t, "{");
		for (size_t i = 0; i < view->n_sources; i++) {
			const struct gmp_source_view *s = &view->sources[i];

			if (s->forwarded == blocked)
				continue;
			say(t, "%s%u", gap, number_of(tell->rig->v6, &s->addr));
			gap = " ";
			if (s->expires_ms)
				say_seconds(t, s->expires_ms - tell->rig->now);
		}
		say(t, "}");
	}
	return 0;
}

const char *rig_state_of(const struct rig *rig, uint32_t port, const struct addr *group)
{
	static struct text t;
	struct telling tell = { rig, &t };

	t.len = 0;
	if (gmp_membership_view(rig->gmp, port, group, tell_state, &tell) != 0)
		say(&t, "-");
	return t.b;
}

const char *rig_state(const struct rig *rig, uint32_t port)
{
	struct addr group = group_of(rig->v6);

	return rig_state_of(rig, port, &group);
}

const char *rig_view(const struct rig *rig, uint32_t port)
{
	static struct text t;
	struct addr group = group_of(rig->v6);
	struct filter f;

	t.len = 0;
	cr_assert_eq(gmp_membership_filter(rig->gmp, port, &group, &f), 0);
	say(&t, f.mode == FILTER_EXCLUDE ? "EX{" : "IN{");
	for (uint32_t i = 0; i < f.n_sources; i++)
		say(&t, i ? " %u" : "%u", number_of(rig->v6, &f.sources[i]));
	say(&t, "}");
	filter_deinit(&f);
	return t.b;
}

static void say_query(struct text *t, const uint8_t *frame, size_t len)
{
	bool v6 = frame[12] == 0x86;
	const uint8_t *p = frame + 14 + (v6 ? 48 : 24), *tail = p + (v6 ? 24 : 8);
	const uint8_t *group = p + (v6 ? 8 : 4);
	bool general = true;

	for (size_t i = 0; i < width(v6); i++)
		general &= !group[i];
	say(t, "%sQ(%s", t->len ? " " : "", general ? "" : "G");
	if ((size_t)(frame + len - tail) >= 4) {
		size_t n = (size_t)(tail[2] << 8 | tail[3]);

		for (size_t i = 0; i < n; i++) {
			struct addr a = v6 ? addr_v6(tail + 4 + i * 16) : ADDR_NULL;

			if (!v6)
				memcpy(a.b + 12, tail + 4 + i * 4, 4);
			say(t, i ? " %u" : ",%u", number_of(v6, &a));
		}
		say(t, tail[0] & 8 ? ")s" : ")");
		return;
	}
	say(t, ")old");
}

const char *rig_queries(const struct rig *rig, uint32_t port)
{
	static struct text t;

	t.len = 0;
	t.b[0] = '\0';
	for (size_t i = 0; i < rig->fx.n; i++) {
		const struct gmp_fx_item *item = &rig->fx.items[i];

		if (item->type == GMP_FX_QUERY && item->port == port &&
		    (gmp_fx_frame(&rig->fx, item)[12] == 0x86) == rig->v6)
			say_query(&t, gmp_fx_frame(&rig->fx, item), item->frame_len);
	}
	return t.b;
}

const uint8_t *rig_query_frame(const struct rig *rig, size_t *ret_len)
{
	for (size_t i = rig->fx.n; i-- > 0;) {
		const struct gmp_fx_item *item = &rig->fx.items[i];

		if (item->type != GMP_FX_QUERY ||
		    (gmp_fx_frame(&rig->fx, item)[12] == 0x86) != rig->v6)
			continue;
		*ret_len = item->frame_len;
		return gmp_fx_frame(&rig->fx, item);
	}
	return NULL;
}

size_t rig_effects(const struct rig *rig, uint32_t port, enum gmp_fx_type type)
{
	size_t n = 0;

	for (size_t i = 0; i < rig->fx.n; i++)
		n += rig->fx.items[i].type == type && rig->fx.items[i].port == port;
	return n;
}

bool rig_forwards(const struct rig *rig, uint32_t port, unsigned int source)
{
	struct addr group = group_of(rig->v6), s = source_of(rig->v6, source);
	struct filter f;
	bool wants;

	cr_assert_eq(gmp_membership_filter(rig->gmp, port, &group, &f), 0);
	wants = filter_wants(&f, &s);
	filter_deinit(&f);
	return wants;
}

uint64_t rig_counter(const struct rig *rig, enum gmp_counter c)
{
	return gmp_port_counter(rig->gmp, P1, c);
}

static int take_version(const struct gmp_membership_view *view, void *userdata)
{
	*(enum gmp_version *)userdata = view->version;
	return 0;
}

enum gmp_version rig_version(const struct rig *rig, uint32_t port)
{
	enum gmp_version version = GMP_VERSION_NONE;
	struct addr group = group_of(rig->v6);

	gmp_membership_view(rig->gmp, port, &group, take_version, &version);
	return version;
}
