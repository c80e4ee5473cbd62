/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <uthash.h>

#include "node/rtnl/rtnl.h"

/* A dump comes in datagrams of up to 32 KiB when the reader offers as much. */
#define RTNL_BUFFER_BYTES  (32 * 1024)
#define RTNL_REQUEST_BYTES 1024
#define RTNL_WATCH_BATCH   256 /* datagrams a call */

struct cached_link {
	struct rtnl_link link;
	uint64_t round; /* the last dump that, or since which an event, named it */
	UT_hash_handle hh;
};

struct rtnl {
	const struct rtnl_ops *ops;
	void *userdata;
	struct mnl_socket *events, *requests;
	struct mnl_socket *watch, *xfrm, *xfrm_watch; /* path.c; NULL: not started */
	struct cached_link *links;		      /* by ifindex */
	uint64_t round;
	uint32_t seq;
	int rcvbuf_bytes;
	bool overrun;	   /* events were lost: a dump is due */
	bool busy;	   /* inside a callback's datagram */
	uint32_t dump_seq; /* of the dump that runs on the event socket; 0: none */
	bool dump_inconsistent;
	alignas(struct nlmsghdr) uint8_t event_buffer[RTNL_BUFFER_BYTES];
	alignas(struct nlmsghdr) uint8_t request_buffer[RTNL_BUFFER_BYTES];
};

/* link.c: one RTM_NEWLINK or RTM_DELLINK into the cache and the callbacks. */
void rtnl_cache_input(struct rtnl *rtnl, const struct nlmsghdr *nlh);
void rtnl_cache_sweep(struct rtnl *rtnl);
void rtnl_cache_free(struct rtnl *rtnl);

/* What a message says of a link; false: it says nothing of a whole link. */
bool rtnl_link_parse(const struct nlmsghdr *nlh, struct rtnl_link *ret_link);

/* The kind, and the IFLA_INFO_DATA of it (NULL: none). */
const char *rtnl_link_info(const struct nlattr *linkinfo, const struct nlattr **ret_data);

/* rtnl.c */
int rtnl_open_socket(int protocol, unsigned groups, struct mnl_socket **ret_socket);

/* rtnl.c: sends a request on the request socket, calls fn for each message of
 * the answer; 0 or the kernel's -errno. */
int rtnl_request(struct rtnl *rtnl, struct nlmsghdr *nlh,
		 void (*fn)(const struct nlmsghdr *nlh, void *userdata), void *userdata);

/* A request of the type in buf, with a zeroed body of `size` bytes. */
struct nlmsghdr *rtnl_message(void *buf, uint16_t type, uint16_t flags, size_t size,
			      void **ret_body);

/* ---- route.c: what the kernel said, and what follows. Pure. --------------------- */

struct rtnl_route {
	bool found;
	bool plain; /* an Ethernet header is all there is to it */
	uint32_t ifindex, mtu;
	struct addr gateway; /* null: the address itself is the neighbour */
};

struct rtnl_neighbour {
	bool usable;
	uint8_t mac[6];
};

/* One message of the answer; others than RTM_NEWROUTE, RTM_NEWNEIGH say nothing. */
void rtnl_route_parse(const struct nlmsghdr *nlh, struct rtnl_route *route);
void rtnl_neighbour_parse(const struct nlmsghdr *nlh, struct rtnl_neighbour *neighbour);

/* The way to `to`, as far as it can be told without the neighbour: DIRECT, if that
 * is usable. link: NULL, or the route's. */
void rtnl_path_begin(const struct addr *to, const struct addr *from, bool ipsec,
		     const struct rtnl_route *route, const struct rtnl_link *link,
		     struct rtnl_path *ret_path);
void rtnl_path_end(const struct rtnl_neighbour *neighbour, struct rtnl_path *path);
