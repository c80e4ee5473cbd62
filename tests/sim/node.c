/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An agent: its real state machines, and in place of the kernel a table. The
 * order of settle() and of the start is that of node/agent.c and node/adopt.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/sim/world.h"

static void settle(void *arg);

/* ---- names of things ---------------------------------------------------------------- */

struct addr world_group(unsigned int group)
{
	return addr_v4_be32(__builtin_bswap32(0xef010100u + group));
}

struct addr world_source(unsigned int source)
{
	return source == ANY ? ADDR_NULL : addr_v4_be32(__builtin_bswap32(0xc6120001u + source));
}

struct addr world_vtep(unsigned int index)
{
	return addr_v4_be32(__builtin_bswap32(0xcb007101u + index));
}

static unsigned int last_byte(const struct addr *a)
{
	return a->b[15];
}

static unsigned int source_index(const struct addr *source)
{
	return addr_is_null(source) ? ANY : last_byte(source) - 1;
}

bool node_wants(const struct node *n, unsigned int segment, unsigned int group, unsigned int source)
{
	struct addr s = world_source(source);

	for (unsigned int port = 0; port < PORTS; port++) {
		const struct filter *f = &n->wants[segment][group][port];

		if (source == ANY ? filter_wants_any(f) : filter_wants(f, &s))
			return true;
	}
	return false;
}

static const struct entry *lookup(const struct node *n, unsigned int segment, unsigned int group,
				  unsigned int source)
{
	const struct entry *entries = n->pins.entries[segment][group];

	return &entries[entries[source].there ? source : ANY];
}

uint32_t node_remotes(const struct node *n, unsigned int segment, unsigned int group,
		      unsigned int source)
{
	const struct entry *e = lookup(n, segment, group, source);

	return e->there ? e->remotes : 0;
}

/* ---- fib and mirror ------------------------------------------------------------------ */

static void entry_write(struct node *n, unsigned int segment, unsigned int group,
			unsigned int source, struct entry entry)
{
	uint32_t before[SOURCES + 1];

	for (unsigned int s = 0; s <= SOURCES; s++)
		before[s] = node_remotes(n, segment, group, s);
	n->pins.entries[segment][group][source] = entry;
	sim_trace("%s: entry %u %u %u: %s remotes %x ports %x", n->name, segment, group, source,
		  entry.there ? "is" : "is not", entry.remotes, entry.ports);
	for (unsigned int s = 0; s <= SOURCES; s++)
		world_judge(n, segment, group, s, before[s], node_remotes(n, segment, group, s));
}

/* The kernel refuses now and then; the entry stays due. */
static bool write_fails(struct node *n)
{
	if (!sim_chance(world.flush_failures))
		return false;
	sim_trace("%s: an entry cannot be set", n->name);
	n->flush_failed = true;
	return true;
}

static int on_route_set(const struct datapath_route *route, void *userdata)
{
	struct node *n = userdata;
	struct entry entry = { .there = true };

	if (write_fails(n))
		return -ENOMEM;
	for (size_t i = 0; i < route->n_remotes; i++) {
		unsigned int index = last_byte(&route->remotes[i]) - 1;

		if (!n->pins.remotes[index][0])
			sim_fail("%s: an entry names a VTEP that is not there", n->name);
		entry.remotes |= 1u << index;
	}
	for (size_t i = 0; i < route->n_ports; i++)
		entry.ports |= 1u << (route->ports[i] - 1);
	entry_write(n, route->segment, last_byte(&route->group), source_index(&route->source),
		    entry);
	return 0;
}

static int on_route_del(uint32_t segment, const struct addr *group, const struct addr *source,
			void *userdata)
{
	entry_write(userdata, segment, last_byte(group), source_index(source), (struct entry){ 0 });
	return 0;
}

static void on_member(uint32_t segment, const struct addr *group, const struct filter *filter,
		      void *userdata)
{
	struct node *n = userdata;

	if (n->adopting)
		mirror_seed_own(n->mirror, segment, group, filter);
	uplink_member_set(n->uplink, segment, group, filter);
}

static const struct fib_ops fib_ops = {
	.route_set = on_route_set,
	.route_del = on_route_del,
	.member = on_member,
};

static void on_remote_add(const struct addr *vtep, const char *node, void *userdata)
{
	struct node *n = userdata;
	unsigned int index = last_byte(vtep) - 1;

	n->going &= ~(1u << index);
	snprintf(n->pins.remotes[index], sizeof(n->pins.remotes[index]), "%s", node);
}

static void on_remote_del(const struct addr *vtep, void *userdata)
{
	struct node *n = userdata;

	n->going |= 1u << (last_byte(vtep) - 1);
}

static void on_remote_member(uint32_t segment, const struct addr *group, const struct addr *vtep,
			     const struct filter *filter, void *userdata)
{
	struct node *n = userdata;

	fib_remote_set(n->fib, segment, group, vtep, filter);
}

static const struct mirror_ops mirror_ops = {
	.remote_add = on_remote_add,
	.remote_del = on_remote_del,
	.member = on_remote_member,
};

/* ---- the stream ------------------------------------------------------------------------ */

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ControllerMessage *m = (const Mcmesh__V1__ControllerMessage *)message;
	struct node *n = rpc_call_userdata(call);

	if (!n || !m)
		return;
	n->moved |= m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA ||
		    m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT;
	uplink_message(n->uplink, m, sim_now_ms());
	if (n->call && m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME)
		link_aside_begin(&n->aside, n->channel, n->uplink, n->name, m->welcome);
}

static void on_close(struct rpc_call *call, int status, const char *text)
{
	struct node *n = rpc_call_userdata(call);

	if (!n)
		return;
	n->call = NULL;
	link_aside_end(&n->aside);
	uplink_closed(n->uplink, status, text, sim_now_ms());
}

static const struct rpc_call_ops call_ops = { .on_message = on_message, .on_close = on_close };

static void link_disconnect(void *userdata)
{
	struct node *n = userdata;

	if (n->call) {
		rpc_call_set_userdata(n->call, NULL);
		rpc_call_cancel(n->call);
		n->call = NULL;
	}
	link_aside_end(&n->aside);
	n->aside_lost = false;
	rpc_channel_free(n->channel);
	n->channel = NULL;
	n->deferred = false;
}

static void link_connect(const char *target, void *userdata)
{
	struct node *n = userdata;
	struct rpc_channel_options options = { .target = target };

	link_disconnect(n);
	sim_trace("%s: connects to %s", n->name, target);
	rpc_channel_new(n->process, &options, &n->channel);
	rpc_channel_call(n->channel, "/mcmesh.v1.NodeService/Sync",
			 &mcmesh__v1__controller_message__descriptor, &call_ops, 0, n, &n->call);
	n->deferred = true;
	sim_process_wake(n->process, sim_now + 10);
}

static void link_send(const Mcmesh__V1__AgentMessage *message, void *userdata)
{
	struct node *n = userdata;

	if (n->moved && message->message_case == MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK)
		sim_fail("%s acknowledges what is not in its maps", n->name);
	if (n->call && !link_aside_send(&n->aside, message))
		rpc_call_send(n->call, &message->base);
}

static void link_query(const Mcmesh__V1__Query *query, void *userdata)
{
}

static void link_epoch(const uint8_t epoch[EPOCH_LEN], void *userdata)
{
	struct node *n = userdata;

	sim_trace("%s: epoch %02x", n->name, epoch[0]);
	memset(n->pins.revisions, 0, sizeof(n->pins.revisions));
	memcpy(n->pins.epoch, epoch, EPOCH_LEN);
}

static void link_session(const char *controller, const char *reason, void *userdata)
{
	struct node *n = userdata;

	sim_trace("%s: %s %s", n->name,
		  controller ? "session with" : "no session:", controller ? controller : reason);
	snprintf(n->connected_to, sizeof(n->connected_to), "%s", controller ? controller : "");
}

static void link_refused(uint32_t segment, const struct addr *group, const char *reason,
			 void *userdata)
{
	struct node *n = userdata;

	sim_fail("%s: a member was refused: %s", n->name, reason);
}

static const struct uplink_ops link_ops = {
	.connect = link_connect,
	.disconnect = link_disconnect,
	.send = link_send,
	.query = link_query,
	.epoch = link_epoch,
	.session = link_session,
	.refused = link_refused,
};

/* ---- settle ---------------------------------------------------------------------------- */

static void save_revision(uint32_t segment, uint64_t revision, void *userdata)
{
	struct node *n = userdata;

	n->pins.revisions[segment] = mirror_resumable(n->mirror, segment);
}

static void settle(void *arg)
{
	struct node *n = arg;
	uint64_t now_ms = sim_now_ms(), next;
	struct sending_list sending = { .n = 0 };

	if (n->deferred) {
		n->deferred = false;
		uplink_opened(n->uplink, now_ms);
	}
	if (fib_flush(n->fib)) {
		n->flush_retry_ms = now_ms + 1000;
	} else {
		n->flush_retry_ms = UINT64_MAX;
		n->flush_failed = n->moved = false;
		for (unsigned int i = 0; i < NODES_MAX; i++) {
			if (n->going & 1u << i)
				n->pins.remotes[i][0] = '\0';
		}
		n->going = 0;
		if (uplink_applied(n->uplink, now_ms))
			mirror_segments_walk(n->mirror, save_revision, n);
	}
	/* Now and then the node's workloads send, and stop. */
	if ((now_ms / 3000 + n->start_count) % 2)
		sending_list_add(&sending, (uint32_t)(1 + now_ms / 6000 % 2));
	uplink_sending_set(n->uplink, &sending, now_ms);
	uplink_flush(n->uplink, now_ms);
	uplink_expire(n->uplink, now_ms);
	next = uplink_next_ms(n->uplink);
	if (n->flush_retry_ms < next)
		next = n->flush_retry_ms;
	if (next != UINT64_MAX)
		sim_process_wake(n->process, next > now_ms ? next * SIM_MS : sim_now + 10);
}

/* ---- start and end --------------------------------------------------------------------- */

static void adopt_receiver(const struct fib_adopted *adopted, void *userdata)
{
	struct node *n = userdata;

	if (!adopted->port && mirror_seed_member(n->mirror, adopted->segment, adopted->group,
						 adopted->vtep, adopted->filter) == -ENOENT)
		fib_remote_set(n->fib, adopted->segment, adopted->group, adopted->vtep,
			       &FILTER_NULL);
}

static void adopt_entry(struct node *n, unsigned int segment, unsigned int group,
			unsigned int source)
{
	const struct entry *e = &n->pins.entries[segment][group][source];
	struct addr remotes[NODES_MAX];
	uint32_t ports[PORTS];
	struct datapath_route route = {
		.kind = DATAPATH_ROUTE_GROUP,
		.segment = segment,
		.group = world_group(group),
		.source = world_source(source),
		.ports = ports,
		.remotes = remotes,
	};

	if (!e->there)
		return;
	for (unsigned int i = 0; i < NODES_MAX; i++) {
		if (e->remotes & 1u << i)
			remotes[route.n_remotes++] = world_vtep(i);
	}
	for (unsigned int i = 0; i < PORTS; i++) {
		if (e->ports & 1u << i)
			ports[route.n_ports++] = i + 1;
	}
	fib_adopt(n->fib, &route);
}

static void adopt(struct node *n)
{
	struct addr own = world_vtep(n->index);

	mirror_seed_self(n->mirror, &own);
	if (!n->pins.adopted)
		return;
	n->adopting = true;
	mirror_epoch_set(n->mirror, n->pins.epoch);
	for (unsigned int i = 0; i < NODES_MAX; i++) {
		struct addr vtep = world_vtep(i);

		if (n->pins.remotes[i][0])
			mirror_seed_node(n->mirror, n->pins.remotes[i], &vtep);
	}
	for (unsigned int segment = 1; segment <= SEGMENTS; segment++) {
		for (unsigned int group = 0; group < GROUPS; group++) {
			for (unsigned int source = 0; source <= SOURCES; source++)
				adopt_entry(n, segment, group, source);
		}
	}
	fib_adopt_done(n->fib, adopt_receiver, n);
	for (unsigned int segment = 1; segment <= SEGMENTS; segment++) {
		if (n->segments[segment])
			mirror_seed_revision(n->mirror, segment, n->pins.revisions[segment]);
	}
	fib_flush(n->fib);
	n->adopting = false;
}

/* The ring has what happened while no agent was there. */
static void replay(struct node *n)
{
	for (unsigned int segment = 1; segment <= SEGMENTS; segment++) {
		for (unsigned int group = 0; group < GROUPS; group++) {
			struct addr a = world_group(group);

			for (unsigned int port = 0; port < PORTS; port++)
				fib_local_set(n->fib, segment, &a, port + 1,
					      &n->wants[segment][group][port]);
		}
	}
}

void node_start(struct node *n)
{
	struct uplink_options options = {
		.node = n->name,
		.vtep = world_vtep(n->index),
		.start_count = ++n->start_count,
		.controllers = world.targets,
		.seed = sim_random(UINT64_MAX),
		.whole_at_ms = n->pins.adopted ? 0 : sim_now_ms() + 500,
	};

	sim_trace("%s: starts, its maps are %s", n->name, n->pins.adopted ? "there" : "empty");
	memcpy(options.instance, n->instance, sizeof(options.instance));
	n->process = sim_process_new(n->name, n->index);
	sim_process_on_turn(n->process, settle, n);
	n->flush_retry_ms = UINT64_MAX;
	n->going = 0;
	n->moved = false;
	if (fib_new(&fib_ops, n, &n->fib) < 0 ||
	    mirror_new(n->name, &mirror_ops, n, &n->mirror) < 0 ||
	    uplink_new(&options, &link_ops, n, n->mirror, sim_now_ms(), &n->uplink) < 0)
		abort();
	for (unsigned int segment = 1; segment <= SEGMENTS; segment++) {
		if (n->segments[segment])
			mirror_segment_add(n->mirror, segment);
	}
	adopt(n);
	n->pins.adopted = true;
	replay(n);
	sim_process_wake(n->process, sim_now + 10);
}

static void count(struct node *n)
{
	n->sessions += uplink_counter(n->uplink, UPLINK_C_SESSIONS);
	n->gaps += uplink_counter(n->uplink, UPLINK_C_GAPS);
	n->bad += uplink_counter(n->uplink, UPLINK_C_BAD_MESSAGES);
	n->snapshots += uplink_counter(n->uplink, UPLINK_C_SNAPSHOTS);
	n->resyncs += uplink_counter(n->uplink, UPLINK_C_RESYNCS);
}

void node_kill(struct node *n, bool reboot)
{
	if (n->process) {
		sim_trace("%s: %s", n->name, reboot ? "reboots" : "its agent is killed");
		count(n);
		if (n->call)
			rpc_call_set_userdata(n->call, NULL);
		n->call = NULL;
		link_aside_end(&n->aside);
		sim_process_kill(n->process);
		rpc_channel_free(n->channel);
		uplink_free(n->uplink);
		mirror_free(n->mirror);
		fib_free(n->fib);
		n->process = NULL;
		n->uplink = NULL;
		n->mirror = NULL;
		n->fib = NULL;
		n->channel = NULL;
		n->connected_to[0] = '\0';
	}
	if (!reboot)
		return;
	memset(&n->pins, 0, sizeof(n->pins));
	for (unsigned int segment = 1; segment <= SEGMENTS; segment++) {
		for (unsigned int group = 0; group < GROUPS; group++) {
			for (unsigned int port = 0; port < PORTS; port++)
				node_want(n, segment, group, port, FILTER_NULL);
		}
	}
}

void node_want(struct node *n, unsigned int segment, unsigned int group, unsigned int port,
	       struct filter filter)
{
	struct addr a = world_group(group);
	bool before[SOURCES + 1];

	for (unsigned int s = 0; s <= SOURCES; s++)
		before[s] = node_wants(n, segment, group, s);
	filter_deinit(&n->wants[segment][group][port]);
	n->wants[segment][group][port] = filter;
	world.changes++;
	sim_trace("%s: port %u wants %u %u: %s of %u sources", n->name, port + 1, segment, group,
		  filter.mode == FILTER_EXCLUDE ? "EXCLUDE" : "INCLUDE", filter.n_sources);
	for (unsigned int s = 0; s <= SOURCES; s++) {
		if (node_wants(n, segment, group, s) != before[s])
			n->wants_since[segment][group][s] = sim_now;
	}
	if (!n->process)
		return;
	fib_local_set(n->fib, segment, &a, port + 1, &filter);
	if (!sim_process_is_frozen(n->process))
		sim_process_wake(n->process, sim_now + 10);
}
