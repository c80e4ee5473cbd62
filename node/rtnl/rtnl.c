/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: links by rtnetlink
 *
 * Two sockets. `events` is subscribed to RTNLGRP_LINK, and dumps of the links
 * are asked for on it too: the kernel queues a dump's answers and the events in
 * the order in which they happened, so applying them as they come ends in the
 * present state. On a second socket an event from before the dump could undo
 * what the dump said. `requests` carries what wants an answer at once.
 *
 * The cache (link.c) knows each link once and calls back only when something
 * of it changed, so a dump reports differences by nature: every message of a
 * round marks its link, and what the round did not mark is gone.
 *
 * When the reader is too slow the kernel drops events and says ENOBUFS once,
 * until the queue has been empty. So: empty it, widen it, then dump.
 *
 * One owner, no thread, no clock.
 */
#include "node/rtnl/rtnl.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"
#include "node/rtnl/internal.h"

#define RCVBUF_BYTES	  (4 * 1024 * 1024)
#define RCVBUF_MAX_BYTES  (64 * 1024 * 1024)
#define ANSWER_TIMEOUT_MS 5000
#define DISPATCH_MAX	  1024 /* datagrams a call: other events of the loop wait */
#define REPAIR_ROUNDS_MAX 16

DEFINE_CLEANUP(struct rtnl *, rtnl_free)

static int set_rcvbuf(struct rtnl *rtnl, int bytes)
{
	int fd = rtnl_fd(rtnl);

	rtnl->rcvbuf_bytes = bytes;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0)
		return -errno;
	return 0;
}

int rtnl_open_socket(int protocol, unsigned groups, struct mnl_socket **ret_socket)
{
	struct mnl_socket *s = mnl_socket_open2(protocol, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int err;

	if (!s)
		return -errno;
	if (mnl_socket_bind(s, groups, MNL_SOCKET_AUTOPID) < 0) {
		err = -errno;
		mnl_socket_close(s);
		return err;
	}
	*ret_socket = s;
	return 0;
}

int rtnl_new(const struct rtnl_ops *ops, void *userdata, struct rtnl **ret_rtnl)
{
	_cleanup_(rtnl_free_p)
	struct rtnl *rtnl = calloc(1, sizeof(*rtnl));
	int r;

	assert(ops && ops->on_link && ops->on_link_gone);
	if (!rtnl)
		return -ENOMEM;
	rtnl->ops = ops;
	rtnl->userdata = userdata;
	r = rtnl_open_socket(NETLINK_ROUTE, RTMGRP_LINK, &rtnl->events);
	if (r < 0)
		return r;
	r = rtnl_open_socket(NETLINK_ROUTE, 0, &rtnl->requests);
	if (r < 0)
		return r;
	r = set_rcvbuf(rtnl, RCVBUF_BYTES);
	if (r < 0)
		return r;
	*ret_rtnl = TAKE_PTR(rtnl);
	return 0;
}

void rtnl_free(struct rtnl *rtnl)
{
	if (!rtnl)
		return;
	rtnl_cache_free(rtnl);
	if (rtnl->events)
		mnl_socket_close(rtnl->events);
	if (rtnl->requests)
		mnl_socket_close(rtnl->requests);
	if (rtnl->watch)
		mnl_socket_close(rtnl->watch);
	if (rtnl->xfrm)
		mnl_socket_close(rtnl->xfrm);
	if (rtnl->xfrm_watch)
		mnl_socket_close(rtnl->xfrm_watch);
	free(rtnl);
}

int rtnl_fd(const struct rtnl *rtnl)
{
	return mnl_socket_get_fd(rtnl->events);
}

struct nlmsghdr *rtnl_message(void *buf, uint16_t type, uint16_t flags, size_t size,
			      void **ret_body)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	*ret_body = mnl_nlmsg_put_extra_header(nlh, size);
	return nlh;
}

static uint32_t next_seq(struct rtnl *rtnl)
{
	if (++rtnl->seq == 0)
		rtnl->seq = 1; /* 0 is that of events */
	return rtnl->seq;
}

/* 0, -ETIMEDOUT, or -errno. A kernel that has not answered in seconds will not. */
static int wait_readable(const struct mnl_socket *s)
{
	struct pollfd p = { .fd = mnl_socket_get_fd(s), .events = POLLIN };
	int r;

	do {
		r = poll(&p, 1, ANSWER_TIMEOUT_MS);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r == 0 ? -ETIMEDOUT : 0;
}

/* One datagram's messages of our request: 1 when it was the last, 0, or -errno. */
static int read_answer(struct rtnl *rtnl, size_t len, uint32_t seq,
		       void (*fn)(const struct nlmsghdr *nlh, void *userdata), void *userdata)
{
	const struct nlmsghdr *nlh = (const void *)rtnl->request_buffer;
	int left = (int)len;

	for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
		if (nlh->nlmsg_seq != seq)
			continue; /* of a request that timed out */
		if (nlh->nlmsg_type == NLMSG_ERROR) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(nlh);

			return e->error < 0 ? e->error : 1;
		}
		if (nlh->nlmsg_type == NLMSG_DONE)
			return 1;
		if (fn)
			fn(nlh, userdata);
	}
	return 0;
}

int rtnl_request(struct rtnl *rtnl, struct nlmsghdr *nlh,
		 void (*fn)(const struct nlmsghdr *nlh, void *userdata), void *userdata)
{
	ssize_t n;
	int r;

	nlh->nlmsg_seq = next_seq(rtnl);
	if (mnl_socket_sendto(rtnl->requests, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	for (;;) {
		r = wait_readable(rtnl->requests);
		if (r < 0)
			return r;
		n = mnl_socket_recvfrom(rtnl->requests, rtnl->request_buffer,
					sizeof(rtnl->request_buffer));
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return -errno;
		r = read_answer(rtnl, (size_t)n, nlh->nlmsg_seq, fn, userdata);
		if (r != 0)
			return r < 0 ? r : 0;
	}
}

/* ---- events and dumps ------------------------------------------------------- */

static void event_datagram(struct rtnl *rtnl, size_t len)
{
	const struct nlmsghdr *nlh = (const void *)rtnl->event_buffer;
	int left = (int)len;

	rtnl->busy = true;
	for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
		bool of_dump = rtnl->dump_seq && nlh->nlmsg_seq == rtnl->dump_seq &&
			       nlh->nlmsg_pid == mnl_socket_get_portid(rtnl->events);

		if (of_dump && nlh->nlmsg_flags & NLM_F_DUMP_INTR)
			rtnl->dump_inconsistent = true;
		if (of_dump && nlh->nlmsg_type == NLMSG_ERROR)
			rtnl->dump_inconsistent = true;
		if (of_dump && (nlh->nlmsg_type == NLMSG_DONE || nlh->nlmsg_type == NLMSG_ERROR))
			rtnl->dump_seq = 0;
		else
			rtnl_cache_input(rtnl, nlh);
	}
	rtnl->busy = false;
}

/* Reads what is there: 0 when the queue is empty, 1 after DISPATCH_MAX datagrams. */
static int drain(struct rtnl *rtnl)
{
	for (unsigned i = 0; i < DISPATCH_MAX;) {
		ssize_t n = mnl_socket_recvfrom(rtnl->events, rtnl->event_buffer,
						sizeof(rtnl->event_buffer));

		if (n >= 0) {
			event_datagram(rtnl, (size_t)n);
			i++;
		} else if (errno == ENOBUFS) {
			rtnl->overrun = true;
			i++;
		} else if (errno == EAGAIN) {
			return 0;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 1;
}

static int dump_once(struct rtnl *rtnl)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlmsghdr *nlh;
	void *body;
	int r;

	nlh = rtnl_message(buf, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg), &body);
	nlh->nlmsg_seq = next_seq(rtnl);
	rtnl->round++;
	rtnl->dump_inconsistent = false;
	rtnl->overrun = false;
	if (mnl_socket_sendto(rtnl->events, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	rtnl->dump_seq = nlh->nlmsg_seq;
	while (rtnl->dump_seq) {
		r = wait_readable(rtnl->events);
		if (r >= 0)
			r = drain(rtnl);
		if (r < 0) {
			rtnl->dump_seq = 0;
			rtnl->overrun = true;
			return r;
		}
	}
	/* A dump that was cut short proves nothing about what it did not name. */
	if (rtnl->dump_inconsistent)
		rtnl->overrun = true;
	else
		rtnl_cache_sweep(rtnl);
	return 0;
}

/* Dumps until one went through without a loss. */
static int resync(struct rtnl *rtnl)
{
	int r;

	for (unsigned i = 0; i < REPAIR_ROUNDS_MAX; i++) {
		r = dump_once(rtnl);
		if (r < 0)
			return r;
		if (!rtnl->overrun)
			return 0;
		if (rtnl->rcvbuf_bytes < RCVBUF_MAX_BYTES)
			set_rcvbuf(rtnl, rtnl->rcvbuf_bytes * 2);
		/* Only an empty queue takes new events after an overrun. */
		for (unsigned j = 0; j < REPAIR_ROUNDS_MAX && r >= 0; j++) {
			r = drain(rtnl);
			if (r == 0)
				break;
		}
		if (r < 0)
			return r;
	}
	return -ENOBUFS;
}

int rtnl_dump(struct rtnl *rtnl)
{
	assert(!rtnl->busy);
	return resync(rtnl);
}

int rtnl_dispatch(struct rtnl *rtnl)
{
	int r;

	assert(!rtnl->busy);
	r = drain(rtnl);
	if (r != 0)
		return r < 0 ? r : 0; /* more waits: the descriptor stays readable */
	return rtnl->overrun ? resync(rtnl) : 0;
}

/* ---- small requests --------------------------------------------------------- */

struct address_search {
	const struct addr *wanted;
	uint32_t ifindex; /* 0: not found */
};

static void on_address(const struct nlmsghdr *nlh, void *userdata)
{
	struct address_search *search = userdata;
	const struct nlattr *attr;
	struct addr a;

	if (nlh->nlmsg_type != RTM_NEWADDR)
		return;
	mnl_attr_for_each(attr, nlh, sizeof(struct ifaddrmsg))
	{
		uint16_t type = mnl_attr_get_type(attr);

		/* Of a point-to-point link IFA_ADDRESS is the peer's; there
		 * IFA_LOCAL comes too, and of IPv6 the address is in IFA_ADDRESS. */
		if (type != IFA_LOCAL && (type != IFA_ADDRESS || addr_is_v4(search->wanted)))
			continue;
		if (addr_from_wire(mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr),
				   &a) == 0 &&
		    addr_equal(&a, search->wanted))
			search->ifindex =
				((const struct ifaddrmsg *)mnl_nlmsg_get_payload(nlh))->ifa_index;
	}
}

uint32_t rtnl_address_link(struct rtnl *rtnl, const struct addr *addr)
{
	struct address_search search = { .wanted = addr };
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct ifaddrmsg *ifa;
	struct nlmsghdr *nlh;
	void *body;

	nlh = rtnl_message(buf, RTM_GETADDR, NLM_F_DUMP, sizeof(*ifa), &body);
	ifa = body;
	ifa->ifa_family = addr_is_v4(addr) ? AF_INET : AF_INET6;
	return rtnl_request(rtnl, nlh, on_address, &search) == 0 ? search.ifindex : 0;
}

bool rtnl_has_address(struct rtnl *rtnl, const struct addr *addr)
{
	return rtnl_address_link(rtnl, addr) != 0;
}

int rtnl_link_delete(struct rtnl *rtnl, uint32_t ifindex)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	void *body;

	nlh = rtnl_message(buf, RTM_DELLINK, NLM_F_ACK, sizeof(*ifi), &body);
	ifi = body;
	ifi->ifi_index = (int)ifindex;
	return rtnl_request(rtnl, nlh, NULL, NULL);
}
