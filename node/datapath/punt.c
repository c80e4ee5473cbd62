/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mcmesh.skel.h"

/*
 * The kernel's ring buffer, read by hand: libbpf's reader cannot stop after so
 * many records. Layout (kernel documentation, bpf/ringbuf): a page with the
 * consumer's position, a page with the producer's, then the data twice in a
 * row, so that no record wraps. Both positions belong to the map: what an
 * agent left unread is there for the next.
 */
#define RECORD_HEADER 8

static int view(int fd, size_t offset, size_t len, int prot, struct dp_map_view *ret_view)
{
	void *data = mmap(NULL, len, prot, MAP_SHARED, fd, (off_t)offset);

	if (data == MAP_FAILED)
		return -errno;
	*ret_view = (struct dp_map_view){ data, len };
	return 0;
}

int datapath_punt_init(struct datapath *dp)
{
	int fd = bpf_map__fd(dp->skel->maps.punt);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int rc;

	dp->punt_bytes = bpf_map__max_entries(dp->skel->maps.punt);
	rc = view(fd, 0, page, PROT_READ | PROT_WRITE, &dp->punt_consumer_view);
	if (rc < 0)
		return rc;
	return view(fd, page, page + 2 * (size_t)dp->punt_bytes, PROT_READ,
		    &dp->punt_producer_view);
}

void datapath_punt_deinit(struct datapath *dp)
{
	datapath_map_unview(&dp->punt_consumer_view);
	datapath_map_unview(&dp->punt_producer_view);
}

int datapath_punt_fd(const struct datapath *dp)
{
	return bpf_map__fd(dp->skel->maps.punt);
}

static bool record_read(const uint8_t *data, uint32_t len, struct datapath_punt *ret_punt)
{
	struct dp_punt header;

	if (len < sizeof(header))
		return false;
	memcpy(&header, data, sizeof(header));
	if (header.len > len - sizeof(header))
		return false;
	*ret_punt = (struct datapath_punt){
		.time_ns = header.time_ns,
		.ifindex = header.ifindex,
		.generation = header.generation,
		.frame = data + sizeof(header),
		.len = header.len,
	};
	return true;
}

int datapath_punt_consume(struct datapath *dp, size_t max,
			  void (*fn)(const struct datapath_punt *punt, void *userdata),
			  void *userdata)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned long *consumer = dp->punt_consumer_view.data;
	const unsigned long *producer = dp->punt_producer_view.data;
	const uint8_t *ring = (const uint8_t *)dp->punt_producer_view.data + page;
	unsigned long at = __atomic_load_n(consumer, __ATOMIC_ACQUIRE);
	int n = 0;

	while ((size_t)n < max && at < __atomic_load_n(producer, __ATOMIC_ACQUIRE)) {
		const uint8_t *record = ring + (at & (dp->punt_bytes - 1));
		uint32_t len =
			__atomic_load_n((const uint32_t *)(const void *)record, __ATOMIC_ACQUIRE);
		struct datapath_punt punt;

		if (len & BPF_RINGBUF_BUSY_BIT)
			break; /* still being written; the fd becomes readable again */
		if (!(len & BPF_RINGBUF_DISCARD_BIT) &&
		    record_read(record + RECORD_HEADER, len, &punt)) {
			fn(&punt, userdata);
			n++;
		}
		len &= ~(uint32_t)(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
		at += (len + RECORD_HEADER + 7) & ~7U;
		/* After each record: one who dies in fn sees this one again, no other. */
		__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
	}
	return n;
}
