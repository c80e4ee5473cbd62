/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the controller
 *
 *	agents ── NodeService ──► store ── events ──► log, registry
 *	                                               │      │
 *	agents ◄── feed ◄──────────────────────────────┤      │
 *	operators ◄── MeshService, Watch ◄─────────────┴──────┘
 *
 * The store's events are the only thing that changes the log. RPC callbacks run
 * inside rpc_poll(); between two polls controller_turn() does what is due:
 * timers of the registry, the feed of what changed, heartbeats, watchers. One
 * thread owns everything.
 */
#include "controller/controller.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/http.h"
#include "common/rpc_tls.h"
#include "controller/access.h"
#include "controller/mesh_service.h"
#include "controller/metrics.h"
#include "controller/node_service.h"
#include "controller/open.h"
#include "controller/peers.h"

#define METHODS_MAX 32

extern const uint8_t _binary_mcmesh_pb_start[], _binary_mcmesh_pb_end[];

struct controller_box {
	struct controller c;
	struct rpc_method methods[METHODS_MAX];
	size_t n_methods;
	uint64_t freezes;
	uint64_t listened_ms; /* what peers had said by then was read */
	uint64_t published;   /* the registry's serial up to which the store was told */
	struct controller_config *reloaded; /* the settings in force are of this file */
	bool settings_due;		    /* the store did not take them */
	uint64_t settings_ms;		    /* not before */
	bool troubled, renewed;
};

static void registry_follow(struct controller *c, const struct log_change *change)
{
	struct registry_node *node = registry_find(c->registry, change->node);

	if (change->deleted) {
		if (node && !node->session)
			registry_remove(c->registry, node);
		return;
	}
	if (!node && registry_add(c->registry, change->node, controller_now_ms(), &node) < 0)
		return; /* more nodes in the store than limits allow: not forwarded for */
	registry_set_vtep(c->registry, node, &change->vtep);
}

static void on_event(void *userdata, uint64_t revision, const struct log_change *changes, size_t n)
{
	struct controller *c = userdata;
	int r = log_apply(c->log, revision, changes, n);

	if (r < 0) {
		log_error("the log cannot take a revision: stopping err=%s", strerror(-r));
		c->failed = true;
		return;
	}
	for (size_t i = 0; i < n; i++) {
		struct log_segment *segment = log_segment_find(c->log, changes[i].segment);

		if (changes[i].kind == LOG_NODE)
			registry_follow(c, &changes[i]);
		if (segment)
			feed_changed(c->feed, segment);
	}
}

/* ---- what other controllers say -------------------------------------------------- */

static void session_lost(struct registry_node *node, const struct store_presence *p)
{
	if (!node->session)
		return;
	if (p->state == STORE_FREE)
		session_end(node->session, RPC_UNAVAILABLE,
			    "the node was taken for dead and removed: connect again");
	else
		session_end(node->session, RPC_ABORTED,
			    "a newer session of this node took over at another controller");
}

static void on_presence(void *userdata, const struct store_presence *p)
{
	struct controller *c = userdata;
	struct registry_node *node = registry_find(c->registry, p->node);

	if (p->reported && registry_reported(c->registry, p->node))
		feed_completed(c->feed);
	if (p->ours) {
		/* Known better here, but for a session that nobody waited for. */
		if (node && !node->session)
			node->session_id = p->session;
		return;
	}
	if (!node && (p->state == STORE_FREE ||
		      registry_add(c->registry, p->node, controller_now_ms(), &node) < 0))
		return;
	session_lost(node, p);
	node->session_id = p->session;
	node->lost = p->state == STORE_LOST;
	snprintf(node->holder, sizeof(node->holder), "%s", p->controller);
	registry_elsewhere(c->registry, node, p->state == STORE_ALIVE, controller_now_ms());
	if (p->state == STORE_FREE && !log_find_live(c->log, LOG_NODE, 0, p->node, NULL, NULL))
		registry_remove(c->registry, node);
}

static void on_draining(void *userdata, const char *name, bool on)
{
	struct controller *c = userdata;
	struct registry_node *node = registry_find(c->registry, name);

	if (node)
		registry_set_draining(c->registry, node, on);
}

static void on_lost(void *userdata, const char *why)
{
	struct controller *c = userdata;

	if (c->again)
		return;
	log_error("beginning anew from the store: %s", why);
	c->again = true;
}

/* The others hear of it when an agent falls silent here, or is heard again. */
static void registry_publish(struct controller_box *box)
{
	struct controller *c = &box->c;
	struct registry_node *node;

	if (!store_is_shared(c->store))
		return;
	for (node = registry_changed_after(c->registry, box->published); node;
	     node = TAILQ_NEXT(node, by_serial)) {
		bool silent = !registry_is_alive(node);

		if (node->elsewhere || node->holder[0] || !node->session_id ||
		    node->published == silent)
			continue;
		node->published = silent;
		store_publish(c->store, node->name, node->session_id, !silent);
	}
	box->published = registry_serial(c->registry);
}

static void sessions_shed(struct controller *c, const char *reason)
{
	struct session *s, *next;

	for (s = sessions_first(c->sessions); s; s = next) {
		next = TAILQ_NEXT(s, all);
		session_end(s, RPC_UNAVAILABLE, reason);
	}
}

/* A controller that cannot follow the store has no business with agents; what
 * they did meanwhile it does not know, so silence so far proves nothing. */
static void store_turn(struct controller *c, uint64_t now_ms)
{
	bool serving;

	store_dispatch(c->store, now_ms);
	serving = store_is_serving(c->store, now_ms);
	if (serving == c->serving || !c->server)
		return;
	c->serving = serving;
	rpc_server_set_serving(c->server, controller_is_serving(c));
	if (serving) {
		log_info("the store answers again");
		registry_hold_again(c->registry, now_ms);
		return;
	}
	log_error("the store makes no progress: agents have to go elsewhere");
	sessions_shed(c, "this controller has lost its store: connect elsewhere");
}

/* ---- removal ---------------------------------------------------------------------- */

struct removal {
	struct controller *c;
	char node[LOG_NAME_MAX];
};

static void removed(void *userdata, int result, uint64_t revision)
{
	struct removal *removal = userdata;
	struct registry_node *node = registry_find(removal->c->registry, removal->node);

	if (result == 0) {
		log_info("a node is gone, its members are withdrawn node=%s", removal->node);
		/* It had no row yet. */
		if (node && node->removing && !node->session)
			registry_remove(removal->c->registry, node);
	} else if (node && node->removing) {
		removal->c->counters.store_errors++;
		registry_keep(removal->c->registry, node, controller_now_ms());
	}
	free(removal);
}

void controller_expire(struct controller *c, struct registry_node *node)
{
	struct log_node *log_node = log_node_find(c->log, node->name);
	_cleanup_free_ struct log_change *changes = NULL;
	struct removal *removal = calloc(1, sizeof(*removal));
	struct store_txn txn = { .session = node->session_id, .removes_node = true };
	struct log_row *row;
	size_t n = 0;

	changes = calloc((log_node ? log_node->n_members : 0) + 1, sizeof(*changes));
	if (!removal || !changes) {
		free(removal);
		return; /* due again at the next turn */
	}
	removal->c = c;
	memcpy(removal->node, node->name, sizeof(removal->node));
	if (log_node) {
		TAILQ_FOREACH(row, &log_node->rows, by_node)
		{
			if (row->deleted || row->key.kind != LOG_MEMBER)
				continue;
			changes[n++] = (struct log_change){ .kind = LOG_MEMBER,
							    .segment = row->key.segment,
							    .node = removal->node,
							    .group = row->key.group,
							    .deleted = true };
		}
		/* Last, so that nobody has members of a node that is gone. */
		if (log_find_live(c->log, LOG_NODE, 0, node->name, NULL, NULL))
			changes[n++] = (struct log_change){ .kind = LOG_NODE,
							    .node = removal->node,
							    .deleted = true };
	}
	node->removing = true;
	if (node->session)
		session_end(node->session, RPC_UNAVAILABLE,
			    "the agent was silent for longer than the hold time: connect again");
	c->counters.nodes_expired++;
	txn.node = removal->node;
	txn.changes = changes;
	txn.n_changes = n;
	store_commit(c->store, &txn, removed, removal);
}

/* When the silent were silent: who is late to listen does not hear the others. */
static uint64_t registry_time(struct controller_box *box, uint64_t now_ms)
{
	const struct controller *c = &box->c;

	if (!rpc_has_more(c->rpc) || now_ms >= box->listened_ms + c->config->hold_ms)
		box->listened_ms = now_ms;
	return box->listened_ms;
}

static uint64_t registry_turn(struct controller_box *box, uint64_t now_ms)
{
	struct controller *c = &box->c;
	struct registry_node *node;

	now_ms = registry_time(box, now_ms);
	if (registry_tick(c->registry, now_ms)) {
		store_complete(c->store);
		feed_completed(c->feed);
	}
	registry_publish(box);
	if (registry_freezes(c->registry) != box->freezes) {
		box->freezes = registry_freezes(c->registry);
		log_error("many nodes are silent at once, removals wait for one more hold time "
			  "silent=%zu nodes=%zu",
			  registry_stale_count(c->registry), registry_count(c->registry));
	}
	/* A store that cannot commit hears nobody, so it lets nobody go. */
	while (!c->draining && c->serving && !c->store->trouble &&
	       (node = registry_expired(c->registry, now_ms)))
		controller_expire(c, node);
	return registry_next_ms(c->registry);
}

/* ---- the store's health ------------------------------------------------------------- */

static int settings_commit(struct controller *c, const struct controller_config *config);

static void trouble_ended(struct controller_box *box, uint64_t now_ms)
{
	struct controller *c = &box->c;

	log_info("the store commits again");
	registry_hold_again(c->registry, now_ms);
}

static void settings_again(struct controller_box *box, uint64_t now_ms)
{
	struct controller *c = &box->c;

	if (!box->settings_due || now_ms < box->settings_ms || c->store->trouble || !c->serving)
		return;
	box->settings_ms = now_ms + CONTROLLER_SETTINGS_RETRY_MS;
	box->settings_due = settings_commit(c, box->reloaded ? box->reloaded : c->config) < 0;
}

/* Of a store that is ours alone: agents have nowhere else to go, so they stay. */
static void trouble_turn(struct controller_box *box, uint64_t now_ms)
{
	struct controller *c = &box->c;
	bool stuck;

	store_forget(c->store, log_floor(c->log));
	if (c->store->trouble && !box->troubled)
		log_error("the store cannot commit, reports wait: %s", c->store->trouble);
	else if (!c->store->trouble && box->troubled)
		trouble_ended(box, now_ms);
	box->troubled = c->store->trouble != NULL;
	stuck = box->troubled &&
		now_ms >= c->store->trouble_since_ms + CONTROLLER_STORE_PATIENCE_MS;
	if (stuck != c->stuck) {
		c->stuck = stuck;
		rpc_server_set_serving(c->server, controller_is_serving(c));
	}
	settings_again(box, now_ms);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t controller_turn(struct controller *c, uint64_t now_ms)
{
	struct controller_box *box = (struct controller_box *)c;
	uint64_t next;

	http_turn(c->http);
	store_turn(c, now_ms);
	trouble_turn(box, now_ms);
	if (c->again && !c->draining)
		controller_drain(c, "this controller begins anew: connect elsewhere");
	next = registry_turn(box, now_ms);
	if (!box->c.mesh)
		return next;
	next = earlier(next, access_turn(c, now_ms));
	next = earlier(next, sessions_turn(c->sessions, now_ms));
	next = earlier(next, queries_turn(c->queries, now_ms));
	next = earlier(next, mesh_turn(c->mesh, now_ms));
	next = earlier(next, watches_turn(c->watches, now_ms));
	next = earlier(next, feed_turn(c->feed, now_ms));
	return earlier(next, store_next_ms(c->store)); /* of what this turn asked, too */
}

/* ---- settings by file ----------------------------------------------------------------- */

static void settings_committed(void *userdata, int result, uint64_t revision)
{
	struct controller *c = userdata;

	if (result == 0 || result == -ECANCELED)
		return;
	log_error("the store did not take the segments' settings, they are tried again");
	((struct controller_box *)c)->settings_due = true;
}

static const struct controller_segment *settings_find(const struct controller_config *config,
						      uint32_t segment)
{
	for (unsigned int i = 0; i < config->segments_count; i++) {
		if (config->segments[i].segment == segment)
			return &config->segments[i];
	}
	return NULL;
}

/* The log's settings become the file's; what is equal is no change. The
 * configuration must live until the commit is done. */
static int settings_commit(struct controller *c, const struct controller_config *config)
{
	struct log_segment *segment = log_segment_find(c->log, 0);
	_cleanup_free_ struct log_change *changes = NULL;
	struct store_txn txn = { .node = "" };
	struct log_row *row;
	size_t n = 0;

	changes = calloc(config->segments_count + segment->n_live + 1, sizeof(*changes));
	if (!changes)
		return -ENOMEM;
	TAILQ_FOREACH(row, &segment->rows, by_segment)
	{
		if (row->key.kind == LOG_CONFIG && !row->deleted &&
		    !settings_find(config, row->key.subject))
			changes[n++] = (struct log_change){ .kind = LOG_CONFIG,
							    .node = "",
							    .subject = row->key.subject,
							    .deleted = true };
	}
	for (unsigned int i = 0; i < config->segments_count; i++) {
		const struct controller_segment *s = &config->segments[i];

		row = log_config_find(c->log, s->segment);
		if (row && memcmp(row->config, &s->config, sizeof(s->config)) == 0)
			continue;
		changes[n++] = (struct log_change){
			.kind = LOG_CONFIG, .node = "", .subject = s->segment, .config = &s->config
		};
	}
	txn.changes = changes;
	txn.n_changes = n;
	if (n)
		store_commit(c->store, &txn, settings_committed, c);
	return 0;
}

int controller_reload(struct controller *c, struct controller_config *config)
{
	struct controller_box *box = (struct controller_box *)c;

	const struct controller_config *before = c->records;
	struct controller_config *old = box->reloaded;

	box->reloaded = config;
	c->limits = config->limits;
	c->records = config;
	access_changed(c, before);
	controller_config_free(old);
	return settings_commit(c, config);
}

/* ---- life ----------------------------------------------------------------------------- */

static void methods_add(struct controller_box *box, const struct rpc_method *methods, size_t n)
{
	for (size_t i = 0; i < n && box->n_methods < METHODS_MAX; i++) {
		box->methods[box->n_methods] = methods[i];
		box->methods[box->n_methods++].userdata = &box->c;
	}
}

static int parts_new(struct controller *c)
{
	const struct registry_options options = { c->config->stale_ms, c->config->hold_ms };
	int r = registry_new(&options, controller_now_ms(), &c->registry);

	if (r == 0)
		r = feed_new(c, &c->feed);
	if (r == 0)
		r = queries_new(&c->queries);
	if (r == 0)
		r = sessions_new(c, &c->sessions);
	if (r == 0)
		r = watches_new(c, &c->watches);
	if (r == 0)
		r = peers_new(c, &c->peers);
	if (r == 0)
		r = mesh_new(c, &c->mesh);
	return r;
}

static int serve(struct controller_box *box, int *ret_ports, char why[CONTROLLER_WHY_MAX])
{
	struct controller *c = &box->c;
	const struct rpc_server_options options = {
		.listen = (const char *const *)c->config->listen,
		.ret_ports = ret_ports,
		.tls = c->tls,
		.authorize = access_authorize,
		.userdata = c,
	};
	int r = rpc_server_new(c->rpc, &options, &c->server);

	if (r == 0) {
		methods_add(box, node_service_methods, node_service_n_methods);
		methods_add(box, mesh_service_methods, mesh_service_n_methods);
		rpc_server_add(c->server, box->methods, box->n_methods);
		rpc_server_add_standard(c->server, _binary_mcmesh_pb_start,
					(size_t)(_binary_mcmesh_pb_end - _binary_mcmesh_pb_start));
		r = rpc_server_start(c->server);
	}
	if (r < 0)
		snprintf(why, CONTROLLER_WHY_MAX, "cannot listen on %s%s: %s%s",
			 c->config->listen[0], c->config->listen_count > 1 ? " and the others" : "",
			 strerror(-r),
			 r == -EADDRINUSE ? ", or this is not an address of this machine as "
					    "HOST:PORT, [IPV6]:PORT or unix:/PATH"
			 : r == -EINVAL ? ": HOST:PORT, [IPV6]:PORT or unix:/PATH is needed, with "
					  "a port of at most 65535"
			 : r == -EEXIST ? ": what is there is no socket; name another path"
					: "");
	return r;
}

/* What the store believed last names nodes that the log is not whole without. */
static void expect_known(struct controller *c)
{
	struct log_row *row;

	TAILQ_FOREACH(row, &log_segment_find(c->log, 0)->rows, by_segment)
	{
		if (row->key.kind == LOG_NODE && !row->deleted)
			registry_expect(c->registry, row->node->name);
	}
}

/* The registry has the nodes of the store then: STALE, their hold time begins. */
static int load(struct controller *c, char why[CONTROLLER_WHY_MAX])
{
	char store_why[STORE_WHY_MAX] = "out of memory";
	int r;

	log_load_begin(c->log, c->store->floor);
	r = store_load(c->store, store_why);
	if (r == 0)
		r = c->failed ? -ENOMEM : 0;
	if (r < 0) {
		snprintf(why, CONTROLLER_WHY_MAX, "%s", store_why);
		return r;
	}
	log_load_end(c->log, c->store->revision);
	if (!c->store->is_fresh) {
		registry_set_complete(c->registry);
		return 0;
	}
	expect_known(c);
	return 0;
}

int controller_renew(struct controller *c, const char *node)
{
	struct controller_box *box = (struct controller_box *)c;

	/* In an epoch that this process began nobody can be ahead. */
	if (box->renewed || store_renew(c->store) < 0)
		return -ENOTSUP;
	box->renewed = true;
	log_error("an agent is ahead of the log, so the store is an older copy: a new epoch begins "
		  "node=%s",
		  node);
	log_renew(c->log, c->store->epoch);
	registry_begin_again(c->registry, controller_now_ms());
	expect_known(c);
	sessions_shed(c, "the controller's store is an older copy, a new epoch begins: "
			 "connect again");
	return 0;
}

DEFINE_CLEANUP(struct controller *, controller_free)

int controller_new(const struct controller_config *config, struct rpc *rpc, int *ret_ports,
		   struct controller **ret_controller, char why[CONTROLLER_WHY_MAX])
{
	static const struct store_events events = { on_event, on_presence, on_draining, on_lost };
	struct controller_box *box = calloc(1, sizeof(*box));
	_cleanup_(controller_free_p)
	struct controller *c = box ? &box->c : NULL;
	int r;

	snprintf(why, CONTROLLER_WHY_MAX, "out of memory");
	if (!c)
		return -ENOMEM;
	c->config = c->records = config;
	c->limits = config->limits;
	c->rpc = rpc;
	r = access_check_listen(config, why);
	if (r == 0)
		r = access_tls_new(config, &c->tls, why);
	c->serving = true;
	if (r == 0)
		r = controller_store_open(config, rpc, false, &events, c, &c->etcd_tls, &c->store,
					  why);
	if (r < 0)
		return r;
	r = log_new(c->store->epoch, c->store->revision, config->log_tombstones, &c->log);
	c->store->log = c->log;
	if (r == 0 && !log_segment_get(c->log, 0))
		r = -ENOMEM;
	if (r == 0)
		r = parts_new(c);
	if (r == 0)
		r = load(c, why);
	if (r == 0)
		r = settings_commit(c, c->config);
	if (r < 0)
		return r;
	r = serve(box, ret_ports, why);
	if (r == 0)
		r = controller_metrics_start(c, why);
	if (r < 0)
		return r;
	*ret_controller = TAKE_PTR(c);
	return 0;
}

void controller_free(struct controller *c)
{
	if (!c)
		return;
	http_free(c->http);
	rpc_server_free(c->server);
	rpc_tls_free(c->tls);
	/* Whoever waits for the store hears of its end. */
	store_close(c->store);
	rpc_tls_free(c->etcd_tls);
	peers_free(c->peers);
	mesh_free(c->mesh);
	watches_free(c->watches);
	sessions_free(c->sessions);
	queries_free(c->queries);
	feed_free(c->feed);
	registry_free(c->registry);
	log_free(c->log);
	controller_config_free(((struct controller_box *)c)->reloaded);
	free(c);
}

static void on_stopped(void *userdata)
{
	struct controller *c = userdata;

	c->stopped = true;
}

void controller_drain(struct controller *c, const char *reason)
{
	if (c->draining)
		return;
	c->draining = true;
	rpc_server_set_serving(c->server, false);
	sessions_drain(c->sessions, reason);
	watches_drain(c->watches, reason);
	mesh_drain(c->mesh, reason);
	rpc_server_shutdown(c->server, CONTROLLER_GRACE_MS, on_stopped, c);
}
