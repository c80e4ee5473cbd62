/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: one connection that leaves no time for the others
 *
 * The library reads a connection until there is nothing more to read, also when
 * each byte of it only begins or resets a stream (CVE-2023-44487). A client that
 * never pauses so keeps the loop's thread inside the library, and all others wait.
 * From inside the loop nothing can be done about it, so the guard's thread looks:
 * has the loop's thread burnt FLOOD_STALL_MS of processor time in one call of the
 * library, which completed nothing? (Wall time would take a busy machine, or a
 * stopped process, for an attack.) Then whoever has sent the most from one look to
 * the next is cut off, and its address gets no new connection for FLOOD_BAN_MS.
 *
 * The ban is a socket filter on the listening sockets, as the guard's shut door is
 * (rpc_guard.c): TCP drops what the address sends to begin a connection. The
 * connections that it has go on.
 */
#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "common/rpc_internal.h"

#define FLOOD_STALL_MS 100
#define FLOOD_LOOK_MS  50	   /* of processor time between the two looks */
#define FLOOD_BYTES    (16 * 1024) /* who sent less meanwhile is not the cause */
#define FLOOD_BAN_MS   (10 * 1000)
#define FLOOD_BANS     16 /* addresses; the oldest goes first */

struct sent {
	int fd;
	uint16_t port;
	uint64_t bytes;
};

struct flood_ban {
	struct sockaddr_in6 address;
	uint64_t until_ms;
};

struct rpc_flood {
	clockid_t clock; /* of the loop's thread */
	const atomic_uint *library;
	unsigned int seen;
	uint64_t since_ns, looked_ns; /* of its processor time; looked: 0, not yet */
	struct sent *sent;
	size_t n_sent, size;
	struct flood_ban bans[FLOOD_BANS];
	size_t n_bans;
	atomic_uint_fast64_t cut;
};

struct rpc_flood *rpc_flood_new(struct rpc *rpc)
{
	struct rpc_flood *flood = calloc(1, sizeof(*flood));

	if (!flood)
		return NULL;
	flood->library = &rpc->library;
	if (pthread_getcpuclockid(pthread_self(), &flood->clock) == 0)
		return flood;
	free(flood);
	return NULL;
}

void rpc_flood_free(struct rpc_flood *flood)
{
	if (!flood)
		return;
	free(flood->sent);
	free(flood);
}

uint64_t rpc_flood_cut(const struct rpc_flood *flood)
{
	return flood ? atomic_load(&((struct rpc_flood *)flood)->cut) : 0;
}

/* ---- who sends ----------------------------------------------------------------- */

static uint16_t port_of(const struct sockaddr_in6 *address)
{
	return ntohs(address->sin6_port); /* at the same place in both families */
}

/* A connection to one of the ports? Then its peer, and what it has sent. */
static bool connection_read(int fd, const uint16_t *ports, size_t n_ports,
			    struct sockaddr_in6 *ret_peer, uint64_t *ret_bytes)
{
	struct sockaddr_in6 own = { 0 };
	socklen_t own_size = sizeof(own), peer_size = sizeof(*ret_peer);
	struct tcp_info info = { 0 };
	socklen_t info_size = sizeof(info);
	size_t i;

	if (getsockname(fd, (struct sockaddr *)&own, &own_size) < 0 ||
	    (own.sin6_family != AF_INET && own.sin6_family != AF_INET6))
		return false;
	for (i = 0; i < n_ports && ports[i] != port_of(&own); i++)
		;
	memset(ret_peer, 0, sizeof(*ret_peer));
	if (i == n_ports || getpeername(fd, (struct sockaddr *)ret_peer, &peer_size) < 0 ||
	    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_size) < 0)
		return false;
	*ret_bytes = info.tcpi_bytes_received;
	return true;
}

static void sent_add(struct rpc_flood *flood, struct sent sent)
{
	struct sent *grown;

	if (flood->n_sent == flood->size) {
		grown = reallocarray(flood->sent, flood->size * 2 + 64, sizeof(*grown));
		if (!grown)
			return;
		flood->sent = grown;
		flood->size = flood->size * 2 + 64;
	}
	flood->sent[flood->n_sent++] = sent;
}

static void connections_note(struct rpc_flood *flood, const uint16_t *ports, size_t n_ports)
{
	DIR *dir = opendir("/proc/self/fd");
	struct sockaddr_in6 peer;
	struct dirent *entry;
	struct sent sent;

	flood->n_sent = 0;
	while (dir && (entry = readdir(dir))) {
		sent.fd = atoi(entry->d_name);
		if (sent.fd > 2 && connection_read(sent.fd, ports, n_ports, &peer, &sent.bytes)) {
			sent.port = port_of(&peer);
			sent_add(flood, sent);
		}
	}
	if (dir)
		closedir(dir);
}

/* Whoever has sent the most since they were noted, and at least half of it all. */
static bool flooder_find(const struct rpc_flood *flood, const uint16_t *ports, size_t n_ports,
			 int *ret_fd, struct sockaddr_in6 *ret_peer)
{
	uint64_t most = 0, all = 0, bytes;
	struct sockaddr_in6 peer;

	for (size_t i = 0; i < flood->n_sent; i++) {
		const struct sent *s = &flood->sent[i];

		/* The number may be another connection's by now. */
		if (!connection_read(s->fd, ports, n_ports, &peer, &bytes) ||
		    port_of(&peer) != s->port || bytes < s->bytes)
			continue;
		all += bytes - s->bytes;
		if (bytes - s->bytes <= most)
			continue;
		most = bytes - s->bytes;
		*ret_fd = s->fd;
		*ret_peer = peer;
	}
	return most >= FLOOD_BYTES && most >= all / 2;
}

/* ---- who is banned -------------------------------------------------------------- */

static bool is_v4(const struct sockaddr_in6 *a)
{
	return a->sin6_family == AF_INET || IN6_IS_ADDR_V4MAPPED(&a->sin6_addr);
}

/* The words of the address, in the host's order; how many. */
static size_t address_words(const struct sockaddr_in6 *a, uint32_t words[4])
{
	memcpy(words, &a->sin6_addr, 16);
	if (a->sin6_family == AF_INET)
		words[3] = ((const struct sockaddr_in *)a)->sin_addr.s_addr;
	for (size_t i = 0; i < 4; i++)
		words[i] = ntohl(words[i]);
	if (!is_v4(a))
		return 4;
	words[0] = words[3];
	return 1;
}

static void ban(struct rpc_flood *flood, const struct sockaddr_in6 *peer, uint64_t now_ms)
{
	if (flood->n_bans == FLOOD_BANS)
		memmove(flood->bans, flood->bans + 1, --flood->n_bans * sizeof(*flood->bans));
	flood->bans[flood->n_bans++] = (struct flood_ban){ *peer, now_ms + FLOOD_BAN_MS };
}

size_t rpc_flood_filter(const struct rpc_flood *flood, struct sock_filter *code)
{
	const uint32_t v4 = (uint32_t)SKF_NET_OFF + 12, v6 = (uint32_t)SKF_NET_OFF + 8;
	size_t n = 0;

	for (size_t i = 0; flood && i < flood->n_bans; i++) {
		const struct sockaddr_in6 *a = &flood->bans[i].address;
		uint32_t words[4];
		uint8_t left = (uint8_t)(2 * address_words(a, words) + 1);

		/* Family and words, each a load and a comparison; then drop. */
		code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
							 (uint32_t)(SKF_AD_OFF + SKF_AD_PROTOCOL));
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 is_v4(a) ? ETH_P_IP : ETH_P_IPV6, 0, left);
		for (uint32_t w = 0; left > 1; w++) {
			left = (uint8_t)(left - 2);
			code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
								 (is_v4(a) ? v4 : v6) + 4 * w);
			code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
								 words[w], 0, left);
		}
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	}
	if (n)
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	return n;
}

/* ---- the look ------------------------------------------------------------------- */

static bool bans_end(struct rpc_flood *flood, uint64_t now_ms)
{
	size_t n = 0;

	while (n < flood->n_bans && now_ms >= flood->bans[n].until_ms)
		n++;
	if (!n)
		return false;
	flood->n_bans -= n;
	memmove(flood->bans, flood->bans + n, flood->n_bans * sizeof(*flood->bans));
	return true;
}

/* How long the loop's thread has worked in the present call of the library. */
static uint64_t burnt_ns(struct rpc_flood *flood, uint64_t *ret_at_ns)
{
	unsigned int library = atomic_load(flood->library);
	struct timespec ts = { 0 };

	clock_gettime(flood->clock, &ts);
	*ret_at_ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	if (library != flood->seen || !(library & 1)) {
		flood->seen = library;
		flood->since_ns = *ret_at_ns;
		flood->looked_ns = 0;
	}
	return *ret_at_ns - flood->since_ns;
}

bool rpc_flood_look(struct rpc_flood *flood, const uint16_t *ports, size_t n_ports)
{
	uint64_t now_ms = rpc_now_ms(), at_ns, burnt = burnt_ns(flood, &at_ns);
	bool changed = bans_end(flood, now_ms);
	struct sockaddr_in6 peer;
	int fd;

	if (burnt < FLOOD_STALL_MS * 1000000ull)
		return changed;
	if (!flood->looked_ns) {
		connections_note(flood, ports, n_ports);
		flood->looked_ns = at_ns;
		return changed;
	}
	if (at_ns - flood->looked_ns < FLOOD_LOOK_MS * 1000000ull)
		return changed;
	flood->looked_ns = 0;
	if (!flooder_find(flood, ports, n_ports, &fd, &peer))
		return changed;
	shutdown(fd, SHUT_RDWR);
	ban(flood, &peer, now_ms);
	atomic_fetch_add(&flood->cut, 1);
	return true;
}
