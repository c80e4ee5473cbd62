/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A private network namespace with workloads, and a private bpffs: pN is a
 * node's side of a veth pair, wN the workload's.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/datapath/datapath.h"

#define HARNESS_ROOT  "/sys/fs/bpf/mcmesh"
#define HARNESS_FRAME 2048

/* False, and says so, without the privileges; then the test is skipped. */
bool harness_enter(unsigned int n_ports);
/* The same without TCX, for what is about its links. */
bool harness_needs_tcx(void);

struct datapath *harness_open(const struct datapath_options *options);
uint32_t harness_ifindex(const char *format, unsigned int n);
void harness_run(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Sum over labels of the counter `name`; of one interface if that is not 0. */
uint64_t harness_counter(struct datapath *dp, const char *name, uint32_t ifindex);

/* Polls until the counter is at least `want`; returns it. */
uint64_t harness_counter_wait(struct datapath *dp, const char *name, uint64_t want);

/* AF_PACKET on a device: sends, and receives what arrives from the wire. */
int harness_socket(const char *format, unsigned int n);
void harness_send(int fd, const void *frame, size_t len);

/* IP multicast frames waiting in the socket; the last one is copied. Waits up to
 * wait_ms for the first `want`; what comes within settle of the last counts. */
unsigned int harness_receive(int fd, unsigned int want, uint8_t *ret_frame, size_t *ret_len);

/* BPF_PROG_TEST_RUN of a pinned program ("port", "overlay"). */
int harness_test_run(const char *prog, uint32_t ifindex, const void *frame, size_t len);

/* Frames. Each returns its length. */
size_t frame_ipv4(uint8_t *frame, const char *source, const char *group, uint8_t proto,
		  unsigned int ihl, const void *payload, size_t len);
size_t frame_ipv6(uint8_t *frame, const char *source, const char *group, uint8_t next,
		  const void *payload, size_t len);
