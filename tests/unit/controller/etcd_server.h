/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A cluster of etcd on loopback that a test starts and ends: free ports, data
 * in a new folder, processes ended by their pid (and by the kernel, should the
 * test die).
 */
#include <stdbool.h>
#include <sys/types.h>

#define ETCD_MEMBERS_MAX 3

struct etcd_member {
	pid_t pid; /* 0: it does not run */
	int client_port, peer_port, health_port;
};

struct etcd_cluster {
	char folder[64], endpoints[128], initial[256];
	struct etcd_member members[ETCD_MEMBERS_MAX];
	int n;
	char pki[80]; /* ca.pem, c1.pem, c1.key in it: TLS with client certificates */
};

bool etcd_is_installed(void);
/* More of its command line, for members that are started from now on. */
extern const char *etcd_arguments;
/* Of loopback; nobody else has it now. */
int etcd_free_port(void);
/* Until every member answers. */
void etcd_cluster_start(struct etcd_cluster *cluster, int n);
/* With TLS; the files are made by deploy/pki of this source tree. */
void etcd_cluster_start_tls(struct etcd_cluster *cluster, const char *source_dir);
/* POST to the JSON gateway of the first member. */
void etcd_post(const struct etcd_cluster *cluster, const char *path, const char *body);
void etcd_member_start(struct etcd_cluster *cluster, int member);
/* Stops it, until SIGCONT. */
void etcd_member_freeze(struct etcd_cluster *cluster, int member);
void etcd_member_kill(struct etcd_cluster *cluster, int member);
/* Ends it and forgets all that it had. */
void etcd_member_wipe(struct etcd_cluster *cluster, int member);
void etcd_cluster_stop(struct etcd_cluster *cluster);
