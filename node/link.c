/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * The uplink's stream on gRPC. One channel per attempt: a channel that was to a
 * dead controller has back-off of its own, which is not wanted here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/rpc_tls.h"
#include "node/aside.h"

#define TLS_LOOK_US 1000000
#define LINK_PATH   "/mcmesh.v1.NodeService/Sync"

struct agent_link {
	struct agent *agent;
	struct rpc_channel *channel;
	struct rpc_call *call; /* the current stream, or NULL */
	struct link_aside aside;
	sd_event_source *deferred; /* uplink inputs must not come from inside its ops */
	sd_event_source *tls_look;
};

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ControllerMessage *m = (const Mcmesh__V1__ControllerMessage *)message;
	struct agent_link *link = rpc_call_userdata(call);

	if (!link || !m)
		return;
	uplink_message(link->agent->uplink, m, agent_now_ms());
	if (link->call && m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME)
		link_aside_begin(&link->aside, link->channel, link->agent->uplink,
				 link->agent->config->node, m->welcome);
}

static void on_close(struct rpc_call *call, int status, const char *text)
{
	struct agent_link *link = rpc_call_userdata(call);

	if (!link)
		return; /* we left it before */
	link->call = NULL;
	link_aside_end(&link->aside);
	uplink_closed(link->agent->uplink, status, text, agent_now_ms());
}

static const struct rpc_call_ops call_ops = {
	.on_message = on_message,
	.on_close = on_close,
};

static void link_disconnect(void *userdata)
{
	struct agent_link *link = ((struct agent *)userdata)->link;

	if (link->call) {
		rpc_call_set_userdata(link->call, NULL);
		rpc_call_cancel(link->call);
		link->call = NULL;
	}
	link_aside_end(&link->aside);
	rpc_channel_free(link->channel);
	link->channel = NULL;
	if (link->deferred)
		sd_event_source_set_enabled(link->deferred, SD_EVENT_OFF);
}

static void link_failed(struct agent *a)
{
	char why[RPC_TLS_WHY_MAX] = "";

	if (a->tls)
		rpc_tls_why(a->tls, why);
	uplink_closed(a->uplink, RPC_UNAVAILABLE,
		      why[0] ? why
			     : "the address cannot be used: see controllers in the configuration",
		      agent_now_ms());
}

/* The next loop turn: the stream is ready for the Hello, or never will be. */
static int on_deferred(sd_event_source *source, void *userdata)
{
	struct agent_link *link = userdata;

	if (link->call)
		uplink_opened(link->agent->uplink, agent_now_ms());
	else
		link_failed(link->agent);
	return 0;
}

static void link_connect(const char *target, void *userdata)
{
	struct agent *a = userdata;
	struct agent_link *link = a->link;
	/* That the controller is silent shows by its heartbeats, and sooner. Probes besides
	 * would end the sessions of thousands while it is busy for a second. */
	struct rpc_channel_options options = { .target = target,
					       .tls = a->tls,
					       .keepalive_ms = RPC_KEEPALIVE_NEVER };

	link_disconnect(a);
	if (rpc_channel_new(a->rpc, &options, &link->channel) >= 0 &&
	    rpc_channel_call(link->channel, LINK_PATH, &mcmesh__v1__controller_message__descriptor,
			     &call_ops, 0, link, &link->call) < 0)
		link->call = NULL;
	sd_event_source_set_enabled(link->deferred, SD_EVENT_ONESHOT);
}

static void link_send(const Mcmesh__V1__AgentMessage *message, void *userdata)
{
	struct agent_link *link = ((struct agent *)userdata)->link;
	int r;

	if (!link->call || link_aside_send(&link->aside, message))
		return;
	r = rpc_call_send(link->call, &message->base);
	if (r >= 0 || r == -EPIPE)
		return; /* -EPIPE: the end is on its way */
	/* The controller would go on without what never came. */
	log_error(
		"A message to the controller cannot be sent; the session begins again. why=\"%s\"",
		strerror(-r));
	rpc_call_cancel(link->call);
}

static void link_query(const Mcmesh__V1__Query *query, void *userdata)
{
	agent_query_answer(userdata, query);
}

static void reset_revision(uint32_t segment, uint64_t revision, void *userdata)
{
	agent_segment_save(userdata, segment, 0);
}

/* Positions first: a crash in between must not join them with the new epoch. */
static void link_epoch(const uint8_t epoch[EPOCH_LEN], void *userdata)
{
	struct agent *a = userdata;
	struct datapath_meta meta;

	memcpy(meta.epoch, epoch, sizeof(meta.epoch));
	mirror_segments_walk(a->mirror, reset_revision, a);
	if (datapath_meta_set(a->datapath, &meta) < 0)
		log_warning("The log's epoch could not be saved.");
}

static void link_session(const char *controller, const char *reason, void *userdata)
{
	if (controller)
		log_info("Session with the controller. controller=%s", controller);
	else
		log_warning("No session with a controller; forwarding and local joins go on. "
			    "why=\"%s\"",
			    reason);
}

static void link_refused(uint32_t segment, const struct addr *group, const char *reason,
			 void *userdata)
{
	char text[ADDR_TEXT_MAX];

	log_warning("The controller refused a member. segment=%u group=%s why=\"%s\"", segment,
		    addr_format(group, text), reason);
}

const struct uplink_ops agent_link_ops = {
	.connect = link_connect,
	.disconnect = link_disconnect,
	.send = link_send,
	.query = link_query,
	.epoch = link_epoch,
	.session = link_session,
	.refused = link_refused,
};

/* ---- certificates --------------------------------------------------------------- */

static void tls_event(void *userdata, bool bad, const char *sentence)
{
	if (bad)
		log_warning("%s", sentence);
	else
		log_info("%s", sentence);
}

int agent_tls_new(const struct node_config *config, bool may_wait, struct rpc_tls **ret_tls,
		  char why[AGENT_WHY_MAX])
{
	const struct rpc_tls_options options = {
		.cacert = config->tls->cacert,
		.cert = config->tls->cert,
		.key = config->tls->key,
		.server_name = config->tls->server_name,
		.may_wait = may_wait,
		.on_event = tls_event,
	};
	char tls_why[RPC_TLS_WHY_MAX];
	int r = rpc_tls_new(&options, ret_tls, tls_why);

	snprintf(why, AGENT_WHY_MAX, "%s", tls_why);
	return r;
}

/* So that a bad file is told of before it is needed. */
static int on_tls_look(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct agent_link *link = userdata;

	rpc_tls_refresh(link->agent->tls);
	sd_event_source_set_time_relative(source, TLS_LOOK_US);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int tls_start(struct agent_link *link)
{
	struct agent *a = link->agent;
	char why[AGENT_WHY_MAX];
	int r;

	if (!a->config->tls)
		return 0;
	r = agent_tls_new(a->config, true, &a->tls, why);
	if (r < 0)
		return r;
	if (why[0])
		log_error("No controller can be asked until this is mended: %s", why);
	return sd_event_add_time_relative(a->event, &link->tls_look, CLOCK_MONOTONIC, TLS_LOOK_US,
					  TLS_LOOK_US / 4, on_tls_look, link);
}

int agent_link_new(struct agent *agent, struct agent_link **ret_link)
{
	struct agent_link *link = calloc(1, sizeof(*link));
	int r;

	if (!link)
		return -ENOMEM;
	link->agent = agent;
	r = sd_event_add_defer(agent->event, &link->deferred, on_deferred, link);
	if (r >= 0)
		r = tls_start(link);
	if (r < 0) {
		agent_link_free(link);
		return r;
	}
	sd_event_source_set_enabled(link->deferred, SD_EVENT_OFF);
	*ret_link = link;
	return 0;
}

void agent_link_free(struct agent_link *link)
{
	if (!link)
		return;
	link_disconnect(link->agent);
	sd_event_source_disable_unref(link->deferred);
	sd_event_source_disable_unref(link->tls_look);
	free(link);
}
