/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The maps. max_entries are placeholders: the agent sets them from its limits.
 * "mapped": written by the agent through memory, read here.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "shared.h"

/* route key → its list */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct dp_route_key);
	__type(value, struct dp_route);
	__uint(max_entries, 16);
} routes SEC(".maps");

/* DP_EPOCH_SLOT of a group → changes of its routes, and of other groups'; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, DP_EPOCHS);
} epochs SEC(".maps");

/* streams that a CPU had last: flow.h */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct dp_flow);
	__uint(max_entries, DP_FLOWS);
} flows SEC(".maps");

/* group → packets to it that had a route, but for those that flows still count */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct dp_group);
	__type(value, struct dp_count);
	__uint(max_entries, 4096);
} group_counts SEC(".maps");

/* number → chunk of a list; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct dp_list);
	__uint(max_entries, 16);
} lists SEC(".maps");

/* ifindex → number of the port */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 16);
} port_ids SEC(".maps");

/* ifindex modulo its size → number of the last such port; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, DP_PORT_CACHE);
} port_cache SEC(".maps");

/* number → port; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct dp_port);
	__uint(max_entries, 16);
} ports SEC(".maps");

/* VNI → segment */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct dp_segment);
	__uint(max_entries, 16);
} segments SEC(".maps");

/* address → number of the remote */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, 16);
	__type(value, __u32);
	__uint(max_entries, 16);
} vteps SEC(".maps");

/* DP_VTEP_SLOT of an address → number of the last such remote; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, DP_VTEP_CACHE);
} vtep_cache SEC(".maps");

/* number → remote; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct dp_remote);
	__uint(max_entries, 16);
} remotes SEC(".maps");

/* number → path; mapped */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct dp_path);
	__uint(max_entries, 16);
} paths SEC(".maps");

/* The copies of the present packet that leave encapsulated, and their headers. */
struct encapsulation {
	__u8 head[88]; /* struct outer_ipv4 or outer_ipv6 */
	__u32 sum;     /* of the IPv4 header without the destination */
	struct direct {
		__u32 remote, path;
	} direct[DP_DIRECT_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct encapsulation);
	__uint(max_entries, 1);
} encapsulation SEC(".maps");

/* IGMP and MLD frames for the agent */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} punt SEC(".maps");

/* where a frame is copied to on its way into `punt` */
struct punt_record {
	struct dp_punt header;
	__u8 frame[DP_PUNT_FRAME];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct punt_record);
	__uint(max_entries, 1);
} punt_scratch SEC(".maps");

/* number of a port → when its next frame would be due, were it in pace. CPUs
 * may race for it; the cost is a frame more. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 16);
} punt_pace SEC(".maps");

/* enum dp_fan → ifindex; 0: there is none */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, DP_FANS);
} fans SEC(".maps");

/* A packet that a fan is at work on: which of its copies is the next. */
struct fan_run {
	__u32 cpu, run; /* whose it is */
	__u32 next;
	__u32 pad;
};

struct fan_runs {
	struct fan_run run[DP_FAN_RUNS];
	__u32 last; /* that began on this CPU */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct fan_runs);
	__uint(max_entries, 1);
} fan_runs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct dp_config);
	__uint(max_entries, 1);
} config SEC(".maps");

/* The agent's own: nothing here reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct dp_meta);
	__uint(max_entries, 1);
} meta SEC(".maps");

/* enum dp_counter, or DP_COUNTER_DROPS + enum dp_drop → count */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct dp_count);
	__uint(max_entries, DP_COUNTERS);
} counters SEC(".maps");

/* number of the port → its counters */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct dp_port_counters);
	__uint(max_entries, 16);
} port_counters SEC(".maps");

/* number of the remote → its counters */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct dp_remote_counters);
	__uint(max_entries, 16);
} remote_counters SEC(".maps");
