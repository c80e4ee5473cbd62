/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of node/datapath/ share. */
#include "node/datapath/datapath.h"

#include <uthash.h>

#include "bpf/shared.h"
#include "node/datapath/numbers.h"

#define DATAPATH_PATH_MAX      512
#define DATAPATH_UNDERLAYS_MAX 16

struct mcmesh_bpf;
struct mnl_socket;
struct bpf_map;

struct dp_map_view {
	void *data;
	size_t len;
};

/* As we wrote them last: what a check compares the maps with. */
struct port {
	uint32_t ifindex; /* key */
	uint32_t number;
	struct dp_port value;
	UT_hash_handle hh;
};

struct remote {
	struct addr vtep; /* key */
	uint32_t number;
	struct dp_remote value;
	UT_hash_handle hh;
};

struct segment {
	uint32_t id; /* key */
	struct dp_segment value;
	UT_hash_handle hh;
};

struct route {
	struct dp_route_key key;
	struct dp_route value;
	UT_hash_handle hh;
};

struct datapath {
	char root[DATAPATH_PATH_MAX / 2];
	int lock_fd; /* root, under flock(2) */
	bool adopted;
	enum datapath_attach attach; /* never AUTO */
	struct addr vtep;
	struct mcmesh_bpf *skel;

	/* Memory of the mapped arrays. */
	struct dp_map_view lists_view, ports_view, remotes_view, paths_view;
	struct dp_map_view port_cache_view, vtep_cache_view, epochs_view;
	struct dp_list *lists;
	struct dp_port *ports;
	struct dp_remote *remotes;
	struct dp_path *paths;
	uint32_t *port_cache, *vtep_cache; /* each second word: elements are of eight bytes */
	uint64_t *epochs;

	/* What the maps hold, indexed. */
	struct numbers list_numbers, port_numbers, remote_numbers, path_numbers;
	struct port *port_index;
	struct remote *remote_index;
	struct route *route_index;
	struct segment *segment_index;
	struct dp_config config;
	uint32_t list_seq;

	/* fan.c */
	struct mnl_socket *fan_socket;
	bool fans_possible, fans_failed;
	uint32_t fan_min_ports;
	uint32_t fans[DP_FANS]; /* as in the map */
	uint32_t n_fans;	/* that it has room for: fewer, where an older agent made it */
	uint64_t fans_wanted;	/* bit n / 2: fan n */
	uint64_t fans_due_ms;

	uint32_t underlays[DATAPATH_UNDERLAYS_MAX]; /* that have our program */
	size_t n_underlays;

	/* The punt ring, as the kernel lays it out. */
	struct dp_map_view punt_consumer_view, punt_producer_view;
	uint32_t punt_bytes;

	uint32_t n_cpus;
};

uint64_t datapath_now_ms(void);

/* Formats *why and returns rc. */
int datapath_fail(char why[DATAPATH_WHY_MAX], int rc, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* probe.c */
int datapath_probe_privileges(char why[DATAPATH_WHY_MAX]);
bool datapath_probe_tcx(void);
int datapath_mount(const char *root, char why[DATAPATH_WHY_MAX]);

/* load.c: *dp->skel, loaded, its maps pinned or adopted. */
int datapath_load(struct datapath *dp, const struct datapath_options *options,
		  char why[DATAPATH_WHY_MAX]);
void datapath_path(const struct datapath *dp, char *buf, size_t len, const char *dir,
		   const char *name);

/* attach.c. `name` is the pin's: the ifindex, or "overlay". *ret_fresh: it was
 * not attached before. */
int datapath_attach_program(struct datapath *dp, int prog_fd, uint32_t ifindex, const char *name,
			    bool *ret_fresh, char why[DATAPATH_WHY_MAX]);
bool datapath_program_is_there(const struct datapath *dp, int prog_fd, uint32_t ifindex);
void datapath_detach_program(struct datapath *dp, uint32_t ifindex, const char *name);
void datapath_detach_clsact(uint32_t ifindex);

/* ports.c, remotes.c, routes.c: fill the indexes from the maps. In this order. */
int datapath_ports_adopt(struct datapath *dp);
int datapath_remotes_adopt(struct datapath *dp);
int datapath_routes_adopt(struct datapath *dp);
int datapath_segments_adopt(struct datapath *dp);
void datapath_ports_deinit(struct datapath *dp);
void datapath_remotes_deinit(struct datapath *dp);
void datapath_routes_deinit(struct datapath *dp);
void datapath_segments_deinit(struct datapath *dp);

/* remotes.c: NULL when it is not known. */
struct remote *datapath_remote_find(struct datapath *dp, const struct addr *vtep);

/* paths.c */
void datapath_paths_adopt(struct datapath *dp);
void datapath_path_drop(struct datapath *dp, struct remote *remote);

/* routes.c: is the list as it was written? */
bool datapath_list_is_sound(const struct datapath *dp, const struct dp_route_key *key,
			    const struct dp_route *value);

/* fan.c */
int datapath_fans_init(struct datapath *dp, const struct datapath_options *options);
void datapath_fans_deinit(struct datapath *dp);
void datapath_fans_destroy(int map_fd);
void datapath_fans_tick(struct datapath *dp, uint64_t now_ms);
uint64_t datapath_fans_next_ms(const struct datapath *dp);

/* How many chunks of a list a fan serves. */
uint32_t datapath_fan_chunks(const struct datapath *dp);

/* A list is to have so many copies made at once. What to write into its chunk. */
uint16_t datapath_fan_want(struct datapath *dp, uint32_t copies);

/* punt.c */
int datapath_punt_init(struct datapath *dp);
void datapath_punt_deinit(struct datapath *dp);

/* maps.c */
int datapath_map_view(const struct bpf_map *map, struct dp_map_view *ret_view);
void datapath_map_unview(struct dp_map_view *view);

/* Every key of a hash map, copied: *ret_keys is freed by the caller. */
int datapath_map_keys(const struct bpf_map *map, void **ret_keys, size_t *ret_n);

/* bpf(2)'s answers in the contract's words: a full table is -ENOSPC. */
int datapath_map_set(const struct bpf_map *map, const void *key, const void *value);
int datapath_map_get(const struct bpf_map *map, const void *key, void *ret_value);
int datapath_map_del(const struct bpf_map *map, const void *key);

/* check.c: one more, and the first in words. */
void datapath_differs(struct datapath_damage *damage, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* paths.c */
void datapath_underlays_check(struct datapath *dp, struct datapath_damage *damage);
