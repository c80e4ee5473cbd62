/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcmesh-sim [SEEDS] [--seed N] [--first N] [--all]
 *
 * Runs that many seeds on all processors; the first that breaks a law is run
 * again with its trace. --seed: only that one, with its trace. --all: goes on
 * after one that breaks, and names each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/world.h"

#define SEEDS_DEFAULT 200
#define TRACE_LINES   400
#define WORKERS_MAX   16

struct share {
	uint64_t next, last, broken; /* broken 0: none */
	uint64_t n_broken;
	bool all;
	uint64_t at[WORKERS_MAX];
};

static int usage(void)
{
	fprintf(stderr, "usage: mcmesh-sim [SEEDS] [--seed N] [--first N] [--all]\n");
	return 2;
}

static void work(struct share *share, unsigned int worker)
{
	FILE *null = freopen("/dev/null", "w", stdout);
	uint64_t seed;

	while (null && (share->all || !share->broken) &&
	       (seed = __atomic_fetch_add(&share->next, 1, __ATOMIC_RELAXED)) <= share->last) {
		share->at[worker] = seed;
		if (world_run(seed))
			continue;
		share->broken = seed;
		__atomic_fetch_add(&share->n_broken, 1, __ATOMIC_RELAXED);
		if (share->all)
			fprintf(stderr, "seed %llu breaks a law\n", (unsigned long long)seed);
	}
	_exit(null ? 0 : 1);
}

/* The seed that broke, or 0. */
static uint64_t run_all(struct share *share)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int n = processors > WORKERS_MAX ? WORKERS_MAX : (unsigned int)processors;
	pid_t pids[WORKERS_MAX];
	int status;

	for (unsigned int i = 0; i < n; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			work(share, i);
	}
	for (unsigned int i = 0; i < n; i++) {
		waitpid(pids[i], &status, 0);
		/* One that crashed could not say so. */
		if (WIFSIGNALED(status) && !share->broken)
			share->broken = share->at[i];
	}
	return share->broken;
}

/* Only the end of the trace is of interest; the whole of it by --seed. */
static int replay(const char *self, uint64_t seed)
{
	char command[512];

	printf("seed %llu breaks a law; the end of its trace:\n", (unsigned long long)seed);
	fflush(stdout);
	snprintf(command, sizeof(command), "'%s' --seed %llu 2>&1 | tail -n %d", self,
		 (unsigned long long)seed, TRACE_LINES);
	return system(command) ? 1 : 1;
}

int main(int argc, char **argv)
{
	struct share *share = mmap(NULL, sizeof(*share), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t seeds = SEEDS_DEFAULT, only = 0, first = 1;

	if (share == MAP_FAILED)
		return usage();
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
			only = strtoull(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc)
			first = strtoull(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--all") == 0)
			share->all = true;
		else if (argv[i][0] >= '0' && argv[i][0] <= '9')
			seeds = strtoull(argv[i], NULL, 10);
		else
			return usage();
	}
	if (only) {
		sim_tracing = true;
		setvbuf(stdout, NULL, _IOLBF, 0);
		return world_run(only) ? 0 : 1;
	}
	if (!seeds)
		return usage();
	share->next = first;
	share->last = first + seeds - 1;
	run_all(share);
	if (share->broken && share->all) {
		printf("%llu of %llu seeds break a law\n", (unsigned long long)share->n_broken,
		       (unsigned long long)seeds);
		return 1;
	}
	if (share->broken)
		return replay(argv[0], share->broken);
	printf("%llu seeds, every law held\n", (unsigned long long)seeds);
	return 0;
}
