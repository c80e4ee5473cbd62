/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run: a mesh comes up, then rounds of changes and faults, each followed by
 * healing and quiet, after which everything must be as the workloads want it.
 * In between, nothing that was right and still is wanted may be taken away while
 * its node is heard or held.
 */
#include "tests/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/node_service.h"
#include "tests/sim/db.h"

#define ROUNDS	      3
#define CHAOS_US      (12 * SIM_S)
#define TICK_US	      (50 * SIM_MS)
#define CONTROL_HOST  20 /* of the first controller */
#define STABLE_GROUPS 2	 /* of each segment: the law of no withdrawal needs some */
/* From the last that a node said to what its controller counts as silence. */
#define HEARD_SLACK_MS 1500

struct world world;

/* ---- the controllers -------------------------------------------------------------------- */

static void controller_stop(struct member_controller *m)
{
	if (!m->c)
		return;
	sim_process_kill(m->process);
	m->resync_digest += m->c->counters.resync_digest;
	m->alarms += m->c->counters.digest_alarms;
	m->snapshots += m->c->counters.snapshots;
	m->slow += m->c->counters.slow_agents;
	controller_free(m->c);
	controller_config_free(m->config);
	m->c = NULL;
}

static void dump_row(const char *who, unsigned int segment, unsigned int group, const char *node,
		     const struct filter *f)
{
	char text[64] = "";

	for (uint32_t i = 0; i < f->n_sources; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), " %u",
			 f->sources[i].b[15]);
	sim_trace("%s: segment %u group %u node %s: %s {%s }", who, segment, group, node,
		  f->mode == FILTER_EXCLUDE ? "EXCLUDE" : "INCLUDE", text);
}

struct dump {
	const char *who;
	unsigned int segment, group;
};

static void dump_member(const char *node, const struct filter *filter, void *userdata)
{
	struct dump *d = userdata;

	dump_row(d->who, d->segment, d->group, node, filter);
}

/* For the trace: every row of the controller and of the nodes' mirrors. */
static void dump(const struct member_controller *m)
{
	struct log_row *row;

	if (!sim_tracing)
		return;
	for (row = log_after(m->c->log, 0); row; row = TAILQ_NEXT(row, by_log)) {
		if (!row->deleted && row->key.kind == LOG_MEMBER)
			dump_row(m->name, row->key.segment, row->key.group.b[15], row->node->name,
				 &row->filter);
	}
	for (size_t i = 0; i < world.n_nodes; i++) {
		struct node *n = &world.nodes[i];

		for (unsigned int j = 0; n->process && j < SEGMENTS * GROUPS; j++) {
			struct dump d = { n->name, 1 + j / GROUPS, j % GROUPS };
			struct addr group = world_group(d.group);

			mirror_members_walk(n->mirror, d.segment, &group, dump_member, &d);
		}
	}
}

static void controller_run(void *arg)
{
	struct member_controller *m = arg;
	uint64_t next = controller_turn(m->c, sim_now_ms());

	if (m->c->counters.resync_digest && !sim_failed) {
		sim_fail("%s: a digest differed", m->name);
		dump(m);
	}
	if (m->c->failed)
		sim_fail("%s: the controller cannot go on", m->name);
	if (m->c->stopped)
		controller_stop(m);
	else
		sim_process_wake(m->process, next > sim_now_ms() ? next * SIM_MS : sim_now + 50);
}

static void controller_start(struct member_controller *m)
{
	char why[CONTROLLER_WHY_MAX];

	if (m->c)
		return;
	sim_trace("%s: starts", m->name);
	if (controller_config_load(NULL, &m->config, why) < 0)
		abort();
	controller_config_set_listen(m->config, m->name);
	controller_config_set_store(m->config, world.n_controllers > 1 ? "sim:shared"
					       : world.keeps	       ? "sim:"
								       : "memory");
	m->config->insecure = true;
	m->config->hold_ms = (uint32_t)world.hold_ms;
	if (world.sources_max)
		m->config->limits.sources_per_member = world.sources_max;
	m->config->log_tombstones = world.log_tombstones;
	m->process = sim_process_new(m->name, m->host);
	sim_process_on_turn(m->process, controller_run, m);
	if (controller_new(m->config, m->process, NULL, &m->c, why) < 0) {
		sim_fail("%s: %s", m->name, why);
		controller_config_free(m->config);
		m->c = NULL;
		return;
	}
	sim_process_wake(m->process, sim_now + 50);
}

bool node_is_heard(const struct node *n)
{
	for (size_t i = 0; i < world.n_controllers; i++) {
		const struct member_controller *m = &world.controllers[i];

		if (n->process && m->c && strcmp(n->connected_to, m->name) == 0)
			return store_is_serving(m->c->store, sim_now_ms()) &&
			       !sim_process_is_frozen(n->process) &&
			       !sim_process_is_frozen(m->process) &&
			       !sim_is_cut(n->index, m->host) && !sim_is_cut(m->host, n->index);
	}
	return false;
}

static void tick(void *arg)
{
	for (size_t i = 0; i < world.n_nodes; i++) {
		struct node *n = &world.nodes[i];

		if (!node_is_heard(n))
			continue;
		n->was_dark |= sim_now > n->last_good + (world.hold_ms - HEARD_SLACK_MS) * SIM_MS;
		n->last_good = sim_now;
	}
	sim_at(sim_now + TICK_US, tick, NULL);
}

/* ---- the laws ---------------------------------------------------------------------------- */

/* L4: what was right at the last quiet, and is wanted ever since, stays. */
void world_judge(struct node *at, unsigned int segment, unsigned int group, unsigned int source,
		 uint32_t before, uint32_t after)
{
	uint32_t lost = before & ~after;

	/* An exact entry that the kernel refused leaves its packets to (*, G). */
	if (!world.confirmed_at || !lost || at->flush_failed)
		return;
	for (size_t i = 0; i < world.n_nodes; i++) {
		const struct node *n = &world.nodes[i];

		if (!(lost & 1u << n->index) || n->gone || n->contested || n->was_dark ||
		    !node_wants(n, segment, group, source) ||
		    n->wants_since[segment][group][source] > world.confirmed_at ||
		    sim_now > n->last_good + (world.hold_ms - HEARD_SLACK_MS) * SIM_MS)
			continue;
		sim_fail("L4: %s took away %s from segment %u group %u source %u, heard %.3f s ago",
			 at->name, n->name, segment, group, source,
			 (double)(sim_now - n->last_good) / SIM_S);
	}
}

/* What the log says of the node: with too many sources it takes them all. */
static bool node_is_sent(const struct node *n, unsigned int segment, unsigned int group,
			 unsigned int source)
{
	struct addr s = world_source(source);
	struct filter sum = FILTER_NULL;
	bool sent;

	for (unsigned int port = 0; port < PORTS; port++) {
		if (filter_merge(&sum, &n->wants[segment][group][port]) < 0)
			abort();
	}
	if (world.sources_max)
		filter_limit(&sum, world.sources_max);
	sent = source == ANY ? filter_wants_any(&sum) : filter_wants(&sum, &s);
	filter_deinit(&sum);
	return sent;
}

static uint32_t expected(const struct node *at, unsigned int segment, unsigned int group,
			 unsigned int source)
{
	uint32_t set = 0;

	for (size_t i = 0; i < world.n_nodes; i++) {
		const struct node *n = &world.nodes[i];

		if (n != at && n->process && !n->gone && n->segments[segment] &&
		    node_is_sent(n, segment, group, source))
			set |= 1u << n->index;
	}
	return set;
}

/* L3 and L6: every node's remote set is what the members say, no more, no less. */
static void check_routes(const struct node *n)
{
	for (unsigned int segment = 1; segment <= SEGMENTS; segment++) {
		for (unsigned int group = 0; n->segments[segment] && group < GROUPS; group++) {
			for (unsigned int source = 0; source <= SOURCES; source++) {
				uint32_t want = expected(n, segment, group, source);
				uint32_t have = node_remotes(n, segment, group, source);

				if (want != have)
					sim_fail("L3: %s segment %u group %u source %u: has %x, "
						 "wants %x",
						 n->name, segment, group, source, have, want);
			}
		}
	}
}

static void check_digest(const struct node *n, const struct member_controller *m)
{
	for (unsigned int id = 0; id <= SEGMENTS; id++) {
		struct log_segment *segment = log_segment_find(m->c->log, id);
		struct digest mine = mirror_digest(n->mirror, id);

		if (id && !n->segments[id])
			continue;
		/* Nobody there has it, and it has no rows. */
		if (!segment && !mine.rows && world.n_controllers > 1)
			continue;
		if (!segment || mine.sum != segment->digest.sum ||
		    mine.rows != segment->digest.rows)
			sim_fail("digests of segment %u differ: %s %zu rows, %s %zu", id, n->name,
				 (size_t)mine.rows, m->name,
				 segment ? (size_t)segment->digest.rows : 0);
	}
}

static void check_session(const struct node *n, const struct member_controller *m)
{
	struct registry_node *known = registry_find(m->c->registry, n->name);

	if (strcmp(n->connected_to, m->name) != 0)
		return;
	if (!known || !known->session || known->state != REGISTRY_CONNECTED)
		sim_fail("%s has a session with %s, which does not know", n->name, m->name);
	else if (!session_has_applied(known->session, log_revision(m->c->log)))
		sim_fail("%s has not acknowledged what %s has", n->name, m->name);
	else if (!n->aside.call != !((struct session *)known->session)->aside)
		sim_fail("%s and %s do not have the same second stream", n->name, m->name);
	else if (!n->aside.call && !n->aside_lost)
		sim_fail("%s says nothing aside", n->name);
}

static void check_counters(const struct node *n)
{
	uint64_t sessions = n->sessions + uplink_counter(n->uplink, UPLINK_C_SESSIONS);
	uint64_t snapshots = n->snapshots + uplink_counter(n->uplink, UPLINK_C_SNAPSHOTS);

	if (n->gaps + uplink_counter(n->uplink, UPLINK_C_GAPS))
		sim_fail("%s: a delta did not follow", n->name);
	if (n->bad + uplink_counter(n->uplink, UPLINK_C_BAD_MESSAGES))
		sim_fail("%s: a message could not be", n->name);
	/* Chunks count; a storm would be many times this. */
	if (snapshots > (sessions + 4) * (SEGMENTS + 1) * 60)
		sim_fail("%s: %llu chunks of snapshots in %llu sessions", n->name,
			 (unsigned long long)snapshots, (unsigned long long)sessions);
}

static void check(void)
{
	for (size_t i = 0; i < world.n_controllers; i++) {
		struct member_controller *m = &world.controllers[i];

		if (m->resync_digest + m->c->counters.resync_digest)
			sim_fail("%s: a digest differed", m->name);
		if (m->alarms + m->c->counters.digest_alarms)
			sim_fail("%s: a digest differed after a snapshot", m->name);
		for (size_t j = 0; j < world.n_nodes; j++) {
			struct node *n = &world.nodes[j];

			if (!n->process)
				continue;
			check_digest(n, m);
			check_session(n, m);
		}
	}
	for (size_t i = 0; i < world.n_nodes; i++) {
		struct node *n = &world.nodes[i];

		if (!n->process)
			continue;
		if (!n->connected_to[0])
			sim_fail("%s has no session: %s", n->name, uplink_detail(n->uplink));
		if (mirror_uncertain(n->mirror))
			sim_fail("%s does not know which of its rows the log has", n->name);
		check_routes(n);
		check_counters(n);
	}
}

static void run_for(uint64_t us)
{
	uint64_t until = sim_now + us;

	while (!sim_failed && sim_step(until))
		;
}

/* In quiet there are heartbeats, and little else. */
static void check_silence(void)
{
	uint64_t before = sim_messages, most = 0;

	run_for(6 * SIM_S);
	for (size_t i = 0; i < world.n_nodes; i++)
		most += world.nodes[i].process ? 6000 / 600 * 2 + 2 * (SEGMENTS + 1) + 8 : 0;
	if (sim_messages - before > most)
		sim_fail("%zu messages in six quiet seconds, at most %zu were expected",
			 (size_t)(sim_messages - before), (size_t)most);
}

/* ---- faults ------------------------------------------------------------------------------ */

static struct filter random_filter(void)
{
	struct addr sources[SOURCES];
	struct filter f = FILTER_NULL;
	size_t n = 0;

	if (sim_chance(30))
		return f;
	for (unsigned int s = 0; s < SOURCES; s++) {
		if (sim_chance(40))
			sources[n++] = world_source(s);
	}
	filter_init(&f, sim_chance(60) ? FILTER_EXCLUDE : FILTER_INCLUDE, sources, n);
	return f;
}

static struct node *random_node(void)
{
	return &world.nodes[sim_random(world.n_nodes)];
}

static struct member_controller *random_controller(void)
{
	return &world.controllers[sim_random(world.n_controllers)];
}

static void want_something(struct node *n, unsigned int first_group)
{
	unsigned int segment = 1 + (unsigned int)sim_random(SEGMENTS);
	unsigned int group = first_group + (unsigned int)sim_random(GROUPS - first_group);

	if (n->segments[segment] && !n->gone)
		node_want(n, segment, group, (unsigned int)sim_random(PORTS), random_filter());
}

static void burst(void)
{
	for (uint64_t i = 1 + sim_random(10); i; i--)
		want_something(random_node(), STABLE_GROUPS);
}

static uint64_t some_time(void)
{
	return sim_chance(50) ? 10 * SIM_MS + sim_random(SIM_S)
			      : sim_random(world.hold_ms * SIM_MS * 3 / 2);
}

static void start_event(void *arg)
{
	struct node *n = arg;

	if (!n->process && !n->gone)
		node_start(n);
}

static void thaw_node_event(void *arg)
{
	struct node *n = arg;

	if (n->process) {
		sim_process_freeze(n->process, false);
		sim_process_wake(n->process, sim_now + 10);
	}
}

static void controller_start_event(void *arg)
{
	controller_start(arg);
}

static void thaw_controller_event(void *arg)
{
	struct member_controller *m = arg;

	if (m->c)
		sim_process_freeze(m->process, false);
}

static void store_back_event(void *arg)
{
	struct member_controller *m = arg;

	if (m->c) {
		simdb_cut(m->process, false);
		simdb_lag(m->process, 0);
	}
}

static void heal_event(void *arg)
{
	unsigned int pair = (unsigned int)(uintptr_t)arg;

	sim_cut(pair / SIM_HOSTS, pair % SIM_HOSTS, false);
}

static void outage_end_event(void *arg)
{
	simdb_outage(false);
}

static void cut_for(unsigned int from, unsigned int to, uint64_t us)
{
	sim_cut(from, to, true);
	sim_at(sim_now + us, heal_event, (void *)(uintptr_t)(from * SIM_HOSTS + to));
}

static void fault_agent(void)
{
	struct node *n = random_node();

	if (!n->process || n->gone)
		return;
	if (sim_chance(30)) {
		sim_trace("%s: frozen", n->name);
		sim_process_freeze(n->process, true);
		sim_at(sim_now + some_time(), thaw_node_event, n);
		return;
	}
	node_kill(n, sim_chance(25));
	sim_at(sim_now + some_time(), start_event, n);
}

static void fault_network(void)
{
	struct node *n = random_node();
	struct member_controller *m = random_controller();
	unsigned int way = (unsigned int)sim_random(4);
	uint64_t us = some_time();

	sim_trace("%s: cut off from %s, way %u", n->name, m->name, way);
	if (way == 3 && n->process) {
		sim_connections_lose(n->process);
		return;
	}
	if (way != 1)
		cut_for(n->index, m->host, us);
	if (way != 2)
		cut_for(m->host, n->index, us);
}

static void aside_lose(struct node *n)
{
	sim_trace("%s: Aside is lost", n->name);
	n->aside_lost = true;
	sim_stream_lose(n->aside.call, sim_chance(50));
}

/* One stream of a session, and not the other. */
static void fault_stream(void)
{
	struct node *n = random_node();
	bool aside = sim_chance(70);

	if (!n->process)
		return;
	if (sim_chance(50)) {
		sim_trace("%s: %s is slow", n->name, aside ? "Aside" : "Sync");
		sim_stream_delay(aside ? n->aside.call : n->call, sim_random(SIM_S));
	} else if (aside) {
		aside_lose(n);
	} else {
		sim_trace("%s: Sync is lost", n->name);
		sim_stream_lose(n->call, sim_chance(50));
	}
}

static void fault_controller(void)
{
	struct member_controller *m = random_controller();

	if (!m->c)
		return;
	switch (sim_random(3)) {
	case 0:
		sim_trace("%s: frozen", m->name);
		sim_process_freeze(m->process, true);
		sim_at(sim_now + some_time() / 2, thaw_controller_event, m);
		return;
	case 1:
		sim_trace("%s: drains", m->name);
		controller_drain(m->c, "the simulation says so");
		sim_at(sim_now + 3 * SIM_S + some_time(), controller_start_event, m);
		return;
	default:
		sim_trace("%s: killed", m->name);
		controller_stop(m);
		if (world.n_controllers == 1 && sim_chance(20))
			simdb_lose();
		sim_at(sim_now + some_time() / 2, controller_start_event, m);
	}
}

static void fault_store(void)
{
	struct member_controller *m = random_controller();

	if (!world.keeps)
		return;
	if (world.n_controllers > 1 && m->c && sim_chance(80)) {
		if (sim_chance(50)) {
			simdb_cut(m->process, true);
		} else {
			sim_trace("%s: its watch is slow", m->name);
			simdb_lag(m->process, sim_random(4 * SIM_S));
		}
		sim_at(sim_now + some_time(), store_back_event, m);
		return;
	}
	sim_trace("the store fails");
	simdb_outage(true);
	sim_at(sim_now + some_time() / 2, outage_end_event, NULL);
}

/* A second machine with the name of another: refused while that one lives. */
static void fault_duplicate(void)
{
	struct node *other = random_node(), *n = &world.nodes[world.n_nodes];

	if (world.n_nodes == NODES_MAX || other->gone)
		return;
	memset(n, 0, sizeof(*n));
	n->index = (unsigned int)world.n_nodes++;
	memcpy(n->name, other->name, sizeof(n->name));
	n->instance[0] = (uint8_t)(n->index + 1);
	memcpy(n->segments, other->segments, sizeof(n->segments));
	n->contested = other->contested = true;
	node_start(n);
	want_something(n, 0);
}

static void fault_event(void *arg)
{
	bool soon;
	uint64_t end = (uint64_t)(uintptr_t)arg, dice = sim_random(world.busy ? 3000 : 100);

	if (sim_now >= end)
		return;
	if (dice < 14)
		fault_agent();
	else if (dice < 22)
		fault_network();
	else if (dice < 26)
		fault_stream();
	else if (dice < 32)
		fault_controller();
	else if (dice < 38)
		fault_store();
	else if (dice < 40)
		fault_duplicate();
	else
		burst();
	soon = sim_chance(world.busy ? 98 : 50);
	sim_at(sim_now + 1 + sim_random(soon ? 5 * SIM_MS : 600 * SIM_MS), fault_event, arg);
}

static void heal_all(void)
{
	sim_trace("everything heals");
	simdb_outage(false);
	for (unsigned int i = 0; i < SIM_HOSTS * SIM_HOSTS; i++)
		sim_cut(i / SIM_HOSTS, i % SIM_HOSTS, false);
	for (size_t i = 0; i < world.n_controllers; i++) {
		struct member_controller *m = &world.controllers[i];

		thaw_controller_event(m);
		store_back_event(m);
		if (m->c && m->c->draining)
			controller_stop(m);
		controller_start(m);
	}
	for (size_t i = 0; i < world.n_nodes; i++) {
		struct node *n = &world.nodes[i];

		/* Of two with one name the later goes; one node in eight goes for good. */
		for (size_t j = 0; j < i; j++) {
			if (strcmp(n->name, world.nodes[j].name) == 0)
				n->gone = true;
		}
		if (!n->gone && !n->contested && world.n_nodes > 3 && sim_chance(6))
			n->gone = true;
		thaw_node_event(n);
		if (n->gone)
			node_kill(n, false);
		else
			start_event(n);
	}
}

/* What was under way on a second stream when it ended is said again, soon; what comes
 * of it later than what was said on the first since does no harm. */
static void check_without_asides(void)
{
	for (int i = 0; i < 3; i++) {
		struct node *n = random_node();

		burst();
		if (n->process && sim_chance(50))
			sim_stream_delay(n->aside.call, sim_random(800 * SIM_MS));
		run_for(sim_random(150 * SIM_MS));
		if (n->process)
			aside_lose(n);
	}
	/* A map that cannot be written is tried again each second. */
	run_for(world.flush_failures ? 15 * SIM_S : 3 * SIM_S);
	if (!sim_failed)
		check();
}

/* ---- a run ------------------------------------------------------------------------------- */

static void confirm(void)
{
	world.confirmed_at = sim_now;
	for (size_t i = 0; i < world.n_nodes; i++)
		world.nodes[i].contested = world.nodes[i].was_dark = false;
}

static void world_init(void)
{
	static const uint32_t tombstones[] = { 16, 64, 65536 };
	static const size_t weights[] = { 1, 50, 2000 };
	uint64_t latency = 100 + sim_random(900);

	memset(&world, 0, sizeof(world));
	simdb_reset();
	simdb_speed(1 + sim_random(sim_chance(50) ? 2 * SIM_MS : 50 * SIM_MS));
	sim_network(latency, sim_random(300 * SIM_MS), weights[sim_random(3)]);
	world.keeps = sim_chance(60);
	world.n_controllers = world.keeps ? 1 + sim_random(CONTROLLERS) : 1;
	world.hold_ms = 3000 + sim_random(4000);
	world.log_tombstones = tombstones[sim_random(3)];
	world.flush_failures = sim_chance(30) ? 5 : 0;
	world.busy = sim_chance(10);
	world.sources_max = sim_chance(20) ? 1 : 0;
	for (unsigned int i = 0; i < world.n_controllers; i++) {
		struct member_controller *m = &world.controllers[i];

		snprintf(m->name, sizeof(m->name), "c%u:1", i + 1);
		m->host = CONTROL_HOST + i;
		world.targets[i] = m->name;
		controller_start(m);
	}
	world.n_nodes = 2 + sim_random(5);
	for (unsigned int i = 0; i < world.n_nodes; i++) {
		struct node *n = &world.nodes[i];

		n->index = i;
		snprintf(n->name, sizeof(n->name), "n%u", i + 1);
		n->instance[0] = (uint8_t)(i + 1);
		n->segments[1] = true;
		for (unsigned int segment = 2; segment <= SEGMENTS; segment++)
			n->segments[segment] = sim_chance(60);
		node_start(n);
		for (int j = 0; j < 12; j++)
			want_something(n, 0);
	}
	tick(NULL);
}

static void world_free(void)
{
	for (size_t i = 0; i < world.n_nodes; i++) {
		node_kill(&world.nodes[i], true);
	}
	for (size_t i = 0; i < world.n_controllers; i++)
		controller_stop(&world.controllers[i]);
	simdb_end();
}

bool world_run(uint64_t seed)
{
	sim_reset(seed);
	world_init();
	run_for(8 * SIM_S);
	if (!sim_failed)
		check();
	confirm();
	for (int round = 0; round < ROUNDS && !sim_failed; round++) {
		fault_event((void *)(uintptr_t)(sim_now + CHAOS_US));
		run_for(CHAOS_US);
		heal_all();
		run_for(3 * world.hold_ms * SIM_MS + 15 * SIM_S);
		if (!sim_failed)
			check();
		if (!sim_failed)
			check_silence();
		if (!sim_failed)
			check_without_asides();
		confirm();
	}
	world.confirmed_at = 0;
	world_free();
	sim_end();
	return !sim_failed;
}
